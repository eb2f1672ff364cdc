/** The photo in full size as a file, and the project as a file. */

import { forServer } from "./clicks.js";
import { byId, download, stem } from "./dom.js";
import { waiting } from "./notices.js";
import { write } from "./project.js";

const EXPORT_SECONDS = 300;
/** @type {Record<string, string>} */
const ENDINGS = { png: "png", jpeg: "jpg", tiff: "tif" };

export class Export {
  #dialog = /** @type {HTMLDialogElement} */ (byId("export-dialog"));
  #form = /** @type {HTMLFormElement} */ (byId("export-form"));
  #progress = byId("export-progress");
  #error = byId("export-error");
  #start = /** @type {HTMLButtonElement} */ (byId("export-start"));
  /** @type {AbortController | null} */
  #running = null;

  /**
   * @param {import("./api.js").Api} api
   * @param {import("./session.js").Session} session
   * @param {(text: string) => void} say
   */
  constructor(api, session, say) {
    this.api = api;
    this.session = session;
    this.say = say;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#export();
    });
    this.#form.addEventListener("change", () => this.#showQuality());
    byId("quality").addEventListener("input", () => this.#showQuality());
    byId("export-cancel").addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("close", () => this.#running?.abort());
  }

  show() {
    if (!this.session.photo || this.#dialog.open) return;
    const { width, height } = this.session.photo;
    byId("export-size").textContent = `${width} × ${height} pixels, in full size`;
    this.#error.textContent = "";
    this.#showQuality();
    this.#dialog.showModal();
  }

  get #chosen() {
    const data = new FormData(this.#form);
    return { format: String(data.get("format")), quality: Number(data.get("quality")) };
  }

  #showQuality() {
    const { format, quality } = this.#chosen;
    byId("quality-part").hidden = format !== "jpeg";
    byId("quality-value").textContent = String(quality);
  }

  async #export() {
    const { photo, clicks } = this.session;
    if (!photo || this.#running) return;
    const { format, quality } = this.#chosen;
    const json = { photo: photo.id, clicks: forServer(clicks), format, ...(format === "jpeg" ? { quality } : {}) };
    const running = (this.#running = new AbortController());
    this.#setBusy(true);
    try {
      const { signal } = running;
      // The page's own notice lies behind the dialog.
      const onTrouble = (/** @type {import("./api.js").Trouble | null} */ trouble) => this.#showProgress(trouble);
      const answer = await this.api.send({ path: "/v1/export", json, signal, seconds: EXPORT_SECONDS, onTrouble });
      const blob = await answer.blob();
      const name = `${stem(photo.name)}-coloured.${ENDINGS[format]}`;
      download(blob, name);
      this.say(`Saved ${name}, ${(blob.size / 2 ** 20).toFixed(1)} MB.`);
      this.#dialog.close();
    } catch (error) {
      if (!running.signal.aborted) this.#error.textContent = error instanceof Error ? error.message : String(error);
    } finally {
      this.#running = null;
      this.#setBusy(false);
    }
  }

  /** @param {boolean} busy */
  #setBusy(busy) {
    this.#start.disabled = busy;
    this.#progress.hidden = !busy;
    this.#showProgress(null);
    if (busy) this.#error.textContent = "";
  }

  /** @param {import("./api.js").Trouble | null} trouble */
  #showProgress(trouble) {
    byId("export-progress-text").textContent = trouble ? waiting(trouble) : "Colouring in full size …";
  }

  saveProject() {
    const { photo, clicks, colorizer } = this.session;
    if (!photo) return;
    const name = `${stem(photo.name)}.chromaclick.json`;
    download(new Blob([write(photo, clicks, colorizer, new Date())], { type: "application/json" }), name);
    this.say(`Saved ${name}, ${clicks.length} clicks.`);
  }
}
