/**
 * The popover with colours for one place: suggested, used, all of that lightness, by numbers, or taken from a picture.
 * The first colour makes the click; further ones change it at once, so that a person can try, and undo in one step.
 */

import { add, forServer, recolour, remove, toggleLock, usedColours } from "./clicks.js";
import { ColourEntry } from "./color_entry.js";
import { fromRgb, nameOf } from "./color_math.js";
import { byId } from "./dom.js";
import { Newest } from "./newest.js";
import { Palette, swatches } from "./palette.js";
import { Reference } from "./reference.js";

/** @typedef {import("./types.js").Click} Click */
/** @typedef {import("./types.js").Place} Place */

const PALETTE_STEP = 8;
const USED_SHOWN = 12;
const GAP = 22;

export class Picker {
  #box = byId("picker");
  #palette = new Palette(byId("palette"), (hex) => this.#choose(hex));
  #entry = new ColourEntry((hex) => this.#choose(hex));
  #suggested = new Newest();
  #grid = new Newest();
  /** @type {Place | null} */
  #place = null;
  /** @type {number | null} The click that the colours go to; null until the first colour. */
  #click = null;
  /** Whether this popover has already made a step that the next colour amends. */
  #stepped = false;
  /** Whether the next tap on the photo takes its colour. */
  dropping = false;
  /** @type {number | undefined} Side of new clicks in working pixels, from the server. */
  clickSize = undefined;

