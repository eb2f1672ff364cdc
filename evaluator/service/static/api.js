/**
 * The server behind one function, `send`. What passes is waited out: a server that is down, still loading, or full.
 * A photo that the server no longer has is sent again. Everything else is a `Problem` with words for a person.
 */

import { Refusal } from "./refusal.js";

/**
 * Whether a proxy or a cluster answered in the service's place, which died or is out of reach: then the request is sent
 * again. The service's own errors are problems in JSON.
 * @param {Response} answer
 */
function isFromBetween(answer) {
  const own = (answer.headers.get("Content-Type") ?? "").startsWith("application/problem+json");
  return answer.status === 502 || answer.status === 504 || (answer.status === 500 && !own);
}

/** An answer of the server that trying again does not change. */
export class Problem extends Refusal {
  /**
   * @param {number} status
   * @param {string} slug The last word of the problem's type, such as `photo-missing`.
   * @param {string} detail
   */
  constructor(status, slug, detail) {
    super(detail);
    this.name = "Problem";
    this.status = status;
    this.slug = slug;
  }
}

/** @typedef {{kind: "down" | "starting" | "full", seconds: number}} Trouble */

/**
 * @typedef {object} Request
 * @property {string} path
 * @property {"GET" | "POST"} [method]
 * @property {unknown} [json]
 * @property {FormData} [form]
 * @property {AbortSignal} [signal]
 * @property {number} [seconds] Until one try counts as lost.
 * @property {string} [closedMeans] What it means when a living server closes the connection again and again: one
 *   that refuses a large body may do so before its answer can be read.
 */

const TRY_SECONDS = 20;
const LONGEST_WAIT = 5;
const TRIES_IF_CLOSED = 3;

/**
 * @param {number} failures So far, from 1.
 * @returns {number} Seconds: soon at first, because most servers come back at once.
 */
export function backOff(failures) {
  return Math.min(LONGEST_WAIT, 0.25 * 2 ** (failures - 1));
}

/**
 * @param {number} seconds
 * @param {AbortSignal} [signal]
 * @returns {Promise<void>} Ends early when the browser comes online; rejects when the request is taken back.
 */
export function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const finish = (/** @type {() => void} */ then) => {
      clearTimeout(timer);
      removeEventListener("online", online);
      signal?.removeEventListener("abort", abort);
      then();
    };
    const online = () => finish(resolve);
    const abort = () => finish(() => reject(signal?.reason));
    const timer = setTimeout(online, seconds * 1000);
    addEventListener("online", online);
    signal?.addEventListener("abort", abort);
    if (signal?.aborted) abort();
  });
}

export class Api {
  /** @type {Map<object, Trouble>} */
  #troubled = new Map();
  /** @type {Promise<unknown> | null} */
  #sendingAgain = null;
  #token = "";

  /**
   * @param {object} hooks
   * @param {(trouble: Trouble | null) => void} hooks.onTrouble Called when requests begin to wait, and when none does.
   * @param {(signal?: AbortSignal) => Promise<unknown>} hooks.sendPhotoAgain
   * @param {() => Promise<string>} hooks.askToken For a server that wants a bearer token.
   */
  constructor(hooks) {
    this.hooks = hooks;
  }

  /**
   * @param {Request} request
   * @returns {Promise<Response>} With a status of 2xx.
   * @throws {Problem} What the server refused. An abort rejects with the signal's reason.
   */
  async send(request) {
    const key = {};
    try {
      return await this.#sendUntilAnswered(request, key);
    } finally {
      this.#setTrouble(key, null);
    }
  }

  /** @param {Request} request @returns {Promise<any>} */
  async json(request) {
    return (await this.send(request)).json();
  }

  /** @param {Request} request @returns {Promise<ImageBitmap>} */
  async picture(request) {
    return createImageBitmap(await (await this.send(request)).blob());
  }

  /** @param {Request} request @param {object} key */
  async #sendUntilAnswered(request, key) {
    let sentAgain = false;
    for (let failures = 1; ; failures++) {
      const answer = await this.#tryOnce(request);
      if (answer instanceof Response && answer.ok) return answer;
      if (!(answer instanceof Response)) {
        if (request.closedMeans && failures >= TRIES_IF_CLOSED && (await this.#isAlive(request.signal))) {
          throw new Problem(0, "closed", request.closedMeans);
        }
        await this.#wait(key, { kind: "down", seconds: backOff(failures) }, request.signal);
      } else if (answer.status === 429 || answer.status === 503) {
        const kind = answer.status === 429 ? "full" : "starting";
        const asked = Number(answer.headers.get("Retry-After"));
        await this.#wait(key, { kind, seconds: asked > 0 ? asked : backOff(failures) }, request.signal);
      } else if (isFromBetween(answer)) {
        await this.#wait(key, { kind: "down", seconds: backOff(failures) }, request.signal);
      } else if (answer.status === 401) {
        this.#token = await this.hooks.askToken();
      } else {
        const problem = await readProblem(answer);
        if (problem.slug !== "photo-missing" || sentAgain) throw problem;
        sentAgain = true;
        await this.#sendPhotoAgain(request.signal);
      }
    }
  }

  /**
   * @param {Request} request
   * @returns {Promise<Response | null>} null where nothing answered.
   */
  async #tryOnce({ path, method, json, form, signal, seconds = TRY_SECONDS }) {
    const lost = AbortSignal.timeout(seconds * 1000);
    /** @type {Record<string, string>} */
    const headers = json === undefined ? {} : { "Content-Type": "application/json" };
    if (this.#token) headers.Authorization = `Bearer ${this.#token}`;
    try {
      return await fetch(path, {
        method: method ?? (json === undefined && !form ? "GET" : "POST"),
        headers,
        body: json === undefined ? form : JSON.stringify(json),
        signal: signal ? AbortSignal.any([signal, lost]) : lost,
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      return null;
    }
  }

  /** @param {AbortSignal} [signal] */
  async #isAlive(signal) {
    return (await this.#tryOnce({ path: "/healthz", signal }))?.ok === true;
  }

  /** @param {AbortSignal} [signal] Several requests may miss the photo at once: it is sent once. */
  async #sendPhotoAgain(signal) {
    this.#sendingAgain ??= this.hooks.sendPhotoAgain().finally(() => (this.#sendingAgain = null));
    await this.#sendingAgain;
    signal?.throwIfAborted();
  }

  /** @param {object} key @param {Trouble} trouble @param {AbortSignal} [signal] */
  async #wait(key, trouble, signal) {
    this.#setTrouble(key, trouble);
    await pause(trouble.seconds, signal);
  }

  /** @param {object} key @param {Trouble | null} trouble */
  #setTrouble(key, trouble) {
    const before = this.#troubled.size;
    if (trouble) this.#troubled.set(key, trouble);
    else this.#troubled.delete(key);
    const worst = [...this.#troubled.values()].find(({ kind }) => kind === "down") ?? [...this.#troubled.values()][0];
    if (worst || before > 0) this.hooks.onTrouble(worst ?? null);
  }
}

/**
 * @param {Response} response
 * @returns {Promise<Problem>}
 */
async function readProblem(response) {
  const text = await response.text();
  try {
    const { type, detail, title, errors } = JSON.parse(text);
    const first = Array.isArray(errors) && errors[0] ? ` (${JSON.stringify(errors[0])})` : "";
    return new Problem(response.status, String(type ?? "").split("/").pop() ?? "", `${detail ?? title}${first}`);
  } catch {
    return new Problem(response.status, "", `The server answered ${response.status} ${response.statusText}.`);
  }
}
