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

  /** @param {File[]} files Photos and projects in any order; a project may come with its photo. */
  async open(files) {
    const project = files.find(isProject);
    const photo = files.find((file) => !isProject(file));
    if (!(await this.hooks.mayReplace())) return;
    try {
      if (project) await this.#openProject(read(await project.text()), photo);
      else if (photo) await this.#openPhoto(photo);
    } finally {
      this.hooks.onProgress(null);
    }
  }

  /** @param {File} file */
  async #openPhoto(file) {
    const photo = await this.upload(file, file.name || "pasted photo");
    const project = this.#waiting;
    this.#waiting = null;
    if (project && project.photo.id === photo.id) return this.#start(photo, project);
    this.session.open(photo);
    const wrong = project ? ` It is not the project's photo, ${project.photo.name}.` : "";
    return this.hooks.say(`${photo.name}, ${photo.width} × ${photo.height} pixels.${wrong}`);
  }

  /** @param {Project} project @param {File | undefined} file */
  async #openProject(project, file) {
    const photo = file ? await this.upload(file, file.name) : await this.#find(project);
    if (photo?.id === project.photo.id) return this.#start(photo, project);
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
   * @returns {Promise<Photo | null>} The photo where this page or the server still has it.
   */
  async #find({ photo: { id, name } }) {
    if (this.session.photo?.id === id) return this.session.photo;
    try {
      const { width, height, grey } = await this.api.json({ path: `/v1/photos/${id}` });
      return { id, name, width, height, grey, blob: null };
    } catch (error) {
      if (error instanceof Problem && error.status === 404) return null;
      throw error;
    }
  }

  /** @param {Photo} photo @param {Project} project */
  #start(photo, project) {
    this.#waiting = null;
    this.session.open(photo, begin(/** @type {readonly import("./types.js").Click[]} */ (project.clicks)));
    this.hooks.say(`Project opened: ${project.clicks.length} clicks on ${photo.name}.`);
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

  /** For a server that lost the photo. @param {AbortSignal} [signal] */
  async sendAgain(signal) {
    const { photo } = this.session;
    if (!photo?.blob) {
      throw new Problem(404, "photo-missing", `The server lost the photo. Open ${photo?.name ?? "it"} again.`);
    }
    try {
      await this.upload(photo.blob, photo.name, signal);
    } finally {
      this.hooks.onProgress(null);
    }
  }
}

/** @param {string} name @param {string} megabytes */
function uploadClosed(name, megabytes) {
  return `The server did not take ${name} (${megabytes} MB), most likely because it is too large. Choose a smaller file.`;
}
