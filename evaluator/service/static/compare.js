/** The slider between before (left) and after (right): a handle on the photo, for pointer and keyboard. */

const STEP = 0.05;

export class Compare {
  /**
   * @param {HTMLElement} handle With the role slider.
   * @param {HTMLElement} toggle A button with aria-pressed.
   * @param {import("./view.js").View} view
   * @param {(on: boolean) => void} onToggle
   */
  constructor(handle, toggle, view, onToggle) {
    this.onToggle = onToggle;
    this.handle = handle;
    this.button = toggle;
    this.view = view;
    toggle.addEventListener("click", () => this.toggle());
    view.addEventListener("move", () => this.#place());
    handle.addEventListener("keydown", (event) => this.#key(event));
    handle.addEventListener("pointerdown", (event) => handle.setPointerCapture(event.pointerId));
    handle.addEventListener("pointermove", (event) => this.#drag(event));
  }

  toggle() {
    const on = this.view.divider === null;
    this.#set(on ? 0.5 : null);
    this.handle.hidden = !on;
    this.button.setAttribute("aria-pressed", String(on));
    this.onToggle(on);
    if (on) this.handle.focus();
  }

  /** @param {number | null} share */
  #set(share) {
    this.view.setDivider(share);
    this.#place();
    const percent = Math.round((this.view.divider ?? 0) * 100);
    this.handle.setAttribute("aria-valuenow", String(percent));
    this.handle.setAttribute("aria-valuetext", `${percent} percent grey, ${100 - percent} percent coloured`);
  }

  #place() {
    const { divider, transform, photo } = this.view;
    if (divider === null) return;
    this.handle.style.left = `${transform.x + divider * photo.width * transform.scale}px`;
  }

  /** @param {PointerEvent} event */
  #drag(event) {
    if (!this.handle.hasPointerCapture(event.pointerId)) return;
    const left = this.handle.parentElement?.getBoundingClientRect().left ?? 0;
    const { transform, photo } = this.view;
    this.#set((event.clientX - left - transform.x) / (photo.width * transform.scale));
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const now = this.view.divider ?? 0.5;
    /** @type {Record<string, number>} */
    const places = {
      ArrowLeft: now - STEP, ArrowDown: now - STEP, ArrowRight: now + STEP, ArrowUp: now + STEP,
      PageDown: now - 4 * STEP, PageUp: now + 4 * STEP, Home: 0, End: 1,
    };
    if (!(event.key in places)) return;
    event.preventDefault();
    event.stopPropagation();
    this.#set(places[event.key]);
  }
}
