// Where the user writes. Enter sends, Shift+Enter starts a line, Escape stops the answer. The text of
// files becomes part of the message.

import { h, icon, iconButton } from "../lib/dom.js";
import { chooseFiles, notify } from "../lib/dialog.js";

const MAX_HEIGHT_PX = 320;
const MAX_FILE_BYTES = 1_000_000; // far more than models read

/** @param {{send: (text: string) => void, stop: () => void}} actions */
export function composer({ send, stop }) {
  const area = h("textarea", { rows: 1, placeholder: "Ask anything", "aria-label": "Message" });
  const button = h(
    "button",
    { type: "submit", class: "send", "aria-label": "Send", title: "Send (Enter)" },
    icon("send"),
  );
  const stopper = h(
    "button",
    {
      type: "button",
      class: "send",
      "aria-label": "Stop",
      title: "Stop (Escape)",
      onclick: stop,
      hidden: true,
    },
    icon("stop"),
  );
  const fit = () => {
    area.style.height = "auto";
    area.style.height = `${Math.min(MAX_HEIGHT_PX, area.scrollHeight)}px`;
    button.disabled = !area.value.trim();
  };
  const submit = () => {
    const text = area.value.trim();
    if (!text || !stopper.hidden) return;
    area.value = "";
    fit();
    send(text);
  };
  area.addEventListener("input", fit);
  area.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  });
  const attach = async (files) => {
    area.value += (await Promise.all(files.map(quoted))).join("");
    fit();
    area.focus();
  };
  const clip = iconButton("clip", "Add text files", async () => attach(await chooseFiles("")));
  button.disabled = true;
  const element = h(
    "form",
    { class: "composer", onsubmit: (event) => (event.preventDefault(), submit()) },
    clip,
    area,
    button,
    stopper,
  );
  return {
    element,
    attach,
    focus: () => area.focus(),
    set: (text) => {
      area.value = text;
      fit();
      area.focus();
    },
    setRunning: (isRunning) => {
      button.hidden = isRunning;
      stopper.hidden = !isRunning;
    },
  };
}

/** A file's text as a block of code under its name; nothing, and a notice, if it is none. */
async function quoted(file) {
  const text = file.size > MAX_FILE_BYTES ? null : await file.text();
  if (text === null || text.includes("\0")) {
    notify(
      `${file.name} is ${text === null ? "too large" : "no text"}: models here read text of up to a megabyte.`,
      "error",
    );
    return "";
  }
  const runs = text.match(/`+/g) ?? [];
  const longest = runs.reduce((most, run) => Math.max(most, run.length), 2);
  const fence = "`".repeat(longest + 1);
  return `\n\n${file.name}:\n${fence}${file.name.split(".").at(-1)}\n${text.trimEnd()}\n${fence}\n`;
}
