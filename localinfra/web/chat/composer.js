// Where the user writes. Enter sends, Shift+Enter starts a line, Escape stops the answer. The text of
// files becomes part of the message; pictures go with it.

import { h, icon, iconButton, put } from "../lib/dom.js";
import { announce, chooseFiles, notify } from "../lib/dialog.js";
import { plain } from "../lib/format.js";
import { seeingModels, sees, whoIsBlind } from "../lib/models.js";
import { loadPictures, Tray } from "./tray.js";

const MAX_HEIGHT_PX = 320;
const MAX_FILE_BYTES = 1_000_000; // far more than models read

/**
 * @param {{send: (text: string, pictures: import("./tray.js").Picture[]) => void, stop: () => void,
 *   names: () => string[]}} actions `names`: of the models that are asked
 */
export function composer({ send, stop, names }) {
  let reading = 0; // times that files are being read
  let isSubmitted = false; // before they were
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
    button.disabled = !(area.value.trim() || tray.pictures.length || reading);
  };
  const submit = () => {
    if (button.disabled || !stopper.hidden) return;
    isSubmitted = reading > 0;
    if (isSubmitted) return;
    const { pictures } = tray;
    const text = area.value.trim();
    area.value = "";
    tray.set([]);
    send(text, pictures);
  };
  area.addEventListener("input", fit);
  area.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  });
  const sight = h("p", { class: "hint", role: "status" });
  const tray = new Tray([], area, () => (fit(), showSight()));
  const attach = async (files) => {
    reading++;
    fit();
    const pictures = [];
    for (const file of files) {
      const [picture, text] = isPicture(file) ? [await pictureIn(file), ""] : [null, await quoted(file)];
      area.value += text; // to which the user may have added meanwhile
      if (picture) pictures.push(picture);
      if (!picture && !text) isSubmitted = false; // what is missing may be what the message is about
    }
    reading--;
    await tray.set([...tray.pictures, ...pictures]);
    if (pictures.length) announce(`${pictures.map(({ name }) => name).join(", ")} will be sent with the message.`);
    if (isSubmitted) return submit();
    area.focus();
  };
  area.addEventListener("paste", (event) => {
    const { files, types } = event.clipboardData;
    // Office programs offer a picture of each text: then it is the text that is meant.
    if (!files.length || (types.includes("text/plain") && types.includes("text/html"))) return;
    event.preventDefault();
    attach([...files]);
  });
  const clip = iconButton("clip", "", async () => attach(await chooseFiles("")));
  const showSight = () => {
    const label = names().some(sees) ? "Add pictures or text files" : "Add text files";
    clip.title = label;
    clip.setAttribute("aria-label", label);
    put(sight, tray.pictures.length ? whoIsBlind(names()) : "");
    sight.hidden = !sight.textContent;
  };
  showSight();
  button.disabled = true;
  const element = h(
    "form",
    { class: "composer", onsubmit: (event) => (event.preventDefault(), submit()) },
    tray.element,
    sight,
    clip,
    area,
    button,
    stopper,
  );
  return {
    element,
    attach,
    focus: () => area.focus(),
    showSight,
    set: (text, pictures = tray.pictures) => {
      area.value = text;
      tray.set(pictures);
      area.focus();
    },
    setRunning: (isRunning) => {
      button.hidden = isRunning;
      stopper.hidden = !isRunning;
    },
  };
}

/** SVG is text. */
const isPicture = ({ type }) => type.startsWith("image/") && !type.startsWith("image/svg");

/** A file's picture; null, and a notice, if it can't be read. */
async function pictureIn(file) {
  try {
    if (!seeingModels().length)
      throw new Error(`${plain(file.name)} is no text, and no model here sees pictures.`);
    return await (await loadPictures()).readPicture(file);
  } catch (error) {
    notify(error.message, "error");
    return null;
  }
}

/** A file's text as a block of code under its name; nothing, and a notice, if it is none. */
async function quoted(file) {
  const text = file.size > MAX_FILE_BYTES ? null : await file.text().catch(() => "\0"); // of a folder
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
