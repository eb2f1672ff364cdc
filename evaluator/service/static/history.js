/**
 * Undo and redo over values that are never changed in place.
 *
 * @template T
 * @typedef {object} History
 * @property {readonly T[]} past Oldest first.
 * @property {T} present
 * @property {readonly T[]} future The next to redo first.
 */

/** Steps that can be undone: 1000 clicks and as many corrections stay far below the browser's storage. */
export const MOST_STEPS = 500;

/**
 * @template T
 * @param {T} present
 * @returns {History<T>}
 */
export function begin(present) {
  return { past: [], present, future: [] };
}

/**
 * A new step. What had been undone can no longer be redone.
 *
 * @template T
 * @param {History<T>} history
 * @param {T} present
 * @returns {History<T>}
 */
export function step(history, present) {
  if (Object.is(present, history.present)) return history;
  return { past: [...history.past, history.present].slice(-MOST_STEPS), present, future: [] };
}

/**
 * Replace the present without a step: trying one colour after another is undone at once.
 *
 * @template T
 * @param {History<T>} history
 * @param {T} present
 * @returns {History<T>}
 */
export function amend(history, present) {
  return { past: history.past, present, future: [] };
}

/**
 * @template T
 * @param {History<T>} history
 * @returns {History<T>}
 */
export function undo(history) {
  if (history.past.length === 0) return history;
  return {
    past: history.past.slice(0, -1),
    present: history.past[history.past.length - 1],
    future: [history.present, ...history.future],
  };
}

/**
 * @template T
 * @param {History<T>} history
 * @returns {History<T>}
 */
export function redo(history) {
  if (history.future.length === 0) return history;
  return {
    past: [...history.past, history.present],
    present: history.future[0],
    future: history.future.slice(1),
  };
}
