/**
 * The words that the modules share. Nothing here runs: types are comments, checked by `tsc --checkJs`.
 *
 * Coordinates (row, col) are whole pixels of the upright photo in full size.
 *
 * @typedef {{hex: string}} Colour
 *
 * @typedef {object} Click
 * @property {number} id Unique within one piece of work; never sent to the server.
 * @property {number} row
 * @property {number} col
 * @property {Colour} colour
 * @property {number} [size] Side of the patch in working pixels; without it the server's own.
 * @property {boolean} locked
 *
 * @typedef {object} Photo
 * @property {string} id Given by the server: a hash of the file, and of whether its colours are kept.
 * @property {string} name
 * @property {number} width
 * @property {number} height
 * @property {boolean} grey Whether the file was nearly grey already.
 * @property {Blob | null} blob The file itself, to send it again; null when a project was opened without it.
 *
 * @typedef {{row: number, col: number}} Place
 *
 * @typedef {{hex: string, probability: number | null}} SuggestedColour
 *
 * @typedef {Place & {probability: number, colours: SuggestedColour[]}} SuggestedPlace
 *
 * @typedef {{scale: number, x: number, y: number}} Transform Stage pixel = photo pixel * scale + offset.
 */

export {};
