/** The clicks as a list beside the photo: what a person with many clicks, or a screen reader, works with. */

import { remove, removeAll, toggleLock } from "./clicks.js";
import { nameOf } from "./color_math.js";
import { byId, icon, make } from "./dom.js";

/** @typedef {import("./types.js").Click} Click */

export class ClickList {
  #list = byId("click-list");
  #removeAll = byId("remove-all");

  /**
   * @param {import("./session.js").Session} session
   * @param {object} hooks
   * @param {(click: Click) => void} hooks.onOpen
   * @param {() => void} hooks.onLeave Focus goes to the photo.
   */
  constructor(session, hooks) {
    this.session = session;
    this.hooks = hooks;
    this.#removeAll.addEventListener("click", () => session.change(removeAll(session.clicks)));
    session.addEventListener("clicks", () => this.#render());
  }

  #render() {
    const { clicks } = this.session;
    const focused = document.activeElement;
    const row = [...this.#list.children].findIndex((one) => one.contains(focused));
    const had = row >= 0 || focused === this.#removeAll;
    this.#list.replaceChildren(...clicks.map((click, index) => this.#row(click, index)));
    byId("no-clicks").hidden = clicks.length > 0;
    this.#removeAll.hidden = clicks.every((click) => click.locked);
    const text = clicks.length === 1 ? "1 click" : `${clicks.length} clicks`;
    byId("counter").textContent = text;
    if (had) this.#refocus(focused?.getAttribute("data-focus") ?? "", Math.max(0, row));
  }

  /**
   * The rows are new, and the focused one may be gone: then its neighbour's same button, or the photo.
   *
   * @param {string} key Of the button that had the focus; empty for "Remove all".
   * @param {number} row
   */
  #refocus(key, row) {
    if (!key && !this.#removeAll.hidden) return;
    const neighbour = this.#list.children[Math.min(row, this.#list.children.length - 1)];
    const found =
      this.#list.querySelector(`[data-focus="${key}"]:enabled`) ??
      neighbour?.querySelector(`[data-focus^="${key.split("-")[0]}-"]:enabled`) ??
      neighbour?.querySelector("button");
    if (found instanceof HTMLElement) found.focus();
    else this.hooks.onLeave();
  }

  /** @param {Click} click @param {number} index */
  #row(click, index) {
    const { session } = this;
    const name = nameOf(click.colour.hex);
    const dot = make("span", { class: "dot" });
    dot.style.backgroundColor = click.colour.hex;
    const open = make("button", { type: "button", class: "click-name", "data-focus": `open-${click.id}` });
    open.append(dot, make("span", { class: "number" }, String(index + 1)), make("span", {}, name));
    open.setAttribute("aria-label", `Change click ${index + 1}, ${name} ${click.colour.hex}`);
    open.addEventListener("click", () => this.hooks.onOpen(click));
    const lock = this.#button(`lock-${click.id}`, click.locked ? "lock" : "unlock", `Lock click ${index + 1}`, () =>
      session.change(toggleLock(session.clicks, click.id)),
    );
    lock.setAttribute("aria-pressed", String(click.locked));
    const bin = this.#button(`remove-${click.id}`, "remove", `Remove click ${index + 1}`, () =>
      session.change(remove(session.clicks, click.id)),
    );
    bin.disabled = click.locked;
    return make("li", {}, open, lock, bin);
  }

  /** @param {string} key @param {string} symbol @param {string} label @param {() => void} act */
  #button(key, symbol, label, act) {
    const attributes = { type: "button", class: "icon-button", "aria-label": label, title: label, "data-focus": key };
    const button = make("button", attributes, icon(symbol));
    button.addEventListener("click", act);
    return button;
  }
}
