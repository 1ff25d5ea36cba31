// What lies above the page for a moment: dialogs, notices, and what a screen reader is told.

import { h, icon, iconButton } from "./dom.js";

/**
 * Opens a modal dialog, which Escape and a click beside it close. Resolves when it has closed.
 * @param {string} title
 * @param {any} content
 * @returns {{close: () => void, closed: Promise<void>, element: HTMLDialogElement}}
 */
export function openDialog(title, content, className = "") {
  const close = () => element.close();
  const element = h(
    "dialog",
    { class: `dialog ${className}`, "aria-label": title },
    h("header", {}, h("h2", {}, title), iconButton("close", "Close", close)),
    h("div", { class: "dialog-body" }, content),
    h("div", { class: "notices" }), // those outside can't be reached meanwhile
  );
  let pressed = null; // a click may also end a selection of text that began within
  element.addEventListener("pointerdown", (event) => (pressed = event.target));
  element.addEventListener("click", (event) => {
    if (event.target === element && pressed === element) close();
  });
  const closed = new Promise((resolve) => {
    element.addEventListener("close", () => {
      element.remove();
      resolve();
    });
  });
  document.body.append(element);
  element.showModal();
  return { close, closed, element };
}

/** Asks whether to do what can't be undone. */
export async function confirmed(question, action) {
  let answer = false;
  const choose = (value) => () => {
    answer = value;
    dialog.close();
  };
  const dialog = openDialog(question, [
    h(
      "div",
      { class: "row end" },
      h("button", { type: "button", class: "button", onclick: choose(false) }, "Cancel"),
      h("button", { type: "button", class: "button danger", onclick: choose(true) }, action),
    ),
  ]);
  await dialog.closed;
  return answer;
}

/** Asks for a line of text. Resolves to null if the user gives none. */
export async function asked(question, value, action) {
  let answer = null;
  const input = h("input", { value, required: true, autofocus: true, "aria-label": question });
  const give = (event) => {
    event.preventDefault();
    answer = input.value.trim() || null;
    dialog.close();
  };
  const button = h("button", { type: "submit", class: "button primary" }, action);
  const dialog = openDialog(
    question,
    h("form", { class: "stack", onsubmit: give }, input, h("div", { class: "row end" }, button)),
  );
  input.select();
  await dialog.closed;
  return answer;
}

const NOTICE_MS = 5000;
const READING_MS = 60; // for each character

/** Shows a notice at the page's edge, as long as it takes to read; `kind` is "info" or "error". */
export function notify(text, kind = "info") {
  const notice = h("div", { class: `notice ${kind}`, role: kind === "error" ? "alert" : "status" }, text);
  const home = document.querySelector("dialog[open] > .notices") ?? document.getElementById("notices");
  for (const other of home.children) if (other.textContent === text) other.remove();
  home.append(notice);
  setTimeout(() => notice.remove(), NOTICE_MS + READING_MS * text.length);
}

/** Tells a screen reader what others see. */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}

async function copy(text) {
  try {
    await (navigator.clipboard?.writeText(text) ?? copySelected(text));
    notify("Copied.");
  } catch {
    notify("The browser doesn't allow copying here.", "error");
  }
}

/** The old way, for pages that come by plain HTTP from another machine. */
function copySelected(text) {
  const area = h("textarea", { class: "unseen", value: text });
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  if (!isCopied) throw new Error();
}

/** A button that copies what `text` returns. */
export function copyButton(text, label = "Copy") {
  return iconButton("copy", label, () => copy(text()));
}

/** A menu behind a button: `items` are pairs of label and action. */
export function menuButton(name, label, items) {
  const details = h("details", { class: "menu" });
  const close = () => details.removeAttribute("open");
  details.append(
    h("summary", { "aria-label": label, title: label, class: "icon-button" }, icon(name)),
    h(
      "div",
      { class: "menu-items" },
      items.map(([text, act]) => h("button", { type: "button", onclick: () => (close(), act()) }, text)),
    ),
  );
  details.addEventListener("focusout", (event) => {
    if (!details.contains(event.relatedTarget)) close();
  });
  details.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !details.open) return;
    event.stopPropagation(); // it stops answers elsewhere
    close();
    details.firstChild.focus();
  });
  return details;
}

/** Hands a file to the user. */
export function download(name, text, type = "application/json") {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** Lets the user choose files; resolves with none if the choice is called off. */
export function chooseFiles(accept) {
  return new Promise((resolve) => {
    const input = h("input", { type: "file", accept, multiple: true });
    input.addEventListener("change", () => resolve([...input.files]));
    input.addEventListener("cancel", () => resolve([]));
    input.click();
  });
}
