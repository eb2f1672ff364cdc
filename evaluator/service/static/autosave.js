/**
 * The work in progress, kept in the browser's IndexedDB: the photo's file once, and the clicks at every change.
 * One piece of work is kept, whole: of two tabs on the same address the one that changed last.
 */

/**
 * @typedef {object} Saved
 * @property {import("./types.js").Photo} photo With its file.
 * @property {import("./history.js").History<readonly import("./types.js").Click[]>} history
 * @property {import("./types.js").Place[]} skipped
 */

const DATABASE = "chromaclick";
const STORE = "work";

/**
 * @template T
 * @param {IDBRequest<T>} request
 * @returns {Promise<T>}
 */
function settle(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

export class Autosave {
  /** @type {IDBDatabase | null} */
  #database = null;
  /** @type {Saved | null} */
  #waiting = null;
  #writing = false;

  /** @param {(error: Error | null) => void} onSaved Called after each write, with what went wrong. */
  constructor(onSaved) {
    this.onSaved = onSaved;
  }

  async #open() {
    if (this.#database) return this.#database;
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    this.#database = await settle(request);
    this.#database.onversionchange = () => this.#database?.close();
    return this.#database;
  }

  /** @returns {Promise<Saved | null>} */
  async load() {
    const store = (await this.#open()).transaction(STORE).objectStore(STORE);
    const [photo, work] = await Promise.all([settle(store.get("photo")), settle(store.get("work"))]);
    if (!photo || !work || work.photo !== photo.id) return null;
    return { photo, history: work.history, skipped: work.skipped };
  }

  /**
   * Changes during a write are joined into the next one.
   *
   * @param {Saved} saved
   */
  save(saved) {
    this.#waiting = saved;
    if (!this.#writing) void this.#writeAll();
  }

  async #writeAll() {
    this.#writing = true;
    while (this.#waiting) {
      const saved = this.#waiting;
      this.#waiting = null;
      try {
        await this.#write(saved);
        this.onSaved(null);
      } catch (error) {
        this.onSaved(error instanceof Error ? error : new Error(String(error)));
      }
    }
    this.#writing = false;
  }

  /** @param {Saved} saved */
  async #write({ photo, history, skipped }) {
    const transaction = (await this.#open()).transaction(STORE, "readwrite");
    const done = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error);
    });
    const store = transaction.objectStore(STORE);
    // Asked each time, in the same transaction: another tab may have put its own photo there.
    const kept = await settle(store.get("photo"));
    if (kept?.id !== photo.id || (photo.blob && !kept.blob)) store.put(photo, "photo");
    store.put({ photo: photo.id, history, skipped }, "work");
    await done;
  }
}
