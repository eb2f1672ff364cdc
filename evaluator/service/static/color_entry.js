/** A colour by its numbers: the hex field and the three of RGB follow each other. */

import { fromRgb, parseHex, toRgb } from "./color_math.js";
import { byId } from "./dom.js";

export class ColourEntry {
  #hex = /** @type {HTMLInputElement} */ (byId("hex"));
  #parts = ["red", "green", "blue"].map((id) => /** @type {HTMLInputElement} */ (byId(id)));
  #error = byId("entry-error");
  #sample = byId("entry-sample");

  /** @param {(hex: string) => void} onChoose */
  constructor(onChoose) {
    this.onChoose = onChoose;
    this.#hex.addEventListener("input", () => this.#hexTyped());
    for (const part of this.#parts) part.addEventListener("input", () => this.#partTyped());
    byId("entry").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
  }

  /** @param {string} hex */
  show(hex) {
    this.#hex.value = hex;
    toRgb(hex).forEach((value, index) => (this.#parts[index].value = String(value)));
    this.#sample.style.backgroundColor = hex;
    this.#complain("");
  }

  #hexTyped() {
    const hex = parseHex(this.#hex.value);
    if (!hex) return;
    toRgb(hex).forEach((value, index) => (this.#parts[index].value = String(value)));
    this.#sample.style.backgroundColor = hex;
    this.#complain("");
  }

  #partTyped() {
    const hex = fromRgb(this.#parts.map((part) => (part.value === "" ? NaN : Number(part.value))));
    if (!hex) return this.#complain("Red, green and blue are whole numbers from 0 to 255.");
    this.#hex.value = hex;
    this.#sample.style.backgroundColor = hex;
    return this.#complain("");
  }

  #submit() {
    const hex = parseHex(this.#hex.value);
    if (!hex) return this.#complain(`“${this.#hex.value}” is no colour. Six digits such as #3366cc are.`);
    this.show(hex);
    return this.onChoose(hex);
  }

  /** @param {string} text */
  #complain(text) {
    this.#error.textContent = text;
    this.#hex.setAttribute("aria-invalid", String(text !== ""));
  }
}
