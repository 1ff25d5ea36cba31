// The frame: which panel is shown, the key, light and dark, keys of the keyboard.

import { h, put } from "./lib/dom.js";
import { json, onMissingKey } from "./lib/api.js";
import { notify, openDialog } from "./lib/dialog.js";
import { refreshModels } from "./lib/models.js";
import { apiKey, keepKey, SENDABLE, theme } from "./lib/settings.js";
import ChatPanel from "./chat/panel.js";

// Chat is what most people come for; the others are fetched when they are opened.
const PANELS = {
  chat: async () => ChatPanel,
  complete: async () => (await import("./panels/complete.js")).default,
  embed: async () => (await import("./panels/embed.js")).default,
  image: async () => (await import("./panels/image.js")).default,
  models: async () => (await import("./panels/models.js")).default,
  server: async () => (await import("./panels/server.js")).default,
};
const REFRESH_MS = 10_000; // of the models' states while the page is seen

const stage = document.getElementById("stage");
const made = new Map();
let shown = null;

const asked = () => (location.hash.slice(1) in PANELS ? location.hash.slice(1) : "chat");

async function showPanel() {
  const name = asked();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = name === "chat" ? "localinfra" : `${name[0].toUpperCase()}${name.slice(1)} · localinfra`;
  try {
    if (!made.has(name)) made.set(name, new (await PANELS[name]())());
  } catch (error) {
    notify("This part of the page could not be loaded. If the server was updated, reload the page.", "error");
    throw error;
  }
  if (name !== asked()) return; // another was asked for while this one was fetched
  shown?.leave?.();
  shown = made.get(name);
  put(stage, shown.element);
  shown.enter?.();
}

function askForKey(refused) {
  const input = h("input", {
    type: "password",
    autocomplete: "off",
    required: true,
    autofocus: true,
    pattern: SENDABLE,
    title: "Letters, digits and signs of ASCII",
    "aria-label": "API key",
    value: apiKey.value,
  });
  const isForGood = h("input", { type: "checkbox" });
  let isGiven = false;
  const give = (event) => {
    event.preventDefault();
    keepKey(input.value.trim(), isForGood.checked);
    isGiven = true;
    dialog.close();
  };
  const dialog = openDialog("This server needs a key", [
    h(
      "p",
      {},
      apiKey.value
        ? refused
        : "Ask whoever runs this server, or see api_keys in models.toml and LOCALINFRA_API_KEYS.",
    ),
    h(
      "form",
      { class: "stack", onsubmit: give },
      input,
      h(
        "label",
        { class: "check" },
        isForGood,
        "Remember it in this browser",
        h("span", { class: "hint" }, "else only in this tab"),
      ),
      h(
        "div",
        { class: "row end" },
        h("button", { type: "submit", class: "button primary" }, "Use this key"),
      ),
    ),
  ]);
  return dialog.closed.then(() => isGiven);
}

/** Several requests may miss the key at once: one dialog is for all of them. */
let asking = null;
onMissingKey((refused) => (asking ??= askForKey(refused).finally(() => (asking = null))));

theme.watch((name) => {
  document.documentElement.dataset.theme = name;
  document.getElementById("theme").setAttribute("aria-label", `Colours: ${name}`);
  document.getElementById("theme").title = `Colours: ${name}`;
});
document.getElementById("theme").addEventListener("click", () => {
  theme.set({ system: "light", light: "dark", dark: "system" }[theme.value]);
});

// A file that is dropped must not replace the page, wherever it lands.
for (const kind of ["dragover", "drop"])
  document.addEventListener(kind, (event) => {
    if (event.dataTransfer.types.includes("Files")) event.preventDefault();
  });

const KEYS = [
  ["Enter", "send the message; Shift+Enter starts a line"],
  ["Escape", "stop the answer, close what is open"],
  ["Ctrl K", "search the conversations"],
  ["Ctrl Shift O", "new chat"],
  ["Alt 1 … 6", "go to a panel"],
  ["?", "this list"],
];

function showKeys() {
  openDialog(
    "Keys",
    h(
      "dl",
      { class: "keys" },
      KEYS.map(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)]),
    ),
  );
}

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  const isTyping = event.target.closest?.("input, textarea, select");
  const digit = /^Digit([1-6])$/.exec(event.code)?.[1];
  // On a Mac, Alt and a digit type a sign.
  const isPanel = digit && event.altKey && (event.key === digit || !isTyping);
  if (isPanel) location.hash = Object.keys(PANELS)[digit - 1];
  else if (event.key === "?" && !isTyping) showKeys();
  else if (!shown?.onKey?.(event)) return;
  event.preventDefault();
});
document.getElementById("keys").addEventListener("click", showKeys);
document.getElementById("skip").addEventListener("click", () => stage.focus());

async function refresh(isQuiet = true) {
  try {
    await refreshModels(isQuiet);
    document.body.classList.remove("offline");
  } catch (error) {
    document.body.classList.add("offline");
    if (!refresh.failed) notify(error.message, "error");
    refresh.failed = true;
    return;
  }
  refresh.failed = false;
}

setInterval(() => document.hidden || document.querySelector("dialog[open]") || refresh(), REFRESH_MS);
window.addEventListener("hashchange", showPanel);
await refresh(false);
showPanel();
json("/health")
  .then(({ version }) => (document.getElementById("version").textContent = version))
  .catch(() => {}); // the notice of refresh() says it
