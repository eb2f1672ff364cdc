/** Swatches, and the grid of all colours that a pixel of one lightness can have. */

import { nameOf } from "./color_math.js";
import { make } from "./dom.js";

/** @typedef {{a: number, b: number, hex: string}} GridColour */

/**
 * @param {readonly {hex: string, probability?: number | null}[]} colours
 * @param {(hex: string) => void} onChoose
 * @returns {HTMLButtonElement[]}
 */
export function swatches(colours, onChoose) {
  return colours.map(({ hex, probability }) => {
    const share = probability == null ? "" : `, ${Math.round(probability * 100)} %`;
    const label = `${nameOf(hex)} ${hex}${share}`;
    const button = make("button", { type: "button", class: "swatch", "aria-label": label, title: label });
    button.dataset.hex = hex;
    button.style.backgroundColor = hex;
    button.addEventListener("click", () => onChoose(hex));
    return button;
  });
}

/**
 * One stop for Tab; the arrow keys walk through the colours, Enter takes one. Hundreds of buttons would be in the way.
 */
export class Palette {
  /** @type {Map<string, HTMLElement>} From "a,b". */
  #cells = new Map();
  /** @type {GridColour | null} */
  #current = null;
  #step = 8;

  /**
   * @param {HTMLElement} box With the role listbox.
   * @param {(hex: string) => void} onChoose
   */
  constructor(box, onChoose) {
    this.box = box;
    this.onChoose = onChoose;
    /** @type {readonly GridColour[]} */
    this.colours = [];
    box.addEventListener("keydown", (event) => this.#key(event));
    box.addEventListener("focus", () => this.#point(this.#current ?? this.#nearest(0, 0)));
    box.addEventListener("click", (event) => {
      const index = event.target instanceof HTMLElement ? event.target.dataset.index : undefined;
      if (index === undefined) return;
      this.#point(this.colours[Number(index)]);
      this.onChoose(this.colours[Number(index)].hex);
    });
  }

  /** @param {{step: number, colours: readonly GridColour[]}} palette */
  show({ step, colours }) {
    this.colours = colours;
    this.#step = step;
    this.#current = null;
    this.#cells.clear();
    this.box.removeAttribute("aria-activedescendant");
    const left = Math.min(...colours.map(({ a }) => a));
    const top = Math.max(...colours.map(({ b }) => b));
    this.box.replaceChildren(...colours.map((colour, index) => this.#cell(colour, index, left, top)));
  }

  /** @param {GridColour} colour @param {number} index @param {number} left @param {number} top */
  #cell({ a, b, hex }, index, left, top) {
    const label = `${nameOf(hex)} ${hex}`;
    const cell = make("div", { role: "option", id: `palette-${index}`, "aria-label": label, "aria-selected": "false" });
    cell.title = hex;
    cell.dataset.index = String(index);
    cell.style.backgroundColor = hex;
    cell.style.gridColumn = String(1 + Math.round((a - left) / this.#step));
    cell.style.gridRow = String(1 + Math.round((top - b) / this.#step));
    this.#cells.set(`${a},${b}`, cell);
    return cell;
  }

  /** @param {number} a @param {number} b */
  #nearest(a, b) {
    const distance = (/** @type {GridColour} */ colour) => Math.hypot(colour.a - a, colour.b - b);
    return this.colours.reduce((best, colour) => (distance(colour) < distance(best) ? colour : best), this.colours[0]);
  }

  /** @param {GridColour | undefined} colour */
  #point(colour) {
    if (!colour) return;
    for (const cell of this.#cells.values()) cell.setAttribute("aria-selected", "false");
    const cell = this.#cells.get(`${colour.a},${colour.b}`);
    cell?.setAttribute("aria-selected", "true");
    if (cell) this.box.setAttribute("aria-activedescendant", cell.id);
    this.#current = colour;
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const at = this.#current;
    if (!at) return;
    const step = this.#step * (event.shiftKey ? 4 : 1);
    /** @type {Record<string, () => void>} */
    const acts = {
      ArrowLeft: () => this.#point(this.#nearest(at.a - step, at.b)),
      ArrowRight: () => this.#point(this.#nearest(at.a + step, at.b)),
      ArrowUp: () => this.#point(this.#nearest(at.a, at.b + step)),
      ArrowDown: () => this.#point(this.#nearest(at.a, at.b - step)),
      Home: () => this.#point(this.#nearest(0, 0)),
      Enter: () => this.onChoose(at.hex),
      " ": () => this.onChoose(at.hex),
    };
    if (!(event.key in acts)) return;
    event.preventDefault();
    event.stopPropagation();
    acts[event.key]();
  }
}
