/** Puts the parts together. */

import { Api } from "./api.js";
import { Autosave } from "./autosave.js";
import { ClickList } from "./click_list.js";
import { Colouring } from "./coloring.js";
import { Compare } from "./compare.js";
import { Cursor } from "./cursor.js";
import { askReplace, askToken, listen } from "./dialogs.js";
import { byId } from "./dom.js";
import { Export } from "./export.js";
import { Gestures } from "./gestures.js";
import { Intake } from "./intake.js";
import { Keyboard } from "./keyboard.js";
import { Markers } from "./markers.js";
import { Notices } from "./notices.js";
import { Overlay } from "./overlay.js";
import { Photos } from "./photos.js";
import { Picker } from "./picker.js";
import { Refusal } from "./refusal.js";
import { Session } from "./session.js";
import { Suggestions } from "./suggestions.js";
import { View } from "./view.js";

const ZOOM_STEP = 1.5;
/** As in the style sheets. */
const NARROW = matchMedia("(max-width: 820px)");

const stage = byId("stage");
const surface = byId("surface");
const notices = new Notices();
const session = new Session();
const say = (/** @type {string} */ text) => notices.say(text);
const fail = (/** @type {unknown} */ error) => notices.fail(error);

/** @type {Api} */
const api = new Api({
  onTrouble: (trouble) => notices.connection(trouble),
  sendPhotoAgain: (id) => photos.sendAgain(id),
  askToken,
});
const view = new View(stage, /** @type {HTMLCanvasElement} */ (byId("canvas")));
const photos = new Photos(api, session, { say, onProgress: showProgress, mayReplace });
const colouring = new Colouring(api, session, view, {
  onBusy: (busy) => stage.setAttribute("aria-busy", String(busy)),
  onShown: (clicks) => {
    stage.dataset.shownClicks = String(clicks.length);
    suggestions.coloured(clicks);
  },
  onColorizer: (colorizer) => photos.answeredBy(colorizer),
  onError: (error) => {
    fail(error);
    suggestions.coloured(session.clicks); // they may do without it
  },
});
const heat = new Overlay(api, session, "/v1/heatmap", {
  onPicture: (picture, clicks) => {
    view.setOverlay("heat", picture);
    stage.dataset.heatClicks = String(clicks?.length ?? "");
  },
  onError: fail,
});
const unsure = new Overlay(api, session, "/v1/uncertainty", {
  onPicture: (picture, clicks) => {
    view.setOverlay("unsure", picture);
    stage.dataset.unsureClicks = String(clicks?.length ?? "");
  },
  onError: fail,
});
const picker = new Picker(api, session, view, {
  onPlace: showTarget,
  onDropping: (dropping) => {
    stage.classList.toggle("dropping", dropping);
    if (dropping) surface.focus({ preventScroll: true });
  },
  say,
});
const suggestions = new Suggestions(api, session, view, { onError: fail, say });
const markers = new Markers(byId("markers"), session, view, {
  onOpen: (click) => picker.openFor(click),
  onDrag: (clicks) => colouring.preview(clicks),
  onLeave: () => surface.focus(),
});
const cursor = new Cursor(surface, byId("cursor"), view, { onEnter: clickAt, say });
// Who compares looks at the colours: the suggestion would cover them.
const compare = new Compare(byId("divider"), byId("compare"), view, (on) => suggestions.setAside(on));
const exporting = new Export(api, session, say);
const intake = new Intake(api, { onFiles: (files) => void openFiles(files), onError: fail });
const autosave = new Autosave(showSaved);

new Gestures(surface, view, {
  onTap: (x, y) => {
    const place = view.pixelAt(x, y);
    if (place) clickAt(place);
    else picker.close();
  },
});
new ClickList(session, {
  onOpen: (click) => {
    view.reveal(click);
    picker.openFor(click);
  },
  onLeave: () => surface.focus({ preventScroll: true }),
});

/** @param {import("./types.js").Place} place */
function clickAt(place) {
  if (picker.dropping) picker.drop(place);
  else picker.openAt(place);
}

/** @type {import("./types.js").Place | null} */
let target = null;

