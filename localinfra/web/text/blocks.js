// Markdown's blocks. Works on text alone: a block is a plain object that says where it ends, so a
// stream can keep those that no further text will change. Each step looks at a line once; nesting is
// bounded, since the text may be hostile.

const MAX_DEPTH = 10;

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})(?=\s|$)/;
const MAX_MARK_CHARS = 400; // of a line that is a fence, a rule or a table's second line
const RULE = /^ {0,3}(?:(?:\*\s*){3,}|(?:-\s*){3,}|(?:_\s*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:( +)(.*)|)$/;
const MAX_ITEM_SIGN = "123456789. ".length;
const TABLE_LINE = /^ {0,3}\|?(?:\s*:?-+:?\s*\|)+(?:\s*:?-+:?\s*)?\|?\s*$/;
const MATH_START = /^ {0,3}(\$\$|\\\[)(.*)$/;
const MATH_ENDS = { $$: "$$", "\\[": "\\]" };

/**
 * @typedef {{kind: string, start: number, end: number, isOpen?: boolean, [other: string]: any}} Block
 * `start`, `end`: the number of lines before it and up to its end; `isOpen`: its closing line is
 * missing
 */

/** @returns {Block[]} */
export function parseBlocks(text, depth = 0) {
  const lines = text.split("\n");
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at++;
      continue;
    }
    const block = blockAt(lines, at, depth);
    blocks.push({ ...block, start: at });
    at = block.end;
  }
  return blocks;
}

/** The match of a line that should be short, so that no expression has much to try. */
const short = (expression, line) => (line.length <= MAX_MARK_CHARS ? expression.exec(line) : null);

/**
 * How many lines are known to begin what they begin. The last one may still grow: it is known after
 * a blank line, once it is longer than any sign of a list.
 */
export function numKnown(lines) {
  const last = lines.at(-1).trim();
  const isKnown = !lines.at(-2)?.trim() && last.length > MAX_ITEM_SIGN && /[^-*_\s]/.test(last);
  return isKnown ? lines.length : lines.length - 1;
}

function blockAt(lines, at, depth) {
  const line = lines[at];
  const fence = short(FENCE, line);
  if (fence) return fenced(lines, at, fence);
  const math = MATH_START.exec(line);
  if (math) return formula(lines, at, math) ?? paragraph(lines, at);
  const heading = HEADING.exec(line);
  if (heading) return { kind: "heading", level: heading[1].length, text: headingText(line), end: at + 1 };
  if (short(RULE, line)) return { kind: "rule", end: at + 1 };
  if (depth < MAX_DEPTH) {
    if (QUOTE.test(line)) return quote(lines, at, depth);
    if (ITEM.test(line)) return list(lines, at, depth);
  }
  if (line.includes("|") && short(TABLE_LINE, lines[at + 1] ?? "")) return table(lines, at);
  return paragraph(lines, at);
}

/** Without the signs around it. */
function headingText(line) {
  const words = line.trim().split(/\s+/).slice(1);
  if (/^#+$/.test(words.at(-1) ?? "")) words.pop();
  return words.join(" ");
}

function fenced(lines, at, [, mark, language]) {
  const indent = lines[at].search(/\S/);
  const closing = new RegExp(`^ {0,3}${mark[0]}{${mark.length},}\\s*$`);
  let end = at + 1;
  while (end < lines.length && !closing.test(lines[end])) end++;
  const text = lines.slice(at + 1, end).map((line) => line.replace(new RegExp(`^ {0,${indent}}`), ""));
  return {
    kind: "code",
    language,
    text: text.join("\n"),
    isOpen: end === lines.length,
    end: Math.min(end + 1, lines.length),
  };
}

/** Null if more follows its end: then it is within a paragraph. Without an end it is plain text. */
function formula(lines, at, [, mark, rest]) {
  const closing = MATH_ENDS[mark];
  const parts = [];
  let line = at;
  for (let text = rest; line < lines.length && (line === at || text.trim()); text = lines[++line]) {
    const found = text.indexOf(closing);
    if (found >= 0) {
      if (text.slice(found + closing.length).trim()) return null;
      return { kind: "math", text: [...parts, text.slice(0, found)].join("\n"), end: line + 1 };
    }
    parts.push(text);
  }
  return { kind: "paragraph", text: lines.slice(at, line).join("\n"), end: line };
}

function quote(lines, at, depth) {
  const inner = [];
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) inner.push(lines[end++].replace(QUOTE, ""));
  return { kind: "quote", blocks: parseBlocks(inner.join("\n"), depth + 1), end };
}

function list(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  const isOrdered = /\d/.test(first[2]);
  const indent = first[1].length;
  const items = [];
  let end = at;
  while (end < lines.length) {
    const found = ITEM.exec(lines[end]);
    const isItem =
      found && found[1].length <= indent + 1 && /\d/.test(found[2]) === isOrdered && !short(RULE, lines[end]);
    if (isItem) items.push([found[4] ?? ""]);
    else if (!lines[end].trim()) {
      const next = nextFilled(lines, end);
      if (next === lines.length || !goesOn(lines[next], indent, isOrdered)) break;
      items.at(-1).push("");
    } else if (leading(lines[end]) > indent)
      items.at(-1).push(outdented(lines[end], indent + 2 + Number(isOrdered)));
    else if (startsBlock(lines[end]) || !lines[end - 1].trim()) break;
    else items.at(-1).push(lines[end]);
    end++;
  }
  const number = isOrdered ? Number.parseInt(first[2], 10) : null;
  return { kind: "list", number, items: items.map((item) => parseBlocks(item.join("\n"), depth + 1)), end };
}

function goesOn(line, indent, isOrdered) {
  const found = ITEM.exec(line);
  if (leading(line) > indent) return true;
  return Boolean(found) && found[1].length === indent && /\d/.test(found[2]) === isOrdered;
}

function nextFilled(lines, at) {
  while (at < lines.length && !lines[at].trim()) at++;
  return at;
}

const leading = (line) => line.search(/\S|$/);
const outdented = (line, by) => line.slice(Math.min(by, leading(line)));
const startsBlock = (line) =>
  short(FENCE, line) || HEADING.test(line) || short(RULE, line) || QUOTE.test(line) || ITEM.test(line);

function table(lines, at) {
  const aligns = cells(lines[at + 1]).map((cell) => {
    if (/^:-+:$/.test(cell)) return "center";
    return cell.endsWith(":") ? "end" : null;
  });
  const rows = [];
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|") && lines[end].trim()) rows.push(cells(lines[end++]));
  return { kind: "table", head: cells(lines[at]), aligns, rows, end };
}

/** The cells of a line: `\|` and bars within code don't separate. */
function cells(line) {
  const found = line
    .trim()
    .replace(/^\|/, "")
    .replace(/(^|[^\\])\|$/, "$1")
    .match(/(?:\\.|`[^`]*`|[^|\\]|\\)+|(?<=\|)(?=\|)/g);
  return (found ?? []).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function paragraph(lines, at) {
  let end = at + 1;
  while (
    end < lines.length &&
    lines[end].trim() &&
    !startsBlock(lines[end]) &&
    !MATH_START.test(lines[end])
  ) {
    if (lines[end].includes("|") && short(TABLE_LINE, lines[end + 1] ?? "")) break;
    end++;
  }
  return { kind: "paragraph", text: lines.slice(at, end).join("\n"), end };
}
