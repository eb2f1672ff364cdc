/** The stage's canvas: the grey photo, the colouring over it, overlays, and the divider of before and after. */

import { fit, keepInside, pan, pixelAt, pointOf, reveal, zoomAround } from "./transform.js";

/** @typedef {import("./types.js").Place} Place */
/** @typedef {{width: number, height: number}} Size */

/** Side of the square that the eyedropper averages, in pixels of the colouring. */
const DROPPER_SIDE = 3;

/** Tells "move" when the photo's place on the stage changes, and "fit" when the zoom is (or no longer is) "fit". */
export class View extends EventTarget {
  /** @type {Size} */
  photo = { width: 1, height: 1 };
  /** @type {Size} */
  stage = { width: 1, height: 1 };
  transform = { scale: 1, x: 0, y: 0 };
  fitted = true;
  /** @type {number | null} Share of the photo, from the left, that shows the grey photo; null without comparison. */
  divider = null;
  /** @type {ImageBitmap | null} */
  #grey = null;
  /** @type {ImageBitmap | null} */
  #colouring = null;
  /** @type {Map<string, ImageBitmap>} By name, the first one lowest. */
  #overlays = new Map();
  /** @type {OffscreenCanvasRenderingContext2D | null} The colouring's pixels, for the eyedropper. */
  #pixels = null;
  #frame = 0;

  /**
   * @param {HTMLElement} stage
   * @param {HTMLCanvasElement} canvas
   */
  constructor(stage, canvas) {
    super();
    this.canvas = canvas;
    this.context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    new ResizeObserver(() => this.#resize(stage.clientWidth, stage.clientHeight)).observe(stage);
  }

  /** @param {number} width @param {number} height */
  #resize(width, height) {
    if (width === 0 || height === 0) return;
    this.stage = { width, height };
    this.canvas.width = Math.round(width * devicePixelRatio);
    this.canvas.height = Math.round(height * devicePixelRatio);
    this.#set(this.fitted ? fit(this.stage, this.photo) : keepInside(this.transform, this.stage, this.photo));
    // Setting a canvas's size clears it: drawing in the same frame avoids a flash.
    this.#draw();
  }

  /** @param {Size} photo */
  open({ width, height }) {
    this.photo = { width, height };
    for (const layer of [this.#grey, this.#colouring, ...this.#overlays.values()]) layer?.close();
    this.#grey = this.#colouring = this.#pixels = null;
    this.#overlays.clear();
    this.showAll();
  }

  /** @param {ImageBitmap} grey */
  setGrey(grey) {
    this.#grey?.close();
    this.#grey = grey;
    this.#redraw();
  }

  /** @param {ImageBitmap} colouring */
  setColouring(colouring) {
    this.#colouring?.close();
    this.#colouring = colouring;
    this.#pixels = null;
    this.#redraw();
  }

  /** @param {string} name @param {ImageBitmap | null} picture */
  setOverlay(name, picture) {
    this.#overlays.get(name)?.close();
    if (picture) this.#overlays.set(name, picture);
    else this.#overlays.delete(name);
    this.#redraw();
  }

  /** @param {number | null} divider */
  setDivider(divider) {
    this.divider = divider === null ? null : Math.min(1, Math.max(0, divider));
    this.#redraw();
  }

  showAll() {
    this.fitted = true;
    this.#set(fit(this.stage, this.photo));
  }

  /** @param {number} factor @param {number} [x] @param {number} [y] Stage point that stays; its middle by default. */
  zoom(factor, x = this.stage.width / 2, y = this.stage.height / 2) {
    this.#moveTo(zoomAround(this.transform, factor, x, y, this.stage, this.photo));
  }

  /** @param {number} dx @param {number} dy */
  pan(dx, dy) {
    this.#moveTo(pan(this.transform, dx, dy, this.stage, this.photo));
  }

  /** @param {Place} place */
  reveal(place) {
    if (!this.fitted) this.#moveTo(reveal(this.transform, place, this.stage, this.photo));
  }

  /** @param {import("./types.js").Transform} transform */
  #moveTo(transform) {
    this.fitted = transform.scale <= fit(this.stage, this.photo).scale * 1.0001;
    this.#set(transform);
  }

  /** @param {import("./types.js").Transform} transform */
  #set(transform) {
    this.transform = transform;
    this.dispatchEvent(new Event("move"));
    this.#redraw();
  }

  /** @param {number} x @param {number} y */
  pixelAt(x, y) {
    return pixelAt(this.transform, x, y, this.photo);
  }

  /** @param {Place} place */
  pointOf(place) {
    return pointOf(this.transform, place);
  }

  /** @returns {number} The photo's long side on the screen, in device pixels. */
  get shownSide() {
    return Math.max(this.photo.width, this.photo.height) * this.transform.scale * devicePixelRatio;
  }

  /**
   * @param {Place} place
   * @returns {[number, number, number] | null} The colouring's mean colour there; null before the first colouring.
   */
  colourAt({ row, col }) {
    if (!this.#colouring) return null;
    const { width, height } = this.#colouring;
    if (!this.#pixels) {
      this.#pixels = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
      this.#pixels?.drawImage(this.#colouring, 0, 0);
    }
    if (!this.#pixels) return null;
    const x = Math.floor(((col + 0.5) * width) / this.photo.width);
    const y = Math.floor(((row + 0.5) * height) / this.photo.height);
    return meanColour(this.#pixels, x, y);
  }

  #redraw() {
    if (!this.#frame) this.#frame = requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const { context, canvas, transform, photo } = this;
    const { scale, x, y } = transform;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.setTransform(scale * devicePixelRatio, 0, 0, scale * devicePixelRatio, x * devicePixelRatio, y * devicePixelRatio);
    context.imageSmoothingQuality = "high";
    if (this.#grey) context.drawImage(this.#grey, 0, 0, photo.width, photo.height);
    context.save();
    this.#clipToAfter();
    if (this.#colouring) context.drawImage(this.#colouring, 0, 0, photo.width, photo.height);
    context.restore();
    for (const overlay of this.#overlays.values()) context.drawImage(overlay, 0, 0, photo.width, photo.height);
  }

  #clipToAfter() {
    if (this.divider === null) return;
    const left = this.divider * this.photo.width;
    this.context.beginPath();
    this.context.rect(left, 0, this.photo.width - left, this.photo.height);
    this.context.clip();
  }
}

/**
 * @param {CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D} context
 * @param {number} x
 * @param {number} y
 * @returns {[number, number, number]} Mean of the square around (x, y), rounded.
 */
export function meanColour(context, x, y) {
  const half = (DROPPER_SIDE - 1) / 2;
  const left = Math.max(0, Math.min(context.canvas.width - DROPPER_SIDE, x - half));
  const top = Math.max(0, Math.min(context.canvas.height - DROPPER_SIDE, y - half));
  const { data } = context.getImageData(left, top, DROPPER_SIDE, DROPPER_SIDE);
  const sums = [0, 0, 0];
  for (let index = 0; index < data.length; index++) if (index % 4 < 3) sums[index % 4] += data[index];
  const count = data.length / 4;
  return [Math.round(sums[0] / count), Math.round(sums[1] / count), Math.round(sums[2] / count)];
}
