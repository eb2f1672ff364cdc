/**
 * The newest answer wins: a new question takes back the one on the way, and an answer that comes all the same
 * (because it was already being decoded) is dropped by its number.
 */
export class Newest {
  #asked = 0;
  /** @type {AbortController | null} */
  #running = null;
  /** @type {(() => void) | null} */
  #waiting = null;

  /** @param {(busy: boolean) => void} onBusy */
  constructor(onBusy = () => {}) {
    this.onBusy = onBusy;
  }

  /**
   * @template T
   * @param {(signal: AbortSignal) => Promise<T>} question
   * @param {(answer: T) => void} show
   * @param {(error: unknown) => void} fail
   */
  async ask(question, show, fail) {
    this.cancel();
    const number = ++this.#asked;
    const controller = new AbortController();
    this.#running = controller;
    this.onBusy(true);
    try {
      const answer = await question(controller.signal);
      if (number === this.#asked) show(answer);
    } catch (error) {
      if (number === this.#asked) fail(error);
    } finally {
      if (number === this.#asked) this.#done();
    }
  }

  /**
   * While a click is dragged: let the answer on the way come, so that something is seen, then ask the latest only.
   *
   * @template T
   * @param {(signal: AbortSignal) => Promise<T>} question
   * @param {(answer: T) => void} show
   * @param {(error: unknown) => void} fail
   */
  askWhenIdle(question, show, fail) {
    const start = () => void this.ask(question, show, fail);
    if (this.#running) this.#waiting = start;
    else start();
  }

  /** Forget what is on the way and what waits. */
  cancel() {
    this.#asked++;
    this.#waiting = null;
    this.#running?.abort();
    this.#running = null;
    this.onBusy(false);
  }

  #done() {
    this.#running = null;
    const next = this.#waiting;
    this.#waiting = null;
    if (next) next();
    else this.onBusy(false);
  }
}
