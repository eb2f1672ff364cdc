/**
 * The project file: one JSON document with the photo's hash, the clicks and the colorizer they were made with.
 * The server's batch jobs read the same format.
 */

import { MOST_CLICKS } from "./clicks.js";
import { parseHex } from "./color_math.js";
import { Refusal } from "./refusal.js";

/** @typedef {import("./types.js").Click} Click */

/**
 * @typedef {object} Project
 * @property {"chromaclick-project"} format
 * @property {1} version
 * @property {{id: string, name: string, width: number, height: number}} photo
 * @property {Click[]} clicks
 * @property {string} colorizer Empty where none has answered yet.
 * @property {string} saved ISO time.
 */

const FORMAT = "chromaclick-project";
const VERSION = 1;
const MOST_BYTES = 4 * 2 ** 20;
const MOST_NAME = 255;

/**
 * @param {import("./types.js").Photo} photo
 * @param {readonly Click[]} clicks
 * @param {string | null} colorizer
 * @param {Date} now
 * @returns {string} The file's text.
 */
export function write(photo, clicks, colorizer, now) {
  const project = {
    format: FORMAT,
    version: VERSION,
    photo: { id: photo.id, name: photo.name.slice(0, MOST_NAME), width: photo.width, height: photo.height },
    clicks: clicks.map(({ id: _, locked, ...click }) => (locked ? { ...click, locked } : click)),
    colorizer: colorizer ?? "",
    saved: now.toISOString(),
  };
  return JSON.stringify(project, null, 2) + "\n";
}

/**
 * @param {string} text
 * @returns {Project}
 * @throws {Refusal} What is wrong with the file and what to do.
 */
export function read(text) {
  if (text.length > MOST_BYTES) throw new Refusal("This project file is larger than 4 MiB. Choose another file.");
  const value = parse(text);
  if (value?.format !== FORMAT) throw new Refusal("This is not a chromaclick project. Choose a file saved by this page.");
  if (value.version !== VERSION) {
    throw new Refusal(`The project's version is ${value.version}; this page reads version ${VERSION}. Update the page.`);
  }
  const photo = readPhoto(value.photo);
  if (!Array.isArray(value.clicks) || value.clicks.length > MOST_CLICKS) {
    throw new Refusal(`A project holds a list of at most ${MOST_CLICKS} clicks. The file is damaged: save it again.`);
  }
  return {
    format: FORMAT,
    version: VERSION,
    photo,
    clicks: value.clicks.map((/** @type {any} */ click, /** @type {number} */ index) => readClick(click, index, photo)),
    colorizer: String(value.colorizer ?? ""),
    saved: String(value.saved ?? ""),
  };
}

/** @param {string} text */
function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Refusal("This file is not JSON. Choose a project file saved by this page.");
  }
}

/** @param {any} photo */
function readPhoto(photo) {
  const { id, width, height } = photo ?? {};
  if (typeof id !== "string" || !/^[0-9a-f]{64}$/.test(id) || !isSide(width) || !isSide(height)) {
    throw new Refusal("The project does not say which photo it belongs to. The file is damaged: save it again.");
  }
  return { id, width, height, name: String(photo.name ?? "photo").slice(0, MOST_NAME) };
}

/** @param {any} side */
function isSide(side) {
  return Number.isInteger(side) && side > 0;
}

/**
 * @param {any} click
 * @param {number} index
 * @param {{width: number, height: number}} photo
 * @returns {Click}
 */
function readClick(click, index, photo) {
  const { row, col, colour, size, locked } = click ?? {};
  const inside = Number.isInteger(row) && Number.isInteger(col) && row >= 0 && col >= 0;
  if (!inside || row >= photo.height || col >= photo.width) {
    throw new Refusal(`Click ${index + 1} of the project lies at row ${row}, column ${col}, outside the photo.`);
  }
  const hex = parseHex(String(colour?.hex ?? ""));
  if (!hex) throw new Refusal(`Click ${index + 1} of the project has no colour like #33aaff.`);
  if (size !== undefined && !(Number.isInteger(size) && size >= 1 && size <= 31)) {
    throw new Refusal(`Click ${index + 1} of the project has the size ${size}; sizes go from 1 to 31.`);
  }
  const read = { id: index + 1, row, col, colour: { hex }, locked: locked === true };
  return size === undefined ? read : { ...read, size };
}