/** @param {import("./types.js").Place | null} place Where the popover works. */
function showTarget(place) {
  target = place;
  byId("target").hidden = !place;
  placeTarget();
  suggestions.setAside(place !== null || view.divider !== null);
  document.body.classList.toggle("picking", place !== null);
  if (!place) surface.focus({ preventScroll: true });
  else if (NARROW.matches) keepAboveSheet(place);
}

/** On a narrow screen the colours cover the lower half: the place has to be in the upper one. */
function keepAboveSheet(/** @type {import("./types.js").Place} */ place) {
  const top = stage.getBoundingClientRect().top + scrollY + view.pointOf(place).y;
  scrollTo({ top: Math.max(0, top - innerHeight / 4) });
}

function placeTarget() {
  if (!target) return;
  const { x, y } = view.pointOf(target);
  byId("target").style.transform = `translate(${x}px, ${y}px) translate(-50%, -50%)`;
}

/** @param {File[]} files */
async function openFiles(files) {
  notices.clear();
  try {
    await photos.open(files);
  } catch (error) {
    fail(error);
  }
}

/** @param {string | null} text */
function showProgress(text) {
  byId("progress").hidden = text === null;
  byId("progress-text").textContent = text ?? "";
}

/** @returns {Promise<boolean>} Whether the present work may go: asked only where there is some. */
async function mayReplace() {
  const { photo, clicks } = session;
  if (!photo || clicks.length === 0) return true;
  const count = clicks.length === 1 ? "1 click" : `${clicks.length} clicks`;
  const answer = await askReplace(`${photo.name} has ${count}. Save them as a project before something else is opened?`);
  if (answer === "save") exporting.saveProject();
  return answer !== "";
}

/** @param {Error | null} error */
function showSaved(error) {
  byId("saved").textContent = error ? "" : "Saved in this browser";
  stage.dataset.savedClicks = String(session.clicks.length);
  if (error) fail(new Refusal(`This browser keeps no copy of your work (${error.message}). Save the project as a file.`));
}

function showPhoto() {
  const { photo } = session;
  byId("welcome").hidden = photo !== null;
  byId("desk").hidden = photo === null;
  for (const button of document.querySelectorAll("[data-needs-photo]")) button.removeAttribute("disabled");
  if (!photo) return;
  document.title = `${photo.name} – chromaclick`;
  byId("photo-name").textContent = `${photo.name} · ${photo.width} × ${photo.height}`;
  stage.style.setProperty("--aspect", String(photo.width / photo.height));
  cursor.centre(photo);
  // A person who just chose a photo goes on with it.
  surface.focus({ preventScroll: true });
  scrollTo(0, 0);
}

function clicksChanged() {
  const { photo, history, skipped } = session;
  // Not `disabled`: the last step would take the focus from the button that was pressed.
  byId("undo").setAttribute("aria-disabled", String(history.past.length === 0));
  byId("redo").setAttribute("aria-disabled", String(history.future.length === 0));
  if (!photo) return;
  byId("saved").textContent = "";
  autosave.save({ photo, history, skipped });
}

function toggleHeat() {
  const shown = heat.toggle();
  byId("heat").setAttribute("aria-pressed", String(shown));
  say(shown ? "Heat map: the warmer, the more a click helps." : "Heat map hidden.");
}

function toggleUnsure() {
  if (byId("unsure").hidden) return say("The colorizer at work does not tell where it is unsure.");
  const shown = unsure.toggle();
  byId("unsure").setAttribute("aria-pressed", String(shown));
  return say(shown ? "Uncertainty: the bluer, the more colours are likely there." : "Uncertainty hidden.");
}

function escape() {
  if (picker.dropping) picker.drop(null);
  else if (picker.open) picker.close();
  else surface.focus();
}

/** @param {() => void} act @returns {() => void} Only with a photo. */
function withPhoto(act) {
  return () => session.photo && act();
}

function showHelp() {
  /** @type {HTMLDialogElement} */ (byId("help-dialog")).showModal();
}

const acts = {
  undo: withPhoto(() => session.undo()),
  redo: withPhoto(() => session.redo()),
  guide: withPhoto(() => suggestions.toggle()),
  heat: withPhoto(toggleHeat),
  unsure: withPhoto(toggleUnsure),
  "zoom-in": withPhoto(() => view.zoom(ZOOM_STEP)),
  "zoom-out": withPhoto(() => view.zoom(1 / ZOOM_STEP)),
  fit: withPhoto(() => view.showAll()),
  save: withPhoto(() => exporting.saveProject()),
  export: withPhoto(() => exporting.show()),
  help: showHelp,
};
for (const [id, act] of Object.entries(acts)) byId(id).addEventListener("click", act);

