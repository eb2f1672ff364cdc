/** The dialogs that ask something: whether work may be replaced, and for the server's token. */

import { byId } from "./dom.js";

/**
 * @param {string} id Of a dialog whose buttons carry values.
 * @returns {Promise<string>} The pressed button's value; empty where the dialog was dismissed.
 */
function ask(id) {
  const dialog = /** @type {HTMLDialogElement} */ (byId(id));
  dialog.returnValue = "";
  if (!dialog.open) dialog.showModal();
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
    // A header takes no other letters: the server cannot have such a token.
    const usable = /^[\x21-\xff]+( +[\x21-\xff]+)*$/.test(typedToken());
    if (usable) /** @type {HTMLDialogElement} */ (byId("token-dialog")).close("use");
    else showTokenError();
  });
}

function typedToken() {
  return /** @type {HTMLInputElement} */ (byId("token")).value.trim();
}

function showTokenError() {
  byId("token-error").textContent = "That token is wrong. Type it again.";
}

/**
 * @param {string} text
 * @returns {Promise<string>} "save", "replace", or empty.
 */
export function askReplace(text) {
  byId("replace-text").textContent = text;
  return ask("replace-dialog");
}

/** @type {Promise<string | null> | null} Several requests may be refused at once: one dialog asks. */
let asking = null;

/**
 * @param {boolean} wrong Whether the server refused the one before.
 * @returns {Promise<string | null>} The token that the person typed; null where the dialog was dismissed.
 */
export function askToken(wrong) {
  if (asking) return asking;
  byId("token-error").textContent = "";
  if (wrong) showTokenError();
  asking = ask("token-dialog").then((pressed) => {
    asking = null;
    return pressed === "use" ? typedToken() : null;
  });
  return asking;
}
