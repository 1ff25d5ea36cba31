// One operation's request: edited, shown as curl, sent, and its answer as it comes.

import { copyButton, h } from "./dom.js";
import { hasKey, send, standIn } from "./server.js";

const LONGEST_TEXT = 400; // of a value that is shown: pictures have millions of letters
const LONGEST_ANSWER = 200_000;
const LINES = "application/x-ndjson"; // streams of Ollama's API, where they are the default

/** Single quotes for a POSIX shell. */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** The panel in which an operation can be tried. */
export class Trying {
  /** `kinds`: those of the examples' models. */
  constructor(path, method, operation, kinds) {
    this.kinds = kinds;
    this.path = path;
    this.method = method.toUpperCase();
    this.operation = operation;
    this.examples = operation.requestBody?.content["application/json"].examples ?? null;
    this.inputs = (operation.parameters ?? []).map((parameter) => [parameter, this.input(parameter)]);
    this.body = this.examples && h("textarea", { class: "body", spellcheck: "false", "aria-label": "Body" });
    this.curl = h("code");
    this.answer = h("div", { class: "answer", "aria-live": "polite" });
    this.button = h("button", { type: "submit", class: "primary" }, "Try it");
    this.stop = null;
    this.element = this.panel();
    this.choose(this.examples ? Object.keys(this.examples)[0] : "");
  }

  panel() {
    const form = h(
      "form",
      { onsubmit: (event) => (event.preventDefault(), this.run()), oninput: () => this.showCurl() },
      this.examples && this.chooser(),
      this.inputs.map(([parameter, input]) => h("label", {}, parameter.name, input)),
      this.body,
      h("div", { class: "row" }, this.button, h("span", { class: "grow" }), copyButton(() => this.curl.textContent)),
      h("pre", { tabindex: "0", "aria-label": "As curl" }, this.curl),
    );
    return h("div", { class: "try" }, form, this.answer);
  }

  chooser() {
    const names = Object.keys(this.examples);
    if (names.length === 1) return null;
    const onchange = (event) => this.choose(event.target.value);
    return h("label", {}, "Example", h("select", { onchange }, names.map((name) => h("option", {}, name))));
  }

  input(parameter) {
    const { type, enum: choices } = parameter.schema;
    const hint = choices?.join(" or ") ?? (parameter.in === "query" ? "" : type);
    return h("input", { required: parameter.in === "path", placeholder: hint, spellcheck: "false" });
  }

  /** Fills in an example, with models that this server has. */
  async choose(name) {
    const body = this.examples && structuredClone(this.examples[name].value);
    if (body?.model) body.model = await standIn(body.model, this.kinds[body.model]);
    for (const [parameter, input] of this.inputs) {
      const values = parameter.examples ?? {};
      const value = (values[name] ?? Object.values(values)[0])?.value ?? "";
      input.value = await standIn(value, this.kinds[value]);
    }
    if (body) this.body.value = JSON.stringify(body, null, 2);
    this.showCurl();
  }

  /** The path with its parameters, which may hold slashes. */
  get filledPath() {
    const query = new URLSearchParams();
    let path = this.path;
    for (const [{ name, in: place }, { value }] of this.inputs) {
      if (place === "path") path = path.replace(`{${name}}`, value.split("/").map(encodeURIComponent).join("/") || `{${name}}`);
      else if (value) query.set(name, value);
    }
    return query.size ? `${path}?${query}` : path;
  }

  showCurl() {
    const lines = [`curl ${this.isStreamed ? "-N " : ""}${quoted(location.origin + this.filledPath)}`];
    if (this.method !== (this.body ? "POST" : "GET")) lines[0] += ` -X ${this.method}`;
    if (hasKey()) lines.push('-H "Authorization: Bearer $LOCALINFRA_API_KEY"');
    if (this.body) lines.push("-H 'Content-Type: application/json'", `-d ${quoted(this.body.value)}`);
    this.curl.textContent = lines.join(" \\\n  ");
  }

