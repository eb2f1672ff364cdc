/** What the page says: quietly (a status line), as an error (an alert), or as long as the server is away. */

import { byId } from "./dom.js";
import { Refusal } from "./refusal.js";

const STATUS_SECONDS = 6;

/** @param {import("./api.js").Trouble} trouble */
export function waiting({ kind, seconds }) {
  const texts = {
    down: "The server does not answer. Your work is safe in this browser; trying again …",
    starting: "The server is getting ready. Trying again …",
    full: `Many people colour at the moment. Trying again in ${Math.ceil(seconds)} s …`,
  };
  return texts[kind];
}

export class Notices {
  #status = byId("status");
  #alert = byId("alert");
  #alertText = byId("alert-text");
  #connection = byId("connection");
  #connectionText = byId("connection-text");
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  constructor() {
    byId("alert-close").addEventListener("click", () => this.clear());
  }

  /** @param {string} text For everybody; a screen reader says it when it has a moment. */
  say(text) {
    this.#status.textContent = text;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => (this.#status.textContent = ""), STATUS_SECONDS * 1000);
  }

  /** @param {unknown} error */
  fail(error) {
    // An aborted request was replaced by a newer one: nothing failed.
    if (error instanceof DOMException && error.name === "AbortError") return;
    this.#alertText.textContent = error instanceof Error ? error.message : String(error);
    this.#alert.hidden = false;
    if (!(error instanceof Refusal)) console.warn(error);
  }

  clear() {
    this.#alert.hidden = true;
    this.#alertText.textContent = "";
  }

  /** @param {import("./api.js").Trouble | null} trouble */
  connection(trouble) {
    if (!trouble && !this.#connection.hidden) this.say("The server answers again.");
    this.#connection.hidden = !trouble;
    if (trouble) this.#connectionText.textContent = waiting(trouble);
  }
}