new Keyboard([
  { keys: [], shown: "Arrows", does: "on the photo: move the cursor (with Shift ten times as far)" },
  { keys: [], shown: "Enter or Space", does: "on the photo: choose a colour for the place under the cursor" },
  { keys: ["a"], shown: "A", does: "accept the suggested colour", act: () => suggestions.accept() },
  { keys: ["n"], shown: "N", does: "next suggested colour", act: () => suggestions.nextColour() },
  { keys: ["p"], shown: "P", does: "another suggested place", act: () => suggestions.anotherPlace() },
  { keys: ["s"], shown: "S", does: "skip the suggested place", act: () => suggestions.skip() },
  { keys: ["g"], shown: "G", does: "show or hide the suggestions", act: acts.guide },
  { keys: ["ctrl+z"], shown: "Ctrl Z", does: "undo", act: acts.undo },
  { keys: ["ctrl+shift+z", "ctrl+y"], shown: "Ctrl Shift Z", does: "redo", act: acts.redo },
  { keys: ["h"], shown: "H", does: "heat map: where a click helps", act: acts.heat },
  { keys: ["u"], shown: "U", does: "uncertainty: where many colours are likely", act: acts.unsure },
  { keys: ["c"], shown: "C", does: "compare before and after; arrows move the divider", act: withPhoto(() => compare.toggle()) },
  { keys: ["+", "="], shown: "+", does: "zoom in", act: acts["zoom-in"] },
  { keys: ["-"], shown: "-", does: "zoom out", act: acts["zoom-out"] },
  { keys: ["0"], shown: "0", does: "show the whole photo", act: acts.fit },
  { keys: ["m"], shown: "M", does: "go to the clicks", act: withPhoto(() => markers.focus()) },
  { keys: [], shown: "Page_Up and Page_Down", does: "on a click: the previous or next click" },
  { keys: [], shown: "Arrows", does: "on a click: move it" },
  { keys: [], shown: "Enter", does: "on a click: change its colour" },
  { keys: [], shown: "L", does: "on a click: lock or unlock it" },
  { keys: [], shown: "Delete", does: "on a click: remove it" },
  { keys: ["o"], shown: "O", does: "open a photo or a project", act: () => intake.choose() },
  { keys: ["ctrl+s"], shown: "Ctrl S", does: "save the project", act: acts.save },
  { keys: ["e"], shown: "E", does: "export in full size", act: acts.export },
  { keys: ["escape"], shown: "Esc", does: "close the colours; back to the photo", act: escape },
  { keys: ["?"], shown: "?", does: "this help", act: acts.help },
]);

session.addEventListener("photo", showPhoto);
session.addEventListener("clicks", clicksChanged);
session.addEventListener("skipped", clicksChanged);
view.addEventListener("move", placeTarget);
listen();

/** @param {string} name @param {any} network */
function describeNetwork(name, network) {
  return network?.version ? `${network.name ?? name} v${network.version}` : (network?.name ?? name);
}

async function showModels() {
  const { colorizer, guide } = await api.json({ path: "/v1/models" });
  const sizes = [colorizer?.hint_size].flat().filter(Number.isInteger);
  if (sizes.length > 0) picker.clickSize = suggestions.clickSize = Math.max(...sizes);
  // Only a split colorizer tells.
  byId("unsure").hidden = colorizer?.split !== true;
  byId("models").textContent = `${describeNetwork("colorizer", colorizer)} · ${describeNetwork("guide", guide)}`;
}

async function restore() {
  try {
    const saved = await autosave.load();
    if (saved && !session.photo) session.open(saved.photo, saved.history, saved.skipped);
  } catch (error) {
    fail(new Refusal(`The work kept in this browser cannot be read (${error instanceof Error ? error.message : error}).`));
  }
}

await restore();
if (!session.photo) byId("welcome").hidden = false;
document.body.dataset.ready = "true";
await Promise.all([intake.showSamples(), showModels()]).catch(fail);
