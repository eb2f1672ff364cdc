/** How photos and projects come in: chosen, dropped, pasted, or one of the samples. */

import { byId, make } from "./dom.js";

/** @param {File} file */
export function isProject(file) {
  return file.type === "application/json" || /\.json$/i.test(file.name);
}

export class Intake {
  #file = /** @type {HTMLInputElement} */ (byId("file"));
  #depth = 0;

  /**
   * @param {import("./api.js").Api} api
   * @param {object} hooks
   * @param {(files: File[]) => void} hooks.onFiles
   * @param {(error: unknown) => void} hooks.onError
   */
  constructor(api, hooks) {
    this.api = api;
    this.hooks = hooks;
    for (const button of document.querySelectorAll("[data-choose]")) {
      button.addEventListener("click", () => this.choose());
    }
    this.#file.addEventListener("change", () => {
      const files = [...(this.#file.files ?? [])];
      this.#file.value = "";
      this.#take(files);
    });
    this.#listenForDrops();
    addEventListener("paste", (event) => this.#take([...(event.clipboardData?.files ?? [])]));
  }

  choose() {
    this.#file.click();
  }

  /** @param {File[]} files */
  #take(files) {
    if (files.length > 0) this.hooks.onFiles(files);
  }

  #listenForDrops() {
    // Every element below the pointer enters and leaves: only the balance says whether a file hovers.
    const hover = (/** @type {number} */ change) => {
      this.#depth = change === 0 ? 0 : Math.max(0, this.#depth + change);
      document.body.classList.toggle("hovered", this.#depth > 0);
    };
    addEventListener("dragenter", () => hover(1));
    addEventListener("dragleave", () => hover(-1));
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
      event.preventDefault();
      hover(0);
      this.#take([...(event.dataTransfer?.files ?? [])]);
    });
  }

  async showSamples() {
    try {
      /** @type {{name: string, title: string, credit: string}[]} */
      const samples = await this.api.json({ path: "/v1/samples" });
      byId("samples").replaceChildren(...samples.map((sample) => make("li", {}, this.#sampleButton(sample))));
      byId("samples-part").hidden = samples.length === 0;
    } catch (error) {
      this.hooks.onError(error);
    }
  }

  /** @param {{name: string, title: string, credit: string}} sample */
  #sampleButton({ name, title, credit }) {
    const canvas = make("canvas", { width: "220", height: "220", "aria-hidden": "true" });
    const button = make("button", { type: "button", class: "sample", title: `${title}. ${credit}` }, canvas, make("span", {}, title));
    button.dataset.name = name;
    const path = `/v1/samples/${encodeURIComponent(name)}`;
    const loaded = this.api.send({ path }).then((response) => response.blob());
    loaded.then((blob) => paintThumbnail(canvas, blob)).catch(this.hooks.onError);
    button.addEventListener("click", () => {
      loaded.then((blob) => this.hooks.onFiles([new File([blob], name, { type: blob.type })])).catch(this.hooks.onError);
    });
    return button;
  }
}

/**
 * The middle square in grey: the colours are what the page is about to find.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {Blob} blob
 */
async function paintThumbnail(canvas, blob) {
  const picture = await createImageBitmap(blob);
  const side = Math.min(picture.width, picture.height);
  const context = canvas.getContext("2d");
  if (context) {
    context.imageSmoothingQuality = "high";
    context.filter = "grayscale(1)";
    const [left, top] = [(picture.width - side) / 2, (picture.height - side) / 2];
    context.drawImage(picture, left, top, side, side, 0, 0, canvas.width, canvas.height);
  }
  picture.close();
}
