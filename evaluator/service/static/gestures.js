/** Pointers and the wheel on the stage: a tap clicks, a drag pans, two fingers pinch, the wheel zooms. */

/** Pixels that a pointer may tremble and still tap. */
const TREMBLE = 6;

/**
 * @typedef {object} GestureHooks
 * @property {(x: number, y: number) => void} onTap Stage coordinates.
 * @property {(x: number, y: number) => void} [onHover]
 */

export class Gestures {
  /** @type {Map<number, {x: number, y: number}>} */
  #pointers = new Map();
  #moved = false;
  /** @type {{x: number, y: number} | null} */
  #start = null;

  /**
   * @param {HTMLElement} surface
   * @param {import("./view.js").View} view
   * @param {GestureHooks} hooks
   */
  constructor(surface, view, hooks) {
    this.surface = surface;
    this.view = view;
    this.hooks = hooks;
    surface.addEventListener("pointerdown", (event) => this.#down(event));
    surface.addEventListener("pointermove", (event) => this.#move(event));
    surface.addEventListener("pointerup", (event) => this.#up(event));
    surface.addEventListener("pointercancel", (event) => this.#forget(event));
    surface.parentElement?.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    // At "fit" one finger scrolls the page, which matters on a phone; zoomed in, it pans the photo.
    view.addEventListener("move", () => surface.classList.toggle("zoomed", !view.fitted));
  }

  /** @param {MouseEvent} event */
  #pointOf(event) {
    const box = this.surface.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (event.button > 1) return;
    this.#pointers.set(event.pointerId, this.#pointOf(event));
    this.surface.setPointerCapture(event.pointerId);
    if (this.#pointers.size === 1) {
      this.#start = this.#pointOf(event);
      this.#moved = event.button === 1;
    } else {
      this.#moved = true;
    }
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const point = this.#pointOf(event);
    const before = this.#pointers.get(event.pointerId);
    if (!before) return this.hooks.onHover?.(point.x, point.y);
    if (this.#pointers.size === 2) this.#pinch(event.pointerId, point);
    else if (this.#isDrag(point)) this.view.pan(point.x - before.x, point.y - before.y);
    else return undefined;
    this.#pointers.set(event.pointerId, point);
  }

  /** @param {{x: number, y: number}} point */
  #isDrag(point) {
    if (!this.#start) return false;
    this.#moved ||= Math.hypot(point.x - this.#start.x, point.y - this.#start.y) > TREMBLE;
    return this.#moved;
  }

  /**
   * @param {number} id Of the finger that moved.
   * @param {{x: number, y: number}} point
   */
  #pinch(id, point) {
    const before = /** @type {{x: number, y: number}} */ (this.#pointers.get(id));
    const [other] = [...this.#pointers].filter(([key]) => key !== id).map(([, value]) => value);
    const apart = Math.hypot(before.x - other.x, before.y - other.y);
    const nowApart = Math.hypot(point.x - other.x, point.y - other.y);
    this.view.pan((point.x - before.x) / 2, (point.y - before.y) / 2);
    if (apart > 0) this.view.zoom(nowApart / apart, (point.x + other.x) / 2, (point.y + other.y) / 2);
  }

  /** @param {PointerEvent} event */
  #up(event) {
    const alone = this.#pointers.size === 1 && this.#pointers.has(event.pointerId);
    const tapped = alone && !this.#moved;
    this.#forget(event);
    const { x, y } = this.#pointOf(event);
    if (tapped) this.hooks.onTap(x, y);
  }

  /** @param {PointerEvent} event */
  #forget(event) {
    this.#pointers.delete(event.pointerId);
    if (this.#pointers.size === 0) this.#start = null;
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    event.preventDefault();
    const { x, y } = this.#pointOf(event);
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    // A pinch on a trackpad comes as a wheel with ctrlKey and small steps.
    const speed = event.ctrlKey ? 0.01 : 0.002;
    this.view.zoom(Math.exp(-event.deltaY * lines * speed), x, y);
  }
}
