/** The clicks as buttons on the photo: drag or arrow keys move one, Enter opens its colours, Delete removes it. */

import { move, remove, toggleLock } from "./clicks.js";
import { nameOf } from "./color_math.js";
import { icon, make } from "./dom.js";

/** @typedef {import("./types.js").Click} Click */

const DRAG_STARTS = 4;
/** @type {Record<string, [number, number]>} */
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/**
 * @param {Click} click
 * @param {number} index
 * @returns {string} For a screen reader.
 */
export function describe({ colour, row, col, locked }, index) {
  return `Click ${index + 1}: ${nameOf(colour.hex)} ${colour.hex}, row ${row}, column ${col}${locked ? ", locked" : ""}`;
}

export class Markers {
  /** @type {Map<number, HTMLButtonElement>} */
  #buttons = new Map();
  /** @type {number | null} The one click that Tab reaches. */
  #current = null;
  /** @type {{id: number, x: number, y: number, moved: boolean, place: import("./types.js").Place | null} | null} */
  #drag = null;
  /** The browser's click event comes after a drop, and must not open the colours. */
  #justDragged = false;

  /**
   * @param {HTMLElement} layer
   * @param {import("./session.js").Session} session
   * @param {import("./view.js").View} view
   * @param {object} hooks
   * @param {(click: Click) => void} hooks.onOpen
   * @param {(clicks: readonly Click[]) => void} hooks.onDrag The clicks as they would be if dropped now.
   * @param {() => void} hooks.onLeave Focus goes back to the photo.
   */
  constructor(layer, session, view, hooks) {
    this.layer = layer;
    this.session = session;
    this.view = view;
    this.hooks = hooks;
    session.addEventListener("clicks", () => this.#render());
    view.addEventListener("move", () => this.#placeAll());
    layer.addEventListener("keydown", (event) => this.#key(event));
    layer.addEventListener("pointerdown", (event) => this.#down(event));
    layer.addEventListener("pointermove", (event) => this.#moveDrag(event));
    layer.addEventListener("pointerup", () => this.#drop());
    layer.addEventListener("pointercancel", () => this.#cancelDrag());
    layer.addEventListener("click", (event) => this.#click(event));
  }

  #render() {
    const { clicks } = this.session;
    const had = this.layer.contains(document.activeElement);
    const kept = new Set(clicks.map(({ id }) => id));
    for (const [id, button] of this.#buttons) {
      if (kept.has(id)) continue;
      button.remove();
      this.#buttons.delete(id);
    }
    if (!kept.has(this.#current ?? -1)) this.#current = clicks.at(-1)?.id ?? null;
    clicks.forEach((click, index) => this.#renderOne(click, index));
    if (had && !this.layer.contains(document.activeElement)) this.focus();
  }

  /** @param {Click} click @param {number} index */
  #renderOne(click, index) {
    let button = this.#buttons.get(click.id);
    if (!button) {
      button = make("button", { type: "button", class: "marker", "data-id": String(click.id) }, make("span"), icon("lock"));
      this.#buttons.set(click.id, button);
      this.layer.append(button);
    }
    button.setAttribute("aria-label", describe(click, index));
    button.title = describe(click, index);
    button.style.setProperty("--colour", click.colour.hex);
    button.classList.toggle("locked", click.locked);
    button.tabIndex = click.id === this.#current ? 0 : -1;
    this.#place(button, click);
  }

  #placeAll() {
    for (const click of this.session.clicks) {
      const button = this.#buttons.get(click.id);
      if (button) this.#place(button, click);
    }
  }

  /** @param {HTMLElement} button @param {import("./types.js").Place} place */
  #place(button, place) {
    const { x, y } = this.view.pointOf(place);
    button.style.transform = `translate(${x}px, ${y}px) translate(-50%, -50%)`;
    // A click outside the stage is out of sight, but Tab still reaches it and brings it back.
    button.classList.toggle("outside", x < 0 || y < 0 || x > this.view.stage.width || y > this.view.stage.height);
  }

  /** @param {EventTarget | null} target @returns {Click | undefined} */
  #clickOf(target) {
    const button = target instanceof Element ? target.closest(".marker") : null;
    const id = Number(button?.getAttribute("data-id"));
    return this.session.clicks.find((click) => click.id === id);
  }

  /** Focus the current click, or the photo where there is none. */
  focus() {
    const button = this.#buttons.get(this.#current ?? -1);
    if (button) button.focus();
    else this.hooks.onLeave();
  }

  /** @param {number} id */
  #select(id) {
    this.#current = id;
    for (const [key, button] of this.#buttons) button.tabIndex = key === id ? 0 : -1;
    this.#buttons.get(id)?.focus();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const click = this.#clickOf(event.target);
    if (!click || event.ctrlKey || event.metaKey || event.altKey) return;
    if (this.#act(event, click)) {
      event.preventDefault();
      event.stopPropagation();
    }
  }

  /**
   * @param {KeyboardEvent} event
   * @param {Click} click
   * @returns {boolean} Whether the key means something here.
   */
  #act(event, click) {
    const { session } = this;
    if (event.key in STEPS) {
      this.#nudge(click, STEPS[event.key], event.shiftKey ? 10 : 1);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      session.change(remove(session.clicks, click.id));
    } else if (event.key === "l" || event.key === "L") {
      session.change(toggleLock(session.clicks, click.id));
    } else if (event.key === "PageDown" || event.key === "PageUp") {
      const { clicks } = session;
      const next = clicks.indexOf(click) + (event.key === "PageDown" ? 1 : clicks.length - 1);
      const chosen = clicks[next % clicks.length];
      this.view.reveal(chosen);
      this.#select(chosen.id);
    } else if (event.key === "Escape") {
      this.hooks.onLeave();
    } else {
      return false;
    }
    return true;
  }

  /** @param {Click} click @param {[number, number]} direction @param {number} steps */
  #nudge(click, [rows, cols], steps) {
    const pixels = steps * keyStep(this.view.photo);
    const place = inside(this.view.photo, click.row + rows * pixels, click.col + cols * pixels);
    this.session.change(move(this.session.clicks, click.id, place.row, place.col));
    this.view.reveal(place);
  }

  /** @param {PointerEvent} event */
  #down(event) {
    const click = this.#clickOf(event.target);
    if (!click || event.button !== 0) return;
    this.#justDragged = false;
    this.#drag = { id: click.id, x: event.clientX, y: event.clientY, moved: false, place: null };
    this.#current = click.id;
    if (event.target instanceof Element) event.target.closest("button")?.setPointerCapture(event.pointerId);
  }

  /** @param {PointerEvent} event */
  #moveDrag(event) {
    const drag = this.#drag;
    if (!drag) return;
    drag.moved ||= Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > DRAG_STARTS;
    const box = this.layer.getBoundingClientRect();
    const place = this.view.pixelAt(event.clientX - box.left, event.clientY - box.top);
    const { clicks } = this.session;
    const button = this.#buttons.get(drag.id);
    const locked = clicks.find(({ id }) => id === drag.id)?.locked;
    if (!drag.moved || locked || !place || !button) return;
    drag.place = place;
    button.classList.add("dragged");
    this.#place(button, place);
    this.hooks.onDrag(move(clicks, drag.id, place.row, place.col));
  }

  #drop() {
    const drag = this.#drag;
    if (drag?.place) this.session.change(move(this.session.clicks, drag.id, drag.place.row, drag.place.col));
    this.#endDrag();
  }

  #cancelDrag() {
    if (this.#drag?.place) this.hooks.onDrag(this.session.clicks);
    this.#endDrag();
    this.#placeAll();
  }

  #endDrag() {
    if (!this.#drag) return;
    this.#buttons.get(this.#drag.id)?.classList.remove("dragged");
    this.#justDragged = this.#drag.moved;
    this.#drag = null;
  }

  /** @param {MouseEvent} event */
  #click(event) {
    const dragged = this.#justDragged;
    this.#justDragged = false;
    const click = this.#clickOf(event.target);
    if (!click || dragged) return;
    this.#select(click.id);
    this.hooks.onOpen(click);
  }
}

/**
 * @param {{width: number, height: number}} photo
 * @returns {number} Photo pixels per press of an arrow key: one pixel of what the networks see.
 */
export function keyStep({ width, height }) {
  return Math.max(1, Math.round(Math.max(width, height) / 256));
}

/**
 * @param {{width: number, height: number}} photo
 * @param {number} row
 * @param {number} col
 */
export function inside({ width, height }, row, col) {
  return { row: Math.min(height - 1, Math.max(0, row)), col: Math.min(width - 1, Math.max(0, col)) };
}
