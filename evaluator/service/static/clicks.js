/** Lists of clicks: every function returns a new list, or the same one where nothing changed. */

/** @typedef {import("./types.js").Click} Click */
/** @typedef {import("./types.js").Photo} Photo */

/** The API's limit. */
export const MOST_CLICKS = 1000;

/**
 * @param {readonly Click[]} clicks
 * @param {{row: number, col: number, hex: string, size?: number}} click
 * @returns {readonly Click[]}
 */
export function add(clicks, { row, col, hex, size }) {
  if (clicks.length >= MOST_CLICKS) return clicks;
  const id = 1 + clicks.reduce((most, click) => Math.max(most, click.id), 0);
  const click = { id, row, col, colour: { hex }, locked: false };
  return [...clicks, size === undefined ? click : { ...click, size }];
}

/**
 * @param {readonly Click[]} clicks
 * @param {number} id
 * @param {Partial<Click>} change
 * @returns {readonly Click[]}
 */
function replace(clicks, id, change) {
  return clicks.map((click) => (click.id === id ? { ...click, ...change } : click));
}

/**
 * @param {readonly Click[]} clicks
 * @param {number} id
 * @returns {Click | undefined} The click, unless it is locked or gone.
 */
function changeable(clicks, id) {
  return clicks.find((click) => click.id === id && !click.locked);
}

/**
 * @param {readonly Click[]} clicks
 * @param {number} id
 * @param {number} row
 * @param {number} col
 */
export function move(clicks, id, row, col) {
  const click = changeable(clicks, id);
  if (!click || (click.row === row && click.col === col)) return clicks;
  return replace(clicks, id, { row, col });
}

/**
 * @param {readonly Click[]} clicks
 * @param {number} id
 * @param {string} hex
 */
export function recolour(clicks, id, hex) {
  const click = changeable(clicks, id);
  if (!click || click.colour.hex === hex) return clicks;
  return replace(clicks, id, { colour: { hex } });
}

/**
 * @param {readonly Click[]} clicks
 * @param {number} id
 */
export function remove(clicks, id) {
  return changeable(clicks, id) ? clicks.filter((click) => click.id !== id) : clicks;
}

/**
 * @param {readonly Click[]} clicks
 * @param {number} id
 */
export function toggleLock(clicks, id) {
  const click = clicks.find((one) => one.id === id);
  return click ? replace(clicks, id, { locked: !click.locked }) : clicks;
}

/**
 * Locked clicks stay.
 *
 * @param {readonly Click[]} clicks
 */
export function removeAll(clicks) {
  return clicks.every((click) => click.locked) ? clicks : clicks.filter((click) => click.locked);
}

/**
 * @param {readonly Click[]} clicks
 * @returns {string[]} The colours in use, the last one first, each once.
 */
export function usedColours(clicks) {
  return [...new Set([...clicks].reverse().map((click) => click.colour.hex))];
}

/**
 * @param {readonly Click[]} clicks
 * @returns What the API takes: without the page's own fields.
 */
export function forServer(clicks) {
  return clicks.map(({ row, col, colour, size }) =>
    size === undefined ? { row, col, colour } : { row, col, colour, size },
  );
}
