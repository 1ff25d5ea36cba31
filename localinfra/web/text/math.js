// LaTeX → MathML, which browsers draw and screen readers speak. What is not known is shown as its
// source, never dropped. Elements are made by name from the tables below alone.

import { plain } from "../lib/format.js";
import { ACCENTS, FUNCTIONS, LARGE, SPACES, STYLES, SYMBOLS } from "./symbols.js";

const MATHML = "http://www.w3.org/1998/Math/MathML";
const MAX_DEPTH = 40;
const TOKEN = /\\(?:[a-zA-Z]+\*?|[^])|\s+|[^]/gu;
const FENCES = {
  "\\{": "{",
  "\\}": "}",
  "\\lbrace": "{",
  "\\rbrace": "}",
  "\\langle": "⟨",
  "\\rangle": "⟩",
  "\\|": "‖",
  "\\lvert": "|",
  "\\rvert": "|",
  "\\lVert": "‖",
  "\\rVert": "‖",
  "\\lfloor": "⌊",
  "\\rfloor": "⌋",
  "\\lceil": "⌈",
  "\\rceil": "⌉",
  ".": "",
};
const TABLES = {
  matrix: ["", ""],
  smallmatrix: ["", ""],
  pmatrix: ["(", ")"],
  bmatrix: ["[", "]"],
  Bmatrix: ["{", "}"],
  vmatrix: ["|", "|"],
  Vmatrix: ["‖", "‖"],
  cases: ["{", ""],
  array: ["", ""],
  aligned: ["", ""],
  align: ["", ""],
  "align*": ["", ""],
  gathered: ["", ""],
  split: ["", ""],
  equation: ["", ""],
  "equation*": ["", ""],
};

function m(tag, attributes = {}, ...children) {
  const element = document.createElementNS(MATHML, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.flat());
  return element;
}

/** @returns {Element} a `math` element, or the source as code if it can't be read */
export function mathml(source, isDisplay) {
  try {
    const reader = new Reader(source, isDisplay);
    const row = m(
      "mrow",
      {},
      reader.list(() => false),
    );
    const note = m("annotation", { encoding: "application/x-tex" }, plain(source.trim()));
    return m("math", { display: isDisplay ? "block" : "inline" }, m("semantics", {}, row, note));
  } catch (error) {
    if (!(error instanceof Unreadable)) throw error;
    const code = document.createElement("code");
    code.textContent = plain(source);
    return code;
  }
}

class Unreadable extends Error {}

class Reader {
  constructor(source, isDisplay) {
    this.tokens = source.match(TOKEN) ?? [];
    this.at = 0;
    this.depth = 0;
    this.isDisplay = isDisplay;
  }

  skipSpace() {
    while (/^\s/.test(this.tokens[this.at] ?? "")) this.at++;
  }

  peek() {
    this.skipSpace();
    return this.tokens[this.at];
  }

  next() {
    const token = this.peek();
    if (token === undefined) throw new Unreadable();
    this.at++;
    return token;
  }

  /** Atoms with their scripts until `isEnd` says so of the next token, or the end. */
  list(isEnd) {
    if (++this.depth > MAX_DEPTH) throw new Unreadable();
    const nodes = [];
    for (let token = this.peek(); token !== undefined && !isEnd(token); token = this.peek()) {
      if (token === "}" || token === "&" || token === "\\\\" || token === "\\end" || token === "\\right")
        throw new Unreadable();
      nodes.push(this.scripted());
    }
    this.depth--;
    return nodes;
  }

  /** An atom with what stands below and above it. */
  scripted() {
    const token = this.peek();
    const isLarge = LARGE.has(token);
    let base = token === "^" || token === "_" ? m("mrow") : this.atom();
    let [sub, sup] = [null, null];
    for (;;) {
      const sign = this.peek();
      if (sign === "\\limits" || sign === "\\nolimits") this.at++;
      else if (sign === "_" && !sub) (this.at++, (sub = this.argument()));
      else if (sign === "^" && !sup) (this.at++, (sup = this.argument()));
      else if (sign === "'") (this.at++, (base = m("msup", {}, base, m("mo", {}, "′"))));
      else break;
    }
    if (!sub && !sup) return base;
    const isStacked = isLarge && this.isDisplay;
    if (sub && sup) return m(isStacked ? "munderover" : "msubsup", {}, base, sub, sup);
    if (sub) return m(isStacked ? "munder" : "msub", {}, base, sub);
    return m(isStacked ? "mover" : "msup", {}, base, sup);
  }

  /** A group or a single atom, as one element. */
  argument() {
    if (this.peek() !== "{") return this.atom();
    this.at++;
    const row = m(
      "mrow",
      {},
      this.list((token) => token === "}"),
    );
    this.expect("}");
    return row;
  }

  expect(token) {
    if (this.next() !== token) throw new Unreadable();
  }

  /** The text of a group, with its spaces. */
  rawArgument() {
    this.expect("{");
    let text = "";
    for (let open = 1; ;) {
      const token = this.tokens[this.at++];
      if (token === undefined) throw new Unreadable();
      open += token === "{" ? 1 : token === "}" ? -1 : 0;
      if (!open) return text;
      text += token;
    }
  }

  atom() {
    if (++this.depth > MAX_DEPTH) throw new Unreadable();
    const made = this.atomOf(this.next());
    this.depth--;
    return made;
  }

