/** A picture to take colours from: any file of the person's, or the photo's own colours where it has some. */

import { byId } from "./dom.js";
import { fromRgb } from "./color_math.js";
import { meanColour } from "./view.js";

/** Long side of the reference picture; it is only looked at and picked from. */
const SIDE = 1024;
/** @type {Record<string, [number, number]>} */
const STEPS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };

export class Reference {
  #canvas = /** @type {HTMLCanvasElement} */ (byId("reference"));
  #file = /** @type {HTMLInputElement} */ (byId("reference-file"));
  #own = byId("reference-own");
  #error = byId("reference-error");
  #cross = byId("reference-cross");
  /** @type {ImageBitmap | null} */
  #picture = null;
  #at = { x: 0, y: 0 };

  /**
   * @param {import("./api.js").Api} api
   * @param {import("./session.js").Session} session
   * @param {(hex: string) => void} onChoose
   */
  constructor(api, session, onChoose) {
    this.api = api;
    this.session = session;
    this.onChoose = onChoose;
    byId("reference-choose").addEventListener("click", () => this.#file.click());
    this.#file.addEventListener("change", () => void this.#chooseFile());
    this.#own.addEventListener("click", () => void this.#takeOwn());
    this.#canvas.addEventListener("click", (event) => this.#clicked(event));
    this.#canvas.addEventListener("keydown", (event) => this.#key(event));
    session.addEventListener("photo", () => this.#photoChanged());
    session.addEventListener("file", () => this.#photoChanged());
  }

  #photoChanged() {
    this.#own.hidden = !this.session.photo?.blob || this.session.photo.grey;
  }

  async #chooseFile() {
    const file = this.#file.files?.[0];
    this.#file.value = "";
    if (!file) return;
    try {
      this.#show(await createImageBitmap(file));
    } catch {
      this.#complain(`This browser cannot show ${file.name}. Choose a JPEG, PNG or WebP picture.`);
    }
  }

  /** The server decodes every format it takes, also those that the browser cannot. */
  async #takeOwn() {
    const { photo } = this.session;
    if (!photo?.blob) return;
    const form = new FormData();
    form.set("keep_colours", "true");
    form.set("file", photo.blob, photo.name);
    try {
      const { id } = await this.api.json({ path: "/v1/photos", form, seconds: 300 });
      this.#show(await this.api.picture({ path: `/v1/photos/${id}/reference?size=${SIDE}` }));
    } catch (error) {
      this.#complain(error instanceof Error ? error.message : String(error));
    }
  }

  /** @param {string} text */
  #complain(text) {
    this.#error.textContent = text;
  }

  /** @param {ImageBitmap} picture */
  #show(picture) {
    const scale = Math.min(1, SIDE / Math.max(picture.width, picture.height));
    this.#canvas.width = Math.max(3, Math.round(picture.width * scale));
    this.#canvas.height = Math.max(3, Math.round(picture.height * scale));
    this.#context().drawImage(picture, 0, 0, this.#canvas.width, this.#canvas.height);
    this.#picture?.close();
    this.#picture = picture;
    byId("reference-box").hidden = false;
    this.#moveTo(this.#canvas.width / 2, this.#canvas.height / 2);
    this.#complain("");
  }

  #context() {
    const context = this.#canvas.getContext("2d", { willReadFrequently: true });
    return /** @type {CanvasRenderingContext2D} */ (context);
  }

  /** @param {number} x @param {number} y */
  #moveTo(x, y) {
    const { width, height } = this.#canvas;
    this.#at = { x: Math.min(width - 1, Math.max(0, Math.round(x))), y: Math.min(height - 1, Math.max(0, Math.round(y))) };
    this.#cross.style.left = `${(100 * (this.#at.x + 0.5)) / width}%`;
    this.#cross.style.top = `${(100 * (this.#at.y + 0.5)) / height}%`;
  }

  #take() {
    const hex = fromRgb(meanColour(this.#context(), this.#at.x, this.#at.y));
    if (hex) this.onChoose(hex);
  }

  /** @param {MouseEvent} event */
  #clicked(event) {
    const box = this.#canvas.getBoundingClientRect();
    const { width, height } = this.#canvas;
    this.#moveTo(((event.clientX - box.left) * width) / box.width, ((event.clientY - box.top) * height) / box.height);
    this.#take();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.key === "Enter" || event.key === " ") {
      this.#take();
    } else if (event.key in STEPS) {
      const pixels = Math.max(1, Math.round(this.#canvas.width / 100)) * (event.shiftKey ? 10 : 1);
      const [x, y] = STEPS[event.key];
      this.#moveTo(this.#at.x + x * pixels, this.#at.y + y * pixels);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
}
