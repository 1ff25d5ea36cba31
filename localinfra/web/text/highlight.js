// Colours for code: comments, strings, numbers, keywords and calls. One pass over the text with one
// expression for each family of languages, none of which can backtrack far.

import { h } from "../lib/dom.js";
import { plain } from "../lib/format.js";

const MAX_CHARS = 100_000; // longer code stays plain

const C_LIKE =
  "abstract alignas and as asm async auto await bool boolean break byte case catch char class const constexpr continue crate " +
  "debugger def default defer delete do double dyn else enum export extends extern false final finally float fn for foreach " +
  "from func function get go goto if impl implements import in inline instanceof int interface internal is let long loop " +
  "match mod module move mut namespace new nil null nullptr object of operator or override package private protected pub " +
  "public range readonly ref return sealed self set short signed sizeof static struct super switch template this throw throws " +
  "trait true try type typedef typename typeof undefined union unsafe unsigned use using val var virtual void volatile when " +
  "where while with yield";
const PYTHON =
  "False None True and as assert async await break case class continue def del elif else except finally for from global if " +
  "import in is lambda match nonlocal not or pass raise return self try while with yield";
const SHELL =
  "alias case cd do done echo elif else esac eval exec exit export fi for function if in local read return set shift source then " +
  "trap unset until while";
const SQL =
  "add all alter and as asc begin between by case cast check commit constraint create default delete desc distinct drop else end " +
  "exists false foreign from full group having if in index inner insert into is join key left like limit not null offset on or " +
  "order outer over partition primary references returning right select set table then true union unique update using values view when where with";

const DOUBLE = '"(?:\\\\[^]|[^"\\\\\\n])*"?';
const SINGLE = "'(?:\\\\[^]|[^'\\\\\\n])*'"; // closed: else a lifetime or an apostrophe
const NUMBER = "\\b(?:0[xXbBoO][\\da-fA-F_]+|\\d[\\d_]*(?:\\.\\d[\\d_]*)?(?:[eE][+-]?\\d+)?)\\w*";

function family(keywords, comment, string, flags = "") {
  const words = keywords && `(?<keyword>\\b(?:${keywords.split(" ").join("|")})\\b)|`;
  return new RegExp(
    `(?<comment>${comment})|(?<string>${string})|${words}(?<number>${NUMBER})|(?<call>\\b[\\p{L}_]\\w*(?=\\())`,
    `gu${flags}`,
  );
}

const FAMILIES = {
  c: family(
    C_LIKE,
    "\\/\\/[^\\n]*|\\/\\*[^]*?(?:\\*\\/|$)",
    `${DOUBLE}|${SINGLE}|\`(?:\\\\[^]|[^\`\\\\])*\`?`,
  ),
  python: family(PYTHON, "#[^\\n]*", `"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|${DOUBLE}|${SINGLE}`),
  shell: family(SHELL, "(?<![^\\s;])#[^\\n]*", `${DOUBLE}|'[^']*'?|\\$\\w+|\\$\\{[^}\\n]*\\}?`),
  sql: family(SQL, "--[^\\n]*|\\/\\*[^]*?(?:\\*\\/|$)", `${SINGLE}|${DOUBLE}`, "i"),
  data: family(
    "true false null yes no",
    "(?<![^\\s])#[^\\n]*|(?<![^\\s])\\/\\/[^\\n]*",
    `${DOUBLE}|${SINGLE}`,
  ),
  markup:
    /(?<comment><!--[^]*?(?:-->|$))|(?<keyword><\/?[\w:-]+|\/?>)|(?<string>(?<==\s?)"[^"]*"?|(?<==\s?)'[^'\n]*'?)|(?<call>\b[\w:-]+(?==))/gu,
  css: /(?<comment>\/\*[^]*?(?:\*\/|$))|(?<string>"[^"\n]*"?|'[^'\n]*'?)|(?<keyword>@[\w-]+|--[\w-]+|[\w-]+(?=\s*:))|(?<number>#[\da-fA-F]{3,8}\b|-?\d+(?:\.\d+)?(?:%|\w+)?)|(?<call>[\w-]+(?=\())/gu,
  diff: /(?<comment>^@@[^\n]*)|(?<string>^\+[^\n]*)|(?<keyword>^-[^\n]*)/gmu,
};
const NAMES = {
  python: "python py python3 ruby rb perl elixir r julia jl",
  shell: "bash sh shell zsh console fish powershell ps1 dockerfile makefile make",
  sql: "sql postgresql mysql sqlite",
  data: "json jsonc yaml yml toml ini conf",
  markup: "html xml svg vue svelte",
  css: "css scss less",
  diff: "diff patch",
  c: "c cpp c++ cc h hpp cs csharp java js javascript jsx ts typescript tsx go rust rs swift kotlin kt scala php dart zig lua haskell hs",
};
const FAMILY_OF = new Map(
  Object.entries(NAMES).flatMap(([family, names]) => names.split(" ").map((name) => [name, family])),
);

/** @returns {DocumentFragment} */
export function highlight(text, language) {
  const made = document.createDocumentFragment();
  const expression = FAMILIES[FAMILY_OF.get((language || "").toLowerCase())];
  if (!expression || text.length > MAX_CHARS) {
    made.append(plain(text));
    return made;
  }
  let at = 0;
  for (const found of text.matchAll(expression)) {
    if (found.index > at) made.append(plain(text.slice(at, found.index)));
    const kind = Object.keys(found.groups).find((name) => found.groups[name] !== undefined);
    made.append(h("span", { class: `hl-${kind}` }, plain(found[0])));
    at = found.index + found[0].length;
  }
  made.append(plain(text.slice(at)));
  return made;
}
