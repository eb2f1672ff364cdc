/** Keeps the colouring on the stage in step with the clicks. */

import { forServer } from "./clicks.js";
import { Newest } from "./newest.js";

/** @typedef {import("./types.js").Click} Click */

/** Long side of the picture that follows a click at once. */
const QUICK = 512;
/** Long side of the picture for a large stage, fetched when the clicks rest. */
const SHARP = 1024;
const REST_MILLISECONDS = 400;

export class Colouring {
  #picture;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #resting;

  /**
   * @param {import("./api.js").Api} api
   * @param {import("./session.js").Session} session
   * @param {import("./view.js").View} view
   * @param {object} hooks
   * @param {(busy: boolean) => void} hooks.onBusy
   * @param {(clicks: readonly Click[]) => void} hooks.onShown
   * @param {(colorizer: string | null) => void} hooks.onColorizer The registry address of the network that answered.
   * @param {(error: unknown) => void} hooks.onError
   */
  constructor(api, session, view, hooks) {
    this.api = api;
    this.session = session;
    this.view = view;
    this.hooks = hooks;
    this.#picture = new Newest(hooks.onBusy);
    session.addEventListener("photo", () => {
      if (session.photo) view.open(session.photo);
      void this.#showGrey();
    });
    session.addEventListener("file", () => void this.#showGrey());
    session.addEventListener("clicks", () => this.#refresh());
  }

  async #showGrey() {
    const { photo } = this.session;
    if (!photo) return;
    try {
      const grey = await this.api.picture({ path: `/v1/photos/${photo.id}/grey?size=${SHARP}` });
      if (photo === this.session.photo) this.view.setGrey(grey);
    } catch (error) {
      if (photo === this.session.photo) this.hooks.onError(error);
    }
  }

  #refresh() {
    this.#picture.ask(...this.#question(this.session.clicks, QUICK));
  }

  /** @param {readonly Click[]} clicks While a click is dragged. */
  preview(clicks) {
    this.#picture.askWhenIdle(...this.#question(clicks, QUICK));
  }

  /**
   * @param {readonly Click[]} clicks
   * @param {number} side
   * @returns {[(signal: AbortSignal) => Promise<ImageBitmap>, (picture: ImageBitmap) => void, (error: unknown) => void]}
   */
  #question(clicks, side) {
    clearTimeout(this.#resting);
    const { photo } = this.session;
    const json = { photo: photo?.id, clicks: forServer(clicks), preview: side };
    return [
      async (signal) => {
        const response = await this.api.send({ path: "/v1/colorize", json, signal });
        const picture = await createImageBitmap(await response.blob());
        if (!signal.aborted) this.hooks.onColorizer(response.headers.get("X-Colorizer"));
        return picture;
      },
      (picture) => this.#show(picture, clicks, side),
      this.hooks.onError,
    ];
  }

  /** @param {ImageBitmap} picture @param {readonly Click[]} clicks @param {number} side */
  #show(picture, clicks, side) {
    this.view.setColouring(picture);
    this.hooks.onShown(clicks);
    const { width, height } = this.view.photo;
    if (side >= Math.min(SHARP, Math.max(width, height)) || this.view.shownSide <= QUICK * 1.2) return;
    this.#resting = setTimeout(() => this.#picture.ask(...this.#question(clicks, SHARP)), REST_MILLISECONDS);
  }
}
