/** All keys in one table: what they do, and what the help says about them. */

import { byId, make } from "./dom.js";

/**
 * @typedef {object} Key
 * @property {string[]} keys As `KeyboardEvent.key`, in small letters; "ctrl+" before those with Ctrl or Cmd.
 * @property {string} shown In the help.
 * @property {string} does
 * @property {() => void} [act] None where the focused part handles the key itself.
 */

const STORED = "chromaclick-single-keys";

/** @param {KeyboardEvent} event */
function nameOf(event) {
  const ctrl = event.ctrlKey || event.metaKey ? "ctrl+" : "";
  const shift = ctrl && event.shiftKey ? "shift+" : "";
  return ctrl + shift + event.key.toLowerCase();
}

/** @param {EventTarget | null} target */
function isTyping(target) {
  if (!(target instanceof HTMLElement)) return false;
  if (target.matches("textarea, select")) return true;
  return target instanceof HTMLInputElement && !["button", "checkbox", "radio", "range", "file"].includes(target.type);
}

export class Keyboard {
  #single = /** @type {HTMLInputElement} */ (byId("single-keys"));

  /** @param {readonly Key[]} keys */
  constructor(keys) {
    this.keys = keys;
    this.#single.checked = localStorage.getItem(STORED) !== "off";
    this.#single.addEventListener("change", () => localStorage.setItem(STORED, this.#single.checked ? "on" : "off"));
    addEventListener("keydown", (event) => this.#press(event));
    byId("keys").replaceChildren(
      ...keys.map(({ shown, does }) =>
        make("tr", {}, make("th", { scope: "row" }, ...shown.split(" ").map(keycap)), make("td", {}, does)),
      ),
    );
  }

  /** @param {KeyboardEvent} event */
  #press(event) {
    if (event.defaultPrevented || event.altKey || document.querySelector("dialog[open]")) return;
    const name = nameOf(event);
    // The colour field keeps its own undo.
    if (isTyping(event.target)) return;
    if (!name.startsWith("ctrl+") && name !== "escape" && !this.#single.checked) return;
    const key = this.keys.find(({ keys, act }) => act && keys.includes(name));
    if (!key?.act) return;
    event.preventDefault();
    key.act();
  }
}

/** @param {string} text Words such as "or" are not keys. */
function keycap(text) {
  return ["or", "and"].includes(text) ? ` ${text} ` : make("kbd", {}, text.replaceAll("_", " "));
}