  /**
   * @param {import("./api.js").Api} api
   * @param {import("./session.js").Session} session
   * @param {import("./view.js").View} view
   * @param {object} hooks
   * @param {(place: Place | null) => void} hooks.onPlace Where the popover works; null when it closes.
   * @param {(dropping: boolean) => void} hooks.onDropping
   * @param {(text: string) => void} hooks.say
   */
  constructor(api, session, view, hooks) {
    this.api = api;
    this.session = session;
    this.view = view;
    this.hooks = hooks;
    new Reference(api, session, (hex) => this.#choose(hex));
    byId("picker-close").addEventListener("click", () => this.close());
    byId("dropper").addEventListener("click", () => this.#setDropping(true));
    byId("picker-remove").addEventListener("click", () => this.#remove());
    byId("picker-lock").addEventListener("click", () => this.#lock());
    this.#box.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
    view.addEventListener("move", () => this.#position());
    session.addEventListener("photo", () => this.close());
    session.addEventListener("clicks", () => this.#clicksChanged());
  }

  get open() {
    return this.#place !== null;
  }

  /** @param {Place} place For a new click. */
  openAt(place) {
    this.#open(place, null);
  }

  /** @param {Click} click To change its colour. */
  openFor(click) {
    this.#open({ row: click.row, col: click.col }, click);
  }

  /** @param {Place} place @param {Click | null} click */
  #open(place, click) {
    this.#place = place;
    this.#click = click?.id ?? null;
    this.#stepped = false;
    this.#setDropping(false);
    this.#entry.show(click?.colour.hex ?? fromRgb(this.view.colourAt(place) ?? [128, 128, 128]) ?? "#808080");
    this.#box.hidden = false;
    this.#box.scrollTop = 0;
    this.#render();
    this.#ask(place);
    this.#position();
    this.hooks.onPlace(place);
    byId("picker-title").focus({ preventScroll: true });
  }

  close() {
    if (!this.#place) return;
    this.#place = null;
    this.#click = null;
    this.#suggested.cancel();
    this.#grid.cancel();
    this.#setDropping(false);
    this.#box.hidden = true;
    this.hooks.onPlace(null);
  }

  /** @param {Place} place */
  #ask(place) {
    const { photo, clicks } = this.session;
    const others = clicks.filter(({ id }) => id !== this.#click);
    const json = { photo: photo?.id, clicks: forServer(others), row: place.row, col: place.col };
    const list = byId("suggested");
    const error = byId("picker-error");
    const fail = (/** @type {unknown} */ reason) => (error.textContent = reason instanceof Error ? reason.message : "");
    error.textContent = "";
    list.replaceChildren();
    byId("palette").replaceChildren();
    this.#suggested.ask(
      (signal) => this.api.json({ path: "/v1/colours", json, signal }),
      ({ colours }) => list.replaceChildren(...swatches(colours, (hex) => this.#choose(hex))),
      fail,
    );
    const query = `photo=${photo?.id}&row=${place.row}&col=${place.col}&step=${PALETTE_STEP}`;
    this.#grid.ask(
      (signal) => this.api.json({ path: `/v1/palette?${query}`, signal }),
      (palette) => {
        this.#palette.show(palette);
        this.#position();
      },
      fail,
    );
  }

  /** @param {string} hex */
  #choose(hex) {
    if (!this.#place) return;
    const { session } = this;
    const before = session.clicks;
    const clicks =
      this.#click === null
        ? add(before, { ...this.#place, hex, size: this.clickSize })
        : recolour(before, this.#click, hex);
    if (clicks === before) return this.hooks.say(this.#whyNot(hex));
    if (this.#click === null) this.#click = /** @type {Click} */ (clicks.at(-1)).id;
    if (this.#stepped) session.amend(clicks);
    else session.change(clicks);
    this.#stepped = true;
    this.#entry.show(hex);
    return this.hooks.say(`Coloured ${nameOf(hex)}.`);
  }

  /** @param {string} hex */
  #whyNot(hex) {
    const click = this.session.clicks.find(({ id }) => id === this.#click);
    if (!click) return "A photo takes at most 1000 clicks. Remove one first.";
    return click.locked ? "This click is locked. Unlock it first." : `It is ${nameOf(hex)} already.`;
  }

  #remove() {
    if (this.#click === null) return;
    const clicks = remove(this.session.clicks, this.#click);
    if (clicks === this.session.clicks) return this.hooks.say("This click is locked. Unlock it first.");
    this.session.change(clicks);
    return this.close();
  }

  #lock() {
    if (this.#click === null) return;
    this.session.change(toggleLock(this.session.clicks, this.#click));
  }

  /** Undo, and changes of this click or others from elsewhere, also happen while the popover is open. */
  #clicksChanged() {
    if (!this.#place) return;
    // The step before is no longer this popover's: `#choose` says so again after a change of its own.
    this.#stepped = false;
    const click = this.session.clicks.find(({ id }) => id === this.#click);
    if (!click) this.#click = null;
    else if (click.row !== this.#place.row || click.col !== this.#place.col) this.#follow(click);
    this.#render();
  }

  /** @param {Click} click That was moved. */
  #follow({ row, col }) {
    this.#place = { row, col };
    this.#ask(this.#place);
    this.#position();
    this.hooks.onPlace(this.#place);
  }

  #render() {
    const click = this.session.clicks.find(({ id }) => id === this.#click);
    byId("picker-title").textContent = click ? "Change the colour" : "Choose a colour";
    byId("picker-actions").hidden = !click;
    byId("picker-lock").setAttribute("aria-pressed", String(click?.locked === true));
    const used = usedColours(this.session.clicks).slice(0, USED_SHOWN);
    byId("used-part").hidden = used.length === 0;
    // A new list would take the focus away from the swatch that was just pressed.
    const focused = document.activeElement instanceof HTMLElement ? document.activeElement.dataset.hex : undefined;
    const inside = byId("used").contains(document.activeElement);
    byId("used").replaceChildren(...swatches(used.map((hex) => ({ hex })), (hex) => this.#choose(hex)));
    if (inside) /** @type {HTMLElement | null} */ (byId("used").querySelector(`[data-hex="${focused}"]`))?.focus();
    for (const swatch of this.#box.querySelectorAll(".swatch")) {
      const chosen = click !== undefined && swatch.getAttribute("data-hex") === click.colour.hex;
      swatch.classList.toggle("chosen", chosen);
    }
  }

  /** @param {boolean} dropping */
  #setDropping(dropping) {
    this.dropping = dropping;
    this.#box.classList.toggle("aside", dropping);
    this.hooks.onDropping(dropping);
    if (dropping) this.hooks.say("Click on the photo to take its colour there. Escape goes back.");
  }

  /** @param {Place | null} place Where the eyedropper was used; null to go back without a colour. */
  drop(place) {
    this.#setDropping(false);
    const rgb = place && this.view.colourAt(place);
    const hex = rgb && fromRgb(rgb);
    if (hex) this.#choose(hex);
    byId("dropper").focus();
  }

  /** Beside the place, inside the window; on a narrow screen the style sheet makes it a sheet at the bottom. */
  #position() {
    if (!this.#place) return;
    const stage = this.view.canvas.getBoundingClientRect();
    const point = this.view.pointOf(this.#place);
    const { offsetWidth: width, offsetHeight: height } = this.#box;
    const right = stage.left + point.x + GAP;
    const left = right + width < innerWidth - 8 ? right : stage.left + point.x - GAP - width;
    const top = stage.top + point.y - height / 3;
    this.#box.style.left = `${Math.max(8, Math.min(innerWidth - width - 8, left))}px`;
    this.#box.style.top = `${Math.max(8, Math.min(innerHeight - height - 8, top))}px`;
  }
}
