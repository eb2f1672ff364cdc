/** The place where the next click helps most: it pulses on the photo, with colours beside it. */

import { add, forServer } from "./clicks.js";
import { nameOf } from "./color_math.js";
import { byId } from "./dom.js";
import { Newest } from "./newest.js";
import { swatches } from "./palette.js";

/** @typedef {import("./types.js").SuggestedPlace} SuggestedPlace */

const PLACES = 3;
/** The API's limit. */
const MOST_AVOIDED = 1000;
const COLOURS = 5;
const GAP = 24;

export class Suggestions {
  #card = byId("suggestion");
  #pulse = byId("pulse");
  #newest = new Newest();
  /** @type {SuggestedPlace[]} */
  #places = [];
  #place = 0;
  #colour = 0;
  /** Whether the places belong to the present clicks. */
  #fresh = false;
  /** Whether they were not asked for yet. */
  #awaited = false;
  /** Hidden while a person works at another place. */
  #aside = false;
  /** Whether the person wants suggestions at all. */
  wanted = true;
  /** @type {number | undefined} */
  clickSize = undefined;

  /**
   * @param {import("./api.js").Api} api
   * @param {import("./session.js").Session} session
   * @param {import("./view.js").View} view
   * @param {object} hooks
   * @param {(error: unknown) => void} hooks.onError
   * @param {(text: string) => void} hooks.say
   */
  constructor(api, session, view, hooks) {
    this.api = api;
    this.session = session;
    this.view = view;
    this.hooks = hooks;
    this.#pulse.addEventListener("click", () => this.accept());
    byId("next-colour").addEventListener("click", () => this.nextColour());
    byId("another-place").addEventListener("click", () => this.anotherPlace());
    byId("skip-place").addEventListener("click", () => this.skip());
    byId("accept-colour").addEventListener("click", () => this.accept());
    byId("show-skipped").addEventListener("click", () => session.forgetSkipped());
    session.addEventListener("photo", () => this.#forget());
    session.addEventListener("clicks", () => this.#outdate());
    session.addEventListener("skipped", () => this.#ask());
    view.addEventListener("move", () => this.#position());
  }

  #outdate() {
    this.#newest.cancel();
    this.#awaited = true;
    this.#setFresh(false);
  }

  /**
   * Asks for the next place once the colouring of the present clicks is there, or does not come: it would take longer if
   * both were computed at the same time, and it is what a person waits for.
   *
   * @param {readonly import("./types.js").Click[]} clicks Those of the colouring.
   */
  coloured(clicks) {
    if (this.#awaited && clicks === this.session.clicks) this.#ask();
  }

  #ask() {
    const { photo, clicks, skipped } = this.session;
    if (!photo || !this.wanted) return;
    this.#awaited = false;
    this.#setFresh(false);
    const avoid = skipped.slice(-MOST_AVOIDED).map(({ row, col }) => ({ row, col }));
    const asked = { photo: photo.id, clicks: forServer(clicks), places: PLACES, colours: COLOURS };
    const json = avoid.length > 0 ? { ...asked, avoid } : asked;
    this.#newest.ask(
      (signal) => this.api.json({ path: "/v1/suggest", json, signal }),
      (answer) => this.#show(answer.places),
      this.hooks.onError,
    );
  }

  /** @param {SuggestedPlace[]} places */
  #show(places) {
    this.#places = places;
    this.#place = 0;
    this.#colour = 0;
    this.#setFresh(true);
    this.#render();
  }

  /** @param {boolean} fresh */
  #setFresh(fresh) {
    this.#fresh = fresh;
    this.#pulse.classList.toggle("stale", !fresh);
    this.#card.classList.toggle("stale", !fresh);
  }