  atomOf(token) {
    if (token === "{") return (this.at--, this.argument());
    if (token === "~") return m("mspace", { width: "0.33em" });
    if (/^\d$/.test(token)) return this.number(token);
    if (/^\p{L}$/u.test(token)) return m("mi", {}, token);
    if (token.length === 1) return m("mo", { stretchy: "false" }, plain(token === "-" ? "−" : token));
    if (SYMBOLS.has(token)) return symbol(SYMBOLS.get(token), LARGE.has(token));
    if (FUNCTIONS.has(token)) return this.named(token.slice(1));
    if (SPACES[token]) return m("mspace", { width: SPACES[token] });
    if (ACCENTS[token]) return this.accent(...ACCENTS[token]);
    if (STYLES[token]) return styled(this.argument(), STYLES[token]);
    if (FENCES[token]) return m("mo", { stretchy: "false" }, FENCES[token]);
    return this.command(token);
  }

  number(first) {
    let text = first;
    while (
      /^[\d.,]$/.test(this.tokens[this.at] ?? "") &&
      /\d/.test(this.tokens[this.at + 1] ?? this.tokens[this.at])
    )
      text += this.tokens[this.at++];
    return m("mn", {}, text);
  }

  /** A function's name, with thin spaces around it, but none before a parenthesis. */
  named(name) {
    const isClosed = ["(", "[", "\\left", "^", "_"].includes(this.peek());
    return m("mo", { form: "prefix", lspace: "0.17em", rspace: isClosed ? "0" : "0.17em" }, name);
  }

  accent(sign, isBelow) {
    return m(
      isBelow ? "munder" : "mover",
      { [isBelow ? "accentunder" : "accent"]: "true" },
      this.argument(),
      m("mo", {}, sign),
    );
  }

  command(token) {
    switch (token) {
      case "\\frac":
      case "\\dfrac":
      case "\\tfrac":
      case "\\cfrac":
        return m("mfrac", {}, this.argument(), this.argument());
      case "\\binom":
        return m(
          "mrow",
          {},
          m("mo", {}, "("),
          m("mfrac", { linethickness: "0" }, this.argument(), this.argument()),
          m("mo", {}, ")"),
        );
      case "\\sqrt":
        return this.root();
      case "\\text":
      case "\\textrm":
      case "\\textbf":
      case "\\textit":
      case "\\mbox":
      case "\\operatorname":
      case "\\operatorname*":
      case "\\tag":
        return m("mtext", {}, plain(this.rawArgument().replace(/^ | $/g, "\u00a0")));
      case "\\boxed":
        return m("mrow", { class: "boxed" }, this.argument());
      case "\\overset":
      case "\\stackrel":
        return ((above) => m("mover", {}, this.argument(), above))(this.argument());
      case "\\underset":
        return ((below) => m("munder", {}, this.argument(), below))(this.argument());
      case "\\left":
        return this.fenced();
      case "\\begin":
        return this.environment();
      case "\\displaystyle":
      case "\\textstyle":
      case "\\nonumber":
        return m("mrow");
      default:
        if (/^\\[bB]ig+[lr]?$/.test(token)) return this.atom();
        return m("mtext", { class: "unknown" }, plain(token.replace(/^\\(?=[^a-zA-Z])/, "")));
    }
  }

  root() {
    if (this.peek() !== "[") return m("msqrt", {}, this.argument());
    this.at++;
    const index = m(
      "mrow",
      {},
      this.list((token) => token === "]"),
    );
    this.expect("]");
    return m("mroot", {}, this.argument(), index);
  }

  fence() {
    const token = this.next();
    return m("mo", { fence: "true", stretchy: "true" }, FENCES[token] ?? plain(token));
  }

  fenced() {
    const open = this.fence();
    const parts = [];
    for (;;) {
      parts.push(...this.list((token) => token === "\\right" || token === "\\middle"));
      if (this.next() === "\\right") return m("mrow", {}, open, parts, this.fence());
      parts.push(this.fence());
    }
  }

  environment() {
    const name = this.rawArgument();
    const fences = TABLES[name];
    if (!fences) throw new Unreadable();
    if (name === "array") this.rawArgument();
    const rows = [[]];
    for (;;) {
      rows.at(-1).push(
        m(
          "mtd",
          {},
          this.list((token) => token === "&" || token === "\\\\" || token === "\\end"),
        ),
      );
      const sign = this.next();
      if (sign === "\\end") break;
      if (sign === "\\\\") rows.push([]);
    }
    if (this.rawArgument() !== name) throw new Unreadable();
    const isAligned = /align|split|aligned/.test(name);
    const table = m(
      "mtable",
      { class: isAligned ? "aligned" : name === "cases" ? "cases" : "" },
      rows.map((row) => m("mtr", {}, row)),
    );
    const [open, close] = fences.map((sign) => m("mo", { fence: "true", stretchy: "true" }, sign));
    return m("mrow", {}, open, table, close);
  }
}

function symbol(sign, isLarge) {
  if (/\p{L}/u.test(sign)) return m("mi", {}, sign);
  return m("mo", isLarge ? { largeop: "true", movablelimits: "false" } : { stretchy: "false" }, sign);
}

/** Letters in another alphabet: Unicode has one for each style, with a few exceptions. */
function styled(element, { upper, lower, digit, other = {} }) {
  for (const leaf of element.matches("mi, mn") ? [element] : element.querySelectorAll("mi, mn")) {
    leaf.textContent = [...leaf.textContent]
      .map((sign) => {
        if (other[sign]) return other[sign];
        const start = /[A-Z]/.test(sign)
          ? [upper, 65]
          : /[a-z]/.test(sign)
            ? [lower, 97]
            : /\d/.test(sign)
              ? [digit, 48]
              : [];
        return start[0] ? String.fromCodePoint(start[0] + sign.codePointAt(0) - start[1]) : sign;
      })
      .join("");
    if (leaf.textContent.length) leaf.setAttribute("mathvariant", "normal");
  }
  return element;
}
