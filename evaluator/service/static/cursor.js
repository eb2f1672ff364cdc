/** The cursor that the arrow keys move on the photo, for everybody without a pointer. */

import { inside, keyStep } from "./markers.js";

/** @type {Record<string, [number, number]>} */
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const SPOKEN_AFTER = 400;

export class Cursor {
  /** @type {import("./types.js").Place} */
  #place = { row: 0, col: 0 };
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /**
   * @param {HTMLElement} surface
   * @param {HTMLElement} cross
   * @param {import("./view.js").View} view
   * @param {object} hooks
   * @param {(place: import("./types.js").Place) => void} hooks.onEnter
   * @param {(text: string) => void} hooks.say
   */
  constructor(surface, cross, view, hooks) {
    this.cross = cross;
    this.view = view;
    this.hooks = hooks;
    surface.addEventListener("keydown", (event) => this.#key(event));
    surface.addEventListener("focus", () => this.#show(surface.matches(":focus-visible")));
    surface.addEventListener("blur", () => this.#show(false));
    surface.addEventListener("pointerdown", () => this.#show(false));
    view.addEventListener("move", () => this.#position());
  }

  /** @param {{width: number, height: number}} photo */
  centre({ width, height }) {
    this.#place = { row: Math.floor(height / 2), col: Math.floor(width / 2) };
    this.#position();
  }

  /** @param {boolean} shown */
  #show(shown) {
    this.cross.hidden = !shown;
    this.#position();
  }

  #position() {
    const { x, y } = this.view.pointOf(this.#place);
    this.cross.style.transform = `translate(${x}px, ${y}px) translate(-50%, -50%)`;
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" || event.key === " ") {
      this.hooks.onEnter(this.#place);
    } else if (event.key in STEPS) {
      const pixels = keyStep(this.view.photo) * (event.shiftKey ? 10 : 1);
      const [rows, cols] = STEPS[event.key];
      this.#place = inside(this.view.photo, this.#place.row + rows * pixels, this.#place.col + cols * pixels);
      this.view.reveal(this.#place);
      this.#show(true);
      this.#speakSoon();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  /** Once the key rests: a screen reader would choke on every step. */
  #speakSoon() {
    clearTimeout(this.#timer);
    const { row, col } = this.#place;
    this.#timer = setTimeout(() => this.hooks.say(`Row ${row}, column ${col}`), SPOKEN_AFTER);
  }
}
