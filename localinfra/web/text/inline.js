// Markdown within a line → DOM nodes. Pictures of other hosts are never loaded: they become links.

import { h } from "../lib/dom.js";
import { plain } from "../lib/format.js";
import { mathml } from "./math.js";

const MAX_DEPTH = 8;
// Where something other than text may begin.
const SPECIAL = /[\\`*_~[!<$\n]|https?:\/\//g;
const ESCAPED = /^\\([!-/:-@[-`{-~])/;
const LINK =
  /^\[((?:[^[\]\\]|\\.|\[[^[\]]*\])*)\]\(\s*<?([^\s<>()]*(?:\([^\s()]*\)[^\s<>()]*)*)>?(?:\s+"[^"]*")?\s*\)/;
const ANGLE_LINK = /^<((?:https?:\/\/|mailto:)[^\s<>]+)>/;
const BARE_LINK = /^https?:\/\/[^\s<>"']+/;
const LINE_BREAK = /^<br\s*\/?>/i;
const MARKS = { "**": "strong", __: "strong", "~~": "del", "*": "em", _: "em" };
const WORD = /[\p{L}\p{N}]/u;

/** @param {boolean} [hasLinks] false within a link's label @returns {Node[]} */
export function inline(text, depth = 0, hasLinks = true) {
  const nodes = [];
  const missing = new Set(); // closing marks that don't occur any more: each is looked for once
  let plainFrom = 0;
  let at = 0;
  SPECIAL.lastIndex = 0;
  while (at < text.length) {
    SPECIAL.lastIndex = at;
    const found = SPECIAL.exec(text);
    if (!found) break;
    at = found.index;
    const made = spanAt(text, at, { depth, hasLinks, missing });
    if (!made) {
      at++;
      continue;
    }
    if (plainFrom < at) nodes.push(textNode(text.slice(plainFrom, at)));
    nodes.push(...made.nodes);
    at = plainFrom = made.end;
  }
  if (plainFrom < text.length) nodes.push(textNode(text.slice(plainFrom)));
  return nodes;
}

const textNode = (text) => document.createTextNode(plain(text));

/** What begins at a special sign: its nodes and where it ends, or null if the sign is just text. */
function spanAt(text, at, within) {
  const { hasLinks, missing } = within;
  const rest = () => text.slice(at, at + 4000); // no link or formula is longer
  switch (text[at]) {
    case "\n":
      return { nodes: [h("br")], end: at + 1 };
    case "\\":
      return escaped(text, at, missing);
    case "`":
      return code(text, at, missing);
    case "$":
      return dollarMath(text, at, missing);
    case "<":
      return angle(rest(), at, hasLinks);
    case "!":
      return hasLinks && text[at + 1] === "["
        ? link(text.slice(at + 1, at + 4000), at + 1, within, "Picture: ")
        : null;
    case "[":
      return hasLinks ? link(rest(), at, within) : null;
    case "h":
      return hasLinks ? bareLink(rest(), at) : null;
    default:
      return marked(text, at, within);
  }
}

function escaped(text, at, missing) {
  if (text[at + 1] === "(" || text[at + 1] === "[") {
    const closing = text[at + 1] === "(" ? "\\)" : "\\]";
    const end = closingAt(text, closing, at + 2, missing);
    if (end > 0) return { nodes: [mathml(text.slice(at + 2, end), text[at + 1] === "[")], end: end + 2 };
  }
  const found = ESCAPED.exec(text.slice(at, at + 2));
  if (found) return { nodes: [textNode(found[1])], end: at + 2 };
  return text[at + 1] === "\n" ? { nodes: [h("br")], end: at + 2 } : null;
}

function closingAt(text, mark, from, missing) {
  if (missing.has(mark)) return -1;
  const found = text.indexOf(mark, from);
  if (found < 0) missing.add(mark);
  return found;
}

function code(text, at, missing) {
  let start = at;
  while (text[start] === "`") start++;
  const mark = text.slice(at, start);
  const end = closingAt(text, mark, start, missing);
  if (end < 0) return { nodes: [textNode(mark)], end: start };
  const inside = text.slice(start, end).replaceAll("\n", " ");
  const isPadded = /^ .*[^ ].* $/.test(inside);
  return { nodes: [h("code", {}, plain(isPadded ? inside.slice(1, -1) : inside))], end: end + mark.length };
}

/** `$…$` is a formula if its signs touch it and no digit follows, so that prices stay prices. */
function dollarMath(text, at, missing) {
  const mark = text[at + 1] === "$" ? "$$" : "$";
  const start = at + mark.length;
  if (!text[start] || /\s/.test(text[start])) return null;
  const end = closingAt(text, mark, start, missing);
  if (end <= start) return null;
  if (mark === "$" && (/\s/.test(text[end - 1]) || /\d/.test(text[end + 1] ?? ""))) return null;
  return { nodes: [mathml(text.slice(start, end), mark === "$$")], end: end + mark.length };
}

function angle(rest, at, hasLinks) {
  const lineBreak = LINE_BREAK.exec(rest);
  if (lineBreak) return { nodes: [h("br")], end: at + lineBreak[0].length };
  const found = hasLinks && ANGLE_LINK.exec(rest);
  return found && { nodes: [anchor(found[1], [textNode(found[1])])], end: at + found[0].length };
}

function bareLink(rest, at) {
  let url = BARE_LINK.exec(rest)?.[0].replace(/[.,;:!?*_~]+$/, "");
  if (!url) return null;
  while (url.endsWith(")") && url.split(")").length > url.split("(").length) url = url.slice(0, -1);
  return { nodes: [anchor(url, [textNode(url)])], end: at + url.length };
}

function link(rest, at, { depth }, prefix = "") {
  const found = LINK.exec(rest);
  if (!found || depth >= MAX_DEPTH) return null;
  const label = [prefix && textNode(prefix), ...inline(found[1], depth + 1, false)].filter(Boolean);
  const nodes = isSafe(found[2]) ? [anchor(found[2], label)] : [...label, textNode(` (${found[2]})`)];
  return { nodes, end: at + found[0].length };
}

/** Whether a link may be followed: no script, no data, nothing of this server. */
function isSafe(url) {
  return /^(?:https?:\/\/|mailto:)/i.test(url) && URL.canParse(url);
}

function anchor(url, label) {
  if (!isSafe(url)) return h("span", {}, label);
  // The address is shown as it is, since the text may claim another.
  return h(
    "a",
    { href: url, title: plain(url), target: "_blank", rel: "noopener noreferrer nofollow" },
    label,
  );
}

function marked(text, at, { depth, hasLinks, missing }) {
  const double = text.slice(at, at + 2);
  const mark = MARKS[double] ? double : text[at];
  if (!MARKS[mark] || depth >= MAX_DEPTH) return null;
  const start = at + mark.length;
  if (!text[start] || /\s/.test(text[start])) return null;
  if (mark[0] === "_" && WORD.test(text[at - 1] ?? "")) return null; // snake_case
  const end = markEnd(text, mark, start, missing);
  if (end < 0) return mark.length === 2 ? { nodes: [textNode(mark)], end: start } : null;
  return {
    nodes: [h(MARKS[mark], {}, inline(text.slice(start, end), depth + 1, hasLinks))],
    end: end + mark.length,
  };
}

/** Where a mark closes: after a letter, and not as half of a longer mark. */
function markEnd(text, mark, from, missing) {
  if (missing.has(mark)) return -1;
  for (let at = text.indexOf(mark, from + 1); at >= 0; at = text.indexOf(mark, at + 1)) {
    const isHalf = mark.length === 1 && (text[at + 1] === mark || text[at - 1] === mark);
    const isWithinWord = mark[0] === "_" && WORD.test(text[at + mark.length] ?? "");
    if (isHalf || isWithinWord || /\s/.test(text[at - 1])) continue;
    // `***both***`: the inner mark comes first
    return mark.length === 2 && text[at + 2] === mark[0] ? at + 1 : at;
  }
  missing.add(mark);
  return -1;
}
