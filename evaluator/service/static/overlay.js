/** A picture over the photo that a person can switch on: the heat map, or where the colorizer is unsure. */

import { forServer } from "./clicks.js";
import { Newest } from "./newest.js";

/** @typedef {import("./types.js").Click} Click */

/** Long side of the picture. */
const SIDE = 512;

export class Overlay {
  #newest = new Newest();
  shown = false;

  /**
   * @param {import("./api.js").Api} api
   * @param {import("./session.js").Session} session
   * @param {string} path Of the API, which answers with the picture.
   * @param {object} hooks
   * @param {(picture: ImageBitmap | null, clicks: readonly Click[] | null) => void} hooks.onPicture The picture of some
   *   clicks; nulls when it is hidden.
   * @param {(error: unknown) => void} hooks.onError
   */
  constructor(api, session, path, hooks) {
    this.api = api;
    this.session = session;
    this.path = path;
    this.hooks = hooks;
    session.addEventListener("clicks", () => this.shown && this.#refresh());
  }

  /** @returns {boolean} Whether it is shown now. */
  toggle() {
    this.shown = !this.shown;
    if (this.shown) {
      this.#refresh();
    } else {
      this.#newest.cancel();
      this.hooks.onPicture(null, null);
    }
    return this.shown;
  }

  #refresh() {
    const { photo, clicks } = this.session;
    const json = { photo: photo?.id, clicks: forServer(clicks), size: SIDE };
    this.#newest.ask(
      (signal) => this.api.picture({ path: this.path, json, signal }),
      (picture) => this.hooks.onPicture(picture, clicks),
      this.hooks.onError,
    );
  }
}
