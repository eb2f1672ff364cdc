/** Where the photo lies on the stage: pure geometry of fit, zoom and pan. Stage coordinates are CSS pixels. */

/** @typedef {import("./types.js").Transform} Transform */
/** @typedef {{width: number, height: number}} Size */

/** The deepest zoom, as a multiple of "fit": one working pixel of the networks is then larger than a finger. */
const DEEPEST = 32;
/** Free space around the fitted photo. */
const MARGIN = 12;

/**
 * @param {Size} stage
 * @param {Size} photo
 * @returns {Transform} The whole photo, centred.
 */
export function fit(stage, photo) {
  const scale = Math.max(
    1e-4,
    Math.min((stage.width - 2 * MARGIN) / photo.width, (stage.height - 2 * MARGIN) / photo.height),
  );
  return { scale, x: (stage.width - photo.width * scale) / 2, y: (stage.height - photo.height * scale) / 2 };
}

/**
 * The stage point (x, y) keeps its photo pixel.
 *
 * @param {Transform} transform
 * @param {number} factor
 * @param {number} x
 * @param {number} y
 * @param {Size} stage
 * @param {Size} photo
 * @returns {Transform}
 */
export function zoomAround(transform, factor, x, y, stage, photo) {
  const whole = fit(stage, photo).scale;
  const scale = Math.min(whole * DEEPEST, Math.max(whole, transform.scale * factor));
  const ratio = scale / transform.scale;
  return keepInside({ scale, x: x - (x - transform.x) * ratio, y: y - (y - transform.y) * ratio }, stage, photo);
}

/**
 * @param {Transform} transform
 * @param {number} dx
 * @param {number} dy
 * @param {Size} stage
 * @param {Size} photo
 * @returns {Transform}
 */
export function pan(transform, dx, dy, stage, photo) {
  return keepInside({ ...transform, x: transform.x + dx, y: transform.y + dy }, stage, photo);
}

/**
 * A photo larger than the stage covers it; a smaller one is centred.
 *
 * @param {Transform} transform
 * @param {Size} stage
 * @param {Size} photo
 * @returns {Transform}
 */
export function keepInside(transform, stage, photo) {
  return {
    scale: transform.scale,
    x: keepAxis(transform.x, photo.width * transform.scale, stage.width),
    y: keepAxis(transform.y, photo.height * transform.scale, stage.height),
  };
}

/**
 * @param {number} offset
 * @param {number} length Of the photo on the stage.
 * @param {number} room
 */
function keepAxis(offset, length, room) {
  if (length + 2 * MARGIN <= room) return (room - length) / 2;
  return Math.min(MARGIN, Math.max(room - length - MARGIN, offset));
}

/**
 * @param {Transform} transform
 * @param {number} x
 * @param {number} y
 * @param {Size} photo
 * @returns {{row: number, col: number} | null} The photo's pixel; null outside the photo.
 */
export function pixelAt(transform, x, y, photo) {
  const col = Math.floor((x - transform.x) / transform.scale);
  const row = Math.floor((y - transform.y) / transform.scale);
  return row >= 0 && col >= 0 && row < photo.height && col < photo.width ? { row, col } : null;
}

/**
 * @param {Transform} transform
 * @param {{row: number, col: number}} pixel
 * @returns {{x: number, y: number}} The pixel's middle on the stage.
 */
export function pointOf(transform, { row, col }) {
  return { x: transform.x + (col + 0.5) * transform.scale, y: transform.y + (row + 0.5) * transform.scale };
}

/**
 * Move as little as needed for a point to be seen.
 *
 * @param {Transform} transform
 * @param {{row: number, col: number}} pixel
 * @param {Size} stage
 * @param {Size} photo
 * @returns {Transform}
 */
export function reveal(transform, pixel, stage, photo) {
  const { x, y } = pointOf(transform, pixel);
  const edge = Math.min(40, stage.width / 4, stage.height / 4);
  const dx = Math.max(0, edge - x) - Math.max(0, x - (stage.width - edge));
  const dy = Math.max(0, edge - y) - Math.max(0, y - (stage.height - edge));
  return pan(transform, dx, dy, stage, photo);
}
