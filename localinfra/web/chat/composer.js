// Where the user writes. Enter sends, Shift+Enter starts a line, Escape stops the answer.

import { h, icon } from "../lib/dom.js";

const MAX_HEIGHT_PX = 320;

/** @param {{send: (text: string) => void, stop: () => void}} actions */
export function composer({ send, stop }) {
  const area = h("textarea", { rows: 1, placeholder: "Ask anything", "aria-label": "Message" });
  const button = h("button", { type: "submit", class: "send", "aria-label": "Send", title: "Send (Enter)" }, icon("send"));
  const stopper = h("button", { type: "button", class: "send", "aria-label": "Stop", title: "Stop (Escape)", onclick: stop, hidden: true }, icon("stop"));
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
  button.disabled = true;
  const element = h("form", { class: "composer", onsubmit: (event) => (event.preventDefault(), submit()) }, area, button, stopper);
  return {
    element,
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
