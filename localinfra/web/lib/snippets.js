// A request as a user would write it elsewhere.

import { h } from "./dom.js";
import { copyButton, openDialog } from "./dialog.js";
import { highlight } from "../text/highlight.js";

const KEY = "LOCALINFRA_API_KEY";

/** Single quotes for a POSIX shell. */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function curl(path, body) {
  const flags = body.stream ? "curl -N" : "curl";
  return `${flags} ${location.origin}${path} \\
  -H "Authorization: Bearer $${KEY}" \\
  -H "Content-Type: application/json" \\
  -d ${quoted(JSON.stringify(body, null, 2))}`;
}

/** A value as a Python literal. */
export function python(value, indent = "") {
  const more = indent + "    ";
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) {
    if (!value.length) return "[]";
    return `[\n${value.map((item) => `${more}${python(item, more)},\n`).join("")}${indent}]`;
  }
  if (typeof value === "object") {
    const items = Object.entries(value);
    if (!items.length) return "{}";
    return `{\n${items.map(([key, item]) => `${more}${JSON.stringify(key)}: ${python(item, more)},\n`).join("")}${indent}}`;
  }
  return JSON.stringify(value);
}

// What OpenAI's clients call the routes, and what they return.
const METHODS = {
  "/v1/chat/completions": ["chat.completions.create", "chunk.choices[0].delta.content"],
  "/v1/completions": ["completions.create", "chunk.choices[0].text"],
  "/v1/embeddings": ["embeddings.create", ""],
  "/v1/images/generations": ["images.generate", "chunk.type"],
};
// Arguments of OpenAI's methods; others go into `extra_body`.
const KNOWN = new Set(
  (
    "model messages prompt input n stream stream_options temperature top_p max_tokens max_completion_tokens " +
    "presence_penalty frequency_penalty logit_bias logprobs top_logprobs response_format seed stop tools " +
    "tool_choice parallel_tool_calls reasoning_effort user echo suffix best_of size quality partial_images " +
    "dimensions encoding_format"
  ).split(" "),
);

export function pythonProgram(path, body) {
  return METHODS[path] ? openaiProgram(path, body) : httpxProgram(path, body);
}

function openaiProgram(path, body) {
  const [method, text] = METHODS[path];
  const known = Object.entries(body).filter(([name]) => KNOWN.has(name));
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => !KNOWN.has(name)));
  const values = [...known, ...(Object.keys(extra).length ? [["extra_body", extra]] : [])];
  const lines = values.map(([name, value]) => `    ${name}=${python(value, "    ")},`).join("\n");
  const head = `import os
from openai import OpenAI

client = OpenAI(base_url="${location.origin}/v1", api_key=os.environ.get("${KEY}", "none"))
`;
  if (!body.stream) return `${head}reply = client.${method}(\n${lines}\n)\nprint(reply)`;
  const shown = text.startsWith("chunk.choices")
    ? `    if chunk.choices:\n        print(${text} or "", end="")`
    : `    print(${text})`;
  return `${head}for chunk in client.${method}(\n${lines}\n):\n${shown}`;
}

const httpxProgram = (path, body) => `import os
import httpx

reply = httpx.post(
    "${location.origin}${path}",
    headers={"Authorization": "Bearer " + os.environ.get("${KEY}", "none")},
    json=${python(body, "    ")},
    timeout=None,
)
print(reply.text)`;

export function javascriptProgram(path, body) {
  const value = JSON.stringify(body, null, 2);
  const send = `const reply = await fetch("${location.origin}${path}", {
  method: "POST",
  headers: {
    authorization: \`Bearer \${process.env.${KEY}}\`,
    "content-type": "application/json",
  },
  body: JSON.stringify(${value.replaceAll("\n", "\n  ")}),
});`;
  if (!body.stream) return `${send}\nconsole.log(await reply.json());`;
  return `${send}
for await (const part of reply.body.pipeThrough(new TextDecoderStream())) {
  process.stdout.write(part);
}`;
}

const DATA_URL = /^data:[\w.+/-]+;base64,/;
const MAX_SHOWN = 200; // characters of one

/** The body with a place to fill in where it has a file: its data would hide the rest. */
export function abbreviated(body) {
  let number = 0;
  const brief = (_key, value) => {
    const head = typeof value === "string" && value.length > MAX_SHOWN && DATA_URL.exec(value)?.[0];
    return head ? `${head}<PUT THE BASE64 OF FILE ${++number} HERE>` : value;
  };
  return JSON.parse(JSON.stringify(body, brief));
}

/** Shows a request as curl, Python and JavaScript. */
export function showRequest(path, whole) {
  const body = abbreviated(whole);
  const code = h("code", {});
  const tabs = [
    ["curl", "bash", curl],
    ["Python", "python", pythonProgram],
    ["JavaScript", "js", javascriptProgram],
  ].map(([name, language, write]) => {
    const choose = () => {
      for (const tab of tabs) tab.setAttribute("aria-pressed", String(tab === button));
      code.replaceChildren(highlight(write(path, body), language));
    };
    const button = h("button", { type: "button", class: "tab", onclick: choose }, name);
    return button;
  });
  openDialog(
    "This request",
    [
      h(
        "div",
        { class: "row" },
        h("div", { class: "tabs" }, tabs),
        h("span", { class: "grow" }),
        copyButton(() => code.textContent),
      ),
      h("pre", { class: "code", tabindex: "0" }, code),
    ],
    "wide",
  );
  tabs[0].click();
}
