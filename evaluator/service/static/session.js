/** The person's work: one photo, its clicks with their history, and the places that were skipped. */

import { begin, amend, redo, step, undo } from "./history.js";

/** @typedef {import("./types.js").Click} Click */
/** @typedef {import("./types.js").Photo} Photo */
/** @typedef {import("./types.js").Place} Place */

/** Tells "photo" when another photo is opened, "file" when the open one gets its file, "clicks" when the clicks change. */
export class Session extends EventTarget {
  /** @type {Photo | null} */
  photo = null;
  /** @type {import("./history.js").History<readonly Click[]>} */
  history = begin(/** @type {readonly Click[]} */ ([]));
  /** @type {Place[]} */
  skipped = [];
  /** @type {string | null} The colorizer of the newest answer, as a registry address. */
  colorizer = null;

  get clicks() {
    return this.history.present;
  }

  /**
   * @param {Photo} photo
   * @param {import("./history.js").History<readonly Click[]>} [history]
   * @param {Place[]} [skipped]
   */
  open(photo, history = begin(/** @type {readonly Click[]} */ ([])), skipped = []) {
    this.photo = photo;
    this.history = history;
    this.skipped = skipped;
    this.dispatchEvent(new Event("photo"));
    this.dispatchEvent(new Event("clicks"));
  }

  /** @param {Photo} photo The open one, with its file: the work goes on, and everything is asked again. */
  attach({ blob }) {
    if (!this.photo) return;
    this.photo = { ...this.photo, blob };
    this.dispatchEvent(new Event("file"));
    this.dispatchEvent(new Event("clicks"));
  }

  /** @param {readonly Click[]} clicks */
  change(clicks) {
    this.#set(step(this.history, clicks));
  }

  /** @param {readonly Click[]} clicks As `change`, but undone together with the step before. */
  amend(clicks) {
    this.#set(amend(this.history, clicks));
  }

  undo() {
    this.#set(undo(this.history));
  }

  redo() {
    this.#set(redo(this.history));
  }

  /** @param {Place} place */
  skip({ row, col }) {
    this.skipped = [...this.skipped, { row, col }];
    this.dispatchEvent(new Event("skipped"));
  }

  forgetSkipped() {
    this.skipped = [];
    this.dispatchEvent(new Event("skipped"));
  }

  /** @param {import("./history.js").History<readonly Click[]>} history */
  #set(history) {
    if (history === this.history) return;
    this.history = history;
    this.dispatchEvent(new Event("clicks"));
  }
}