  get isStreamed() {
    const isUsual = LINES in this.operation.responses["200"].content;
    const given = /"stream":\s*(true|false)/.exec(this.body?.value ?? "");
    return given ? given[1] === "true" : isUsual;
  }

  async run() {
    if (this.stop) {
      this.stop.abort();
      return;
    }
    if (this.method === "DELETE" && !confirm(`${this.method} ${this.filledPath}?`)) return;
    this.stop = new AbortController();
    this.button.textContent = "Stop";
    this.answer.replaceChildren(h("p", { class: "type" }, "Waiting…"));
    try {
      await this.show();
    } catch (error) {
      const text = error.name === "AbortError" ? "Stopped." : "The server can't be reached.";
      this.answer.append(h("p", { class: "bad" }, text));
    } finally {
      this.stop = null;
      this.button.textContent = "Try it";
    }
  }

  async show() {
    const started = performance.now();
    const options = { method: this.method, body: this.body?.value, signal: this.stop.signal };
    const reply = await send(this.filledPath, options);
    const status = h("p", { class: reply.ok ? "good" : "bad" }, `${reply.status} ${reply.statusText}`);
    const names = ["x-localinfra-ignored", "x-localinfra-truncated", "retry-after"];
    const headers = names.filter((name) => reply.headers.has(name)).map((name) => `${name}: ${reply.headers.get(name)}`);
    this.answer.replaceChildren(status, ...headers.map((line) => h("p", { class: "type" }, line)));
    const type = reply.headers.get("content-type") ?? "";
    if (reply.status === 401) this.answer.append(h("p", {}, "The button at the top of the page takes a key."));
    if (type.startsWith("image/")) this.answer.append(picture(URL.createObjectURL(await reply.blob())));
    else if (type.startsWith("text/event-stream")) await this.follow(reply, "\n\n");
    else if (type.startsWith(LINES)) await this.follow(reply, "\n");
    else this.showText(await reply.text(), type);
    status.append(` in ${Math.round(performance.now() - started)} ms`);
  }

  showText(text, type) {
    const value = type.startsWith("application/json") ? JSON.parse(text) : null;
    const shown = value === null ? text : JSON.stringify(value, shortened, 2);
    this.answer.append(h("pre", { tabindex: "0", "aria-label": "Answer" }, shown.slice(0, LONGEST_ANSWER)));
    this.answer.append(...pictures(value));
  }

  /** Shows events as they come, or lines: each is one up to an `end`. */
  async follow(reply, end) {
    const shown = h("pre", { tabindex: "0", "aria-label": "Events" });
    this.answer.append(shown);
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const events = (rest + part.value).split(end);
      rest = events.pop();
      for (const event of events) this.showEvent(event, shown);
    }
  }

  showEvent(event, shown) {
    const data = event.startsWith("{") ? event : event.slice(event.indexOf("data: ") + 6);
    const value = data.startsWith("{") ? JSON.parse(data) : null;
    const text = value ? event.slice(0, -data.length) + JSON.stringify(value, shortened) : event;
    if (shown.textContent.length < LONGEST_ANSWER) shown.append(`${text}\n\n`);
    this.answer.append(...pictures(value));
  }
}

function shortened(_, value) {
  const isLong = typeof value === "string" && value.length > LONGEST_TEXT;
  return isLong ? `${value.slice(0, 60)}… (${value.length} characters)` : value;
}

const picture = (url) => h("img", { src: url, alt: "The image of the answer" });

/** The pictures in an answer. */
function pictures(value) {
  if (typeof value === "string") return /^data:image\/\w+;base64,/.test(value) ? [picture(value)] : [];
  if (value === null || typeof value !== "object") return [];
  const own = typeof value.b64_json === "string" ? [picture(`data:image/png;base64,${value.b64_json}`)] : [];
  return [...own, ...Object.values(value).flatMap(pictures)];
}
