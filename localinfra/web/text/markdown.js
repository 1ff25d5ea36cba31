// Markdown → DOM, at once or as it streams in.

import { append, h, put } from "../lib/dom.js";
import { copyButton } from "../lib/dialog.js";
import { plain } from "../lib/format.js";
import { numKnown, parseBlocks } from "./blocks.js";
import { highlight } from "./highlight.js";
import { inline } from "./inline.js";
import { mathml } from "./math.js";

/**
 * Shows a text that grows. Blocks that nothing can change any more stay as they are; only the rest
 * is made anew, so the work for each piece of text doesn't grow with the answer.
 */
export class MarkdownView {
  constructor() {
    this.element = h("div", { class: "prose" }); // each block has its own direction
    this.tail = []; // the elements of the blocks that may still change
    this.open = ""; // their text
    this.shown = 0; // characters taken
  }

  /** @param {string} text all of it; what it began with before must not have changed */
  show(text) {
    if (text.length === this.shown) return;
    this.open += text.slice(this.shown);
    this.shown = text.length;
    const blocks = parseBlocks(this.open);
    if (!blocks.length) return;
    if (blocks.length === 1 && this.growCode(blocks[0])) return;
    for (const element of this.tail) element.remove();
    const made = blocks.map(blockNode);
    append(this.element, made);
    // Until it is known what the last line begins, the block before may go on with it.
    const lines = this.open.split("\n");
    const known = numKnown(lines);
    const settled = blocks.findLastIndex((_, at) => blocks[at + 1]?.start < known) + 1;
    this.tail = made.slice(settled);
    this.open = lines.slice(blocks[settled].start).join("\n");
  }

  /** Appends to a code block that is still open, as nothing before changes then. */
  growCode(block) {
    const { open, language } = this.tail.length === 1 ? this.tail[0].dataset : {};
    if (!block.isOpen || open !== "true" || language !== block.language) return false;
    const code = this.tail[0].querySelector("code");
    const shown = code.firstChild?.data ?? "";
    const text = plain(block.text);
    if (!code.firstChild) code.append(text);
    else code.firstChild.appendData(text.slice(shown.length));
    return true;
  }
}

/** @returns {HTMLElement} */
export function markdown(text) {
  const view = new MarkdownView();
  view.show(text);
  return view.element;
}

/** @returns {HTMLElement} */
function blockNode(block) {
  switch (block.kind) {
    case "code":
      return codeBlock(block);
    case "math":
      return h("div", { class: "formula", tabindex: "0" }, mathml(block.text, true));
    case "heading":
      // The page has a heading above those of answers.
      return h(`h${Math.min(6, block.level + 1)}`, { dir: "auto" }, inline(block.text));
    case "rule":
      return h("hr");
    case "quote":
      return h("blockquote", {}, block.blocks.map(blockNode));
    case "list":
      return listNode(block);
    case "table":
      return tableNode(block);
    default:
      return h("p", { dir: "auto" }, inline(block.text));
  }
}

function codeBlock({ language, text, isOpen }) {
  const code = h("code", {}, isOpen ? plain(text) : highlight(text, language));
  return h(
    "div",
    { class: "code-block", data: { open: String(Boolean(isOpen)), language }, dir: "ltr" },
    h(
      "div",
      { class: "code-head" },
      h("span", {}, plain(language || "text")),
      copyButton(() => code.textContent, "Copy the code"),
    ),
    h("pre", { class: "code", tabindex: "0" }, code),
  );
}

const TASK = /^\[([ xX])\]\s+/;

function listNode({ number, items }) {
  const nodes = items.map((blocks) => {
    const [first, ...others] = blocks;
    if (first?.kind !== "paragraph") return h("li", { dir: "auto" }, blocks.map(blockNode));
    const task = TASK.exec(first.text);
    const box =
      task &&
      h("input", { type: "checkbox", disabled: true, checked: task[1] !== " ", "aria-label": "done" });
    // Tight: the first paragraph needs no element of its own.
    return h("li", { dir: "auto" }, box, inline(first.text.replace(TASK, "")), others.map(blockNode));
  });
  return number === null ? h("ul", {}, nodes) : h("ol", { start: number === 1 ? null : number }, nodes);
}

/** What is missing in a row as one cell: many cells for each of many lines would stop the page. */
const rest = (number) => (number > 0 ? h("td", { colspan: number }) : null);

function tableNode({ head, aligns, rows }) {
  const cell = (tag) => (text, at) =>
    h(tag, { class: aligns[at] ? `align-${aligns[at]}` : null, dir: "auto" }, inline(text));
  const table = h("table", {}, h("thead", {}, h("tr", {}, head.map(cell("th")))), h("tbody", {}));
  put(
    table.tBodies[0],
    rows.map((row) => h("tr", {}, row.slice(0, head.length).map(cell("td")), rest(head.length - row.length))),
  );
  return h("div", { class: "table-wrap", tabindex: "0" }, table);
}
