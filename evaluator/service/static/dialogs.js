/** The dialogs that ask something: whether work may be replaced, and for the server's token. */

import { byId } from "./dom.js";

/**
 * @param {string} id Of a dialog whose buttons carry values.
 * @returns {Promise<string>} The pressed button's value; empty where the dialog was dismissed.
 */
function ask(id) {
  const dialog = /** @type {HTMLDialogElement} */ (byId(id));
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true }));
}

/** A press on a dialog's button closes it with the button's value: the policy forbids forms that submit. */
export function listen() {
  for (const dialog of document.querySelectorAll("dialog")) {
    for (const button of dialog.querySelectorAll("button[value]")) {
      button.addEventListener("click", () => dialog.close(button.getAttribute("value") ?? ""));
    }
  }
  byId("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    /** @type {HTMLDialogElement} */ (byId("token-dialog")).close("use");
  });
}

/**
 * @param {string} text
 * @returns {Promise<string>} "save", "replace", or empty.
 */
export function askReplace(text) {
  byId("replace-text").textContent = text;
  return ask("replace-dialog");
}

/** @type {Promise<string> | null} Several requests may be refused at once: one dialog asks. */
let asking = null;

/** @returns {Promise<string>} The token that the person typed. */
export function askToken() {
  asking ??= ask("token-dialog").then(() => {
    asking = null;
    return /** @type {HTMLInputElement} */ (byId("token")).value.trim();
  });
  return asking;
}
