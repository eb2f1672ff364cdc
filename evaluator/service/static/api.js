/**
 * The server behind one function, `send`. What passes is waited out: a server that is down, still loading, or full, and
 * an answer that breaks off. A photo that the server no longer has is sent again. Everything else is a `Problem` with
 * words for a person.
 */

import { Refusal } from "./refusal.js";

/**
 * Whether a proxy or a cluster answered in the service's place, which died or is out of reach: then the request is sent
 * again. The service's own errors are problems in JSON.
 * @param {Response} answer
 */
function isFromBetween(answer) {
  const own = (answer.headers.get("Content-Type") ?? "").startsWith("application/problem+json");
  return answer.status === 502 || answer.status === 504 || ((answer.status === 500 || answer.status === 503) && !own);
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
 * @param {Response} answer
 * @param {number} failures
 * @returns {Trouble | null} Why the same request may succeed later; null where it would not.
 */
function passes(answer, failures) {
  if (isFromBetween(answer)) return { kind: "down", seconds: backOff(failures) };
  const asked = Number(answer.headers.get("Retry-After"));
  // A 503 that names no time stays: the disk is full, or there is no network to load.
  if (answer.status !== 429 && !(answer.status === 503 && asked > 0)) return null;
  return { kind: answer.status === 429 ? "full" : "starting", seconds: asked > 0 ? asked : backOff(failures) };
}

/**
 * @typedef {object} Request
 * @property {string} path
 * @property {"GET" | "POST"} [method]
 * @property {unknown} [json]
 * @property {FormData} [form]
 * @property {AbortSignal} [signal]
 * @property {number} [seconds] Until one try counts as lost.
 * @property {(trouble: Trouble | null) => void} [onTrouble] Where its waiting is shown, if not with everybody's.
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
  /** @type {Map<string, Promise<boolean>>} By the photo's id. */
  #sendingAgain = new Map();
  #token = "";

  /**
   * @param {object} hooks
   * @param {(trouble: Trouble | null) => void} hooks.onTrouble Called when requests begin to wait, and when none does.
   * @param {(id: string) => Promise<boolean>} hooks.sendPhotoAgain Whether the page has that photo, and sent it.
   * @param {(wrong: boolean) => Promise<string | null>} hooks.askToken For a server that wants a bearer token, and
   *   whether it refused the one that it got; null where the person gives none.
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
    try {
      return await this.#sendUntilAnswered(request);
    } finally {
      this.#setTrouble(request, null);
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

  /** @param {Request} request */
  async #sendUntilAnswered(request) {
    let sentAgain = false;
    for (let failures = 1; ; failures++) {
      const token = this.#token;
      const answer = await this.#tryOnce(request);
      const trouble = answer && passes(answer, failures);
      if (answer instanceof Response && answer.ok) return answer;
      if (!(answer instanceof Response)) {
        if (request.closedMeans && failures >= TRIES_IF_CLOSED && (await this.#isAlive(request.signal))) {
          throw new Problem(0, "closed", request.closedMeans);
        }
        await this.#wait(request, { kind: "down", seconds: backOff(failures) });
      } else if (trouble) {
        await this.#wait(request, trouble);
      } else if (answer.status === 401) {
        // Another request may have asked for it meanwhile.
        if (token === this.#token) await this.#askToken();
      } else {
        const problem = await readProblem(answer);
        if (problem.slug !== "photo-missing" || sentAgain) throw problem;
        sentAgain = await this.#sendPhotoAgain(request);
        if (!sentAgain) throw problem;
      }
    }
  }

  async #askToken() {
    const token = await this.hooks.askToken(this.#token !== "");
    if (token === null) throw new Refusal("The server does nothing without its token. Reload the page to enter it.");
    this.#token = token;
  }

  /**
   * @param {Request} request
   * @returns {Promise<Response | null>} With its whole body; null where nothing answered, or the answer broke off.
   */
  async #tryOnce({ path, method, json, form, signal, seconds = TRY_SECONDS }) {
    const lost = AbortSignal.timeout(seconds * 1000);
    /** @type {Record<string, string>} */
    const headers = json === undefined ? {} : { "Content-Type": "application/json" };
    if (this.#token) headers.Authorization = `Bearer ${this.#token}`;
    try {
      const answer = await fetch(path, {
        method: method ?? (json === undefined && !form ? "GET" : "POST"),
        headers,
        body: json === undefined ? form : JSON.stringify(json),
        signal: signal ? AbortSignal.any([signal, lost]) : lost,
      });
      const { status, statusText, headers: sent } = answer;
      const body = await answer.blob();
      return new Response(body.size > 0 ? body : null, { status, statusText, headers: sent });
    } catch (error) {
      if (signal?.aborted) throw error;
      return null;
    }
  }

  /** @param {AbortSignal} [signal] */
  async #isAlive(signal) {
    return (await this.#tryOnce({ path: "/healthz", signal }))?.ok === true;
  }

  /** @param {Request} request Several may miss the photo at once: it is sent once. */
  async #sendPhotoAgain(request) {
    const id = photoOf(request);
    const sending =
      this.#sendingAgain.get(id) ?? this.hooks.sendPhotoAgain(id).finally(() => this.#sendingAgain.delete(id));
    this.#sendingAgain.set(id, sending);
    const sent = await sending;
    request.signal?.throwIfAborted();
    return sent;
  }

  /** @param {Request} request @param {Trouble} trouble */
  async #wait(request, trouble) {
    this.#setTrouble(request, trouble);
    await pause(trouble.seconds, request.signal);
  }

  /** @param {Request} request @param {Trouble | null} trouble */
  #setTrouble(request, trouble) {
    if (request.onTrouble) return request.onTrouble(trouble);
    const before = this.#troubled.size;
    if (trouble) this.#troubled.set(request, trouble);
    else this.#troubled.delete(request);
    const worst = [...this.#troubled.values()].find(({ kind }) => kind === "down") ?? [...this.#troubled.values()][0];
    if (worst || before > 0) this.hooks.onTrouble(worst ?? null);
    return undefined;
  }
}

/** @param {Request} request @returns {string} The id of the photo that it is about. */
function photoOf({ path, json }) {
  const named = /** @type {{photo?: string} | undefined} */ (json)?.photo;
  return named ?? path.match(/[0-9a-f]{64}/)?.[0] ?? "";
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