  get #current() {
    return this.#places[this.#place];
  }

  /** @returns {SuggestedPlace | undefined} The place that a person may act on: seen, and of the present clicks. */
  get #offered() {
    return this.#aside || !this.#fresh ? undefined : this.#current;
  }

  /** The places of one photo mean nothing on another. */
  #forget() {
    this.#places = [];
    this.#setFresh(false);
    this.#render();
  }

  /** @param {boolean} aside */
  setAside(aside) {
    this.#aside = aside;
    this.#render();
  }

  toggle() {
    this.wanted = !this.wanted;
    this.#places = [];
    this.#newest.cancel();
    this.#setFresh(false);
    byId("guide").setAttribute("aria-pressed", String(this.wanted));
    this.#render();
    this.#ask();
    this.hooks.say(this.wanted ? "Suggestions shown." : "Suggestions hidden.");
  }

  #render() {
    const place = this.#current;
    const photoOpen = this.session.photo !== null;
    this.#pulse.hidden = this.#aside || !place;
    // Without a place there is only something to say once the server has answered.
    this.#card.hidden = this.#aside || !photoOpen || !this.wanted || (!place && !this.#fresh);
    byId("suggestion-colours").hidden = !place;
    byId("suggestion-none").hidden = !!place;
    if (place) this.#renderPlace(place);
    this.#position();
  }

  /** @param {SuggestedPlace} place */
  #renderPlace(place) {
    const list = byId("suggestion-swatches");
    const focused = list.contains(document.activeElement);
    list.replaceChildren(...swatches(place.colours, (hex) => this.accept(hex)));
    const chosen = place.colours[this.#colour].hex;
    for (const swatch of list.children) swatch.classList.toggle("chosen", swatch.getAttribute("data-hex") === chosen);
    this.#pulse.style.setProperty("--colour", chosen);
    const where = `row ${place.row}, column ${place.col}`;
    this.#pulse.setAttribute("aria-label", `Accept ${nameOf(chosen)} at the suggested place, ${where}`);
    byId("suggestion-title").textContent = "Click here next";
    byId("suggestion-share").textContent = `${Math.max(1, Math.round(place.probability * 100))} %`;
    byId("suggestion-place").textContent = `place ${this.#place + 1} of ${this.#places.length}`;
    if (focused) /** @type {HTMLElement | null} */ (list.querySelector(".chosen"))?.focus();
  }

  #position() {
    const place = this.#current;
    if (!place) return this.#clearPosition();
    const { x, y } = this.view.pointOf(place);
    const { width, height } = this.view.stage;
    this.#pulse.style.transform = `translate(${x}px, ${y}px) translate(-50%, -50%)`;
    this.#pulse.classList.toggle("outside", x < 0 || y < 0 || x > width || y > height);
    const { offsetWidth, offsetHeight } = this.#card;
    const left = x + GAP + offsetWidth < width - 8 ? x + GAP : x - GAP - offsetWidth;
    this.#card.style.left = `${Math.max(8, Math.min(width - offsetWidth - 8, left))}px`;
    this.#card.style.top = `${Math.max(8, Math.min(height - offsetHeight - 8, y - offsetHeight / 2))}px`;
    return undefined;
  }

  #clearPosition() {
    this.#card.style.left = "8px";
    this.#card.style.top = "8px";
  }

  /** @param {string} [hex] Another colour than the chosen one. */
  accept(hex) {
    const place = this.#offered;
    if (!place) return;
    const colour = hex ?? place.colours[this.#colour].hex;
    const { row, col } = place;
    const clicks = add(this.session.clicks, { row, col, hex: colour, size: this.clickSize });
    if (clicks === this.session.clicks) return this.hooks.say("A photo takes at most 1000 clicks. Remove one first.");
    this.#places = [];
    this.session.change(clicks);
    return this.hooks.say(`Coloured ${nameOf(colour)}.`);
  }

  nextColour() {
    const place = this.#offered;
    if (!place) return;
    this.#colour = (this.#colour + 1) % place.colours.length;
    this.#render();
    this.hooks.say(`${nameOf(place.colours[this.#colour].hex)}, colour ${this.#colour + 1} of ${place.colours.length}`);
  }

  anotherPlace() {
    if (!this.#offered) return;
    this.#place = (this.#place + 1) % this.#places.length;
    this.#colour = 0;
    this.view.reveal(this.#current);
    this.#render();
    this.hooks.say(`Place ${this.#place + 1} of ${this.#places.length}`);
  }

  skip() {
    const place = this.#offered;
    if (!place) return;
    this.session.skip(place);
    this.hooks.say("Skipped. This place is not suggested again.");
  }
}
