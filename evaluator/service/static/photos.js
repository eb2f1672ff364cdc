/** A photo's way to the server and into the session, and a project's way to its photo. */

import { Problem } from "./api.js";
import { read } from "./project.js";
import { begin } from "./history.js";
import { isProject } from "./intake.js";
import { Refusal } from "./refusal.js";

/** @typedef {import("./types.js").Photo} Photo */
/** @typedef {import("./project.js").Project} Project */

const UPLOAD_SECONDS = 300;

export class Photos {
  /** @type {Project | null} A project that waits for its photo. */
  #waiting = null;
  /** @type {AbortController | null} What is being opened: the newest alone. */
  #opening = null;
  /** The colorizer of the opened project, until the first answer. */
  #madeWith = "";

  /**
   * @param {import("./api.js").Api} api
   * @param {import("./session.js").Session} session
   * @param {object} hooks
   * @param {(text: string) => void} hooks.say
   * @param {(text: string | null) => void} hooks.onProgress What is being done to a file; null when it is over.
   * @param {() => Promise<boolean>} hooks.mayReplace Whether the present work may go.
   */
  constructor(api, session, hooks) {
    this.api = api;
    this.session = session;
    this.hooks = hooks;
  }

  /**
   * What was still being opened is given up: an upload that takes longer must not replace newer work. Whether the
   * present work may go is asked last, when there is something to put in its place.
   *
   * @param {File[]} files Photos and projects in any order; a project may come with its photo.
   */
  async open(files) {
    const project = files.find(isProject);
    const photo = files.find((file) => !isProject(file));
    this.#opening?.abort();
    const opening = (this.#opening = new AbortController());
    try {
      const said = project
        ? await this.#openProject(await project.text(), photo, opening.signal)
        : photo && (await this.#openPhoto(photo, opening.signal));
      const others = files.filter((file) => file !== project && file !== photo).length;
      if (said) this.hooks.say(said + notOpened(others));
    } finally {
      if (this.#opening === opening) this.hooks.onProgress(null);
    }
  }

  /** @param {File} file @param {AbortSignal} signal @returns {Promise<string>} What to say; empty where nothing was opened. */
  async #openPhoto(file, signal) {
    const photo = await this.upload(file, file.name || "pasted photo", signal);
    const project = this.#waiting;
    if (project && project.photo.id === photo.id) return this.#start(photo, project, signal);
    if (photo.id === this.session.photo?.id) {
      signal.throwIfAborted();
      this.session.attach(photo);
      return `${photo.name} is open already. Its clicks stay.`;
    }
    if (!(await this.#mayReplace(signal))) return "";
    this.#waiting = null;
    this.#madeWith = "";
    this.session.open(photo);
    const wrong = project ? ` It is not the project's photo, ${project.photo.name}.` : "";
    return `${photo.name}, ${photo.width} × ${photo.height} pixels.${wrong}`;
  }

  /** @param {AbortSignal} signal @throws The signal's reason, where something else was opened meanwhile. */
  async #mayReplace(signal) {
    signal.throwIfAborted();
    this.hooks.onProgress(null);
    const may = await this.hooks.mayReplace();
    signal.throwIfAborted();
    return may;
  }

  /** @param {string} text @param {File | undefined} file @param {AbortSignal} signal @returns {Promise<string>} As `#openPhoto`. */
  async #openProject(text, file, signal) {
    const project = read(text);
    const photo = file ? await this.upload(file, file.name, signal) : await this.#find(project, signal);
    if (photo?.id === project.photo.id) return this.#start(photo, project, signal);
    signal.throwIfAborted();
    this.#waiting = project;
    const { name, width, height } = project.photo;
    throw new Refusal(
      photo
        ? `${photo.name} is not the photo of this project, which is ${name} (${width} × ${height}). Choose that file.`
        : `Now choose the project's photo: ${name} (${width} × ${height}). The server does not have it any more.`,
    );
  }

  /**
   * @param {Project} project
   * @param {AbortSignal} signal
   * @returns {Promise<Photo | null>} The photo where this page or the server still has it.
   */
  async #find({ photo: { id, name } }, signal) {
    if (this.session.photo?.id === id) return this.session.photo;
    try {
      const { width, height, grey } = await this.api.json({ path: `/v1/photos/${id}`, signal });
      return { id, name, width, height, grey, blob: null };
    } catch (error) {
      if (error instanceof Problem && error.status === 404) return null;
      throw error;
    }
  }

  /** @param {Photo} photo @param {Project} project @param {AbortSignal} signal @returns {Promise<string>} As `#openPhoto`. */
  async #start(photo, project, signal) {
    const { width, height } = project.photo;
    if (width !== photo.width || height !== photo.height) {
      throw new Refusal(
        `The project is for ${width} × ${height} pixels, but ${photo.name} has ${photo.width} × ${photo.height}. ` +
          "The file is damaged: save it again.",
      );
    }
    if (!(await this.#mayReplace(signal))) return "";
    this.#waiting = null;
    this.#madeWith = project.colorizer;
    this.session.open(photo, begin(/** @type {readonly import("./types.js").Click[]} */ (project.clicks)));
    return `Project opened: ${project.clicks.length} clicks on ${photo.name}.`;
  }

  /** @param {string | null} colorizer Of an answer. Another one than the opened project's is said once. */
  answeredBy(colorizer) {
    this.session.colorizer = colorizer;
    if (this.#madeWith && colorizer && colorizer !== this.#madeWith) {
      this.hooks.say(`The project was made with ${this.#madeWith}; now ${colorizer} colours it, which may look different.`);
    }
    this.#madeWith = "";
  }

  /**
   * @param {Blob} blob
   * @param {string} name
   * @param {AbortSignal} [signal]
   * @returns {Promise<Photo>}
   */
  async upload(blob, name, signal) {
    const megabytes = (blob.size / 2 ** 20).toFixed(1);
    this.hooks.onProgress(`Reading ${name} (${megabytes} MB) …`);
    const form = new FormData();
    form.set("file", blob, name);
    const { id, width, height, grey } = await this.api.json({
      path: "/v1/photos", form, signal, seconds: UPLOAD_SECONDS, closedMeans: uploadClosed(name, megabytes),
    });
    return { id, name, width, height, grey, blob };
  }

  /**
   * For a server that lost a photo.
   *
   * @param {string} id
   * @returns {Promise<boolean>} Whether it was sent; not where another one is open.
   */
  async sendAgain(id) {
    const { photo } = this.session;
    if (photo?.id !== id) return false;
    if (!photo.blob) throw new Problem(404, "photo-missing", `The server lost the photo. Open ${photo.name} again.`);
    try {
      await this.upload(photo.blob, photo.name);
    } finally {
      this.hooks.onProgress(null);
    }
    return true;
  }
}

/** @param {number} count @returns {string} */
function notOpened(count) {
  if (count === 0) return "";
  return ` ${count === 1 ? "1 other file was" : `${count} other files were`} not opened: one photo at a time.`;
}

/** @param {string} name @param {string} megabytes */
function uploadClosed(name, megabytes) {
  return `The server did not take ${name} (${megabytes} MB), most likely because it is too large. Choose a smaller file.`;
}
