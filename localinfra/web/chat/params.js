// The request's parameters as the user sets them: empty means the model's own.

import { field, h, put } from "../lib/dom.js";
import { notify } from "../lib/dialog.js";
import { models } from "../lib/models.js";
import { remembered } from "../lib/settings.js";

const SAMPLING = [
  ["temperature", "Temperature", 0, 2, 0.05, 1, "0 always takes the likeliest token; more is more varied."],
  ["top_p", "Top p", 0.01, 1, 0.01, 1, "Only the likeliest tokens that together have this probability."],
  ["min_p", "Min p", 0, 1, 0.01, 0, "No token below this share of the likeliest one's probability."],
  ["top_k", "Top k", 0, 999, 1, 0, "Only this many of the likeliest tokens; 0 means all."],
  ["repetition_penalty", "Repetition", 0.01, 5, 0.01, 1, "Above 1, tokens that occurred become less likely."],
  ["presence_penalty", "Presence", -2, 2, 0.1, 0, "Subtracted from tokens that were generated."],
  ["frequency_penalty", "Frequency", -2, 2, 0.1, 0, "Subtracted as often as they were generated."],
  ["seed", "Seed", 0, 9007199254740991, 1, "random", "The same seed and request give the same answer."],
  ["max_tokens", "Max tokens", 1, 1000000, 1, "no limit", "Where an answer is cut off."],
  ["n", "Answers", 1, 16, 1, 1, "Several answers to one prompt, side by side."],
];

const FORMATS = ["text", "json_object", "json_schema", "regex", "grammar"];
const EFFORTS = ["", "none", "minimal", "low", "medium", "high"];

/** What the user set, by the names of the API; kept in the browser. */
export const params = remembered("params", {});

/** The system prompt of the conversation that is shown, and of the next new one. */
export const system = remembered("system", "");

function change(name, value) {
  const { [name]: _, ...others } = params.value;
  params.set(value === "" || value === null ? others : { ...others, [name]: value });
}

/**
 * The fields of a request that come from here: the model's recommended sampling, then the user's.
 * @throws {Error} if the tools or the schema are no JSON
 */
export function bodyOf(card) {
  const { stop, tools, toolChoice, format, formatText, effort, scores, alternatives, ...numbers } =
    params.value;
  const body = { ...card?.recommended, ...numbers };
  const stops = (stop ?? "").split("\n").filter(Boolean);
  if (stops.length) body.stop = stops;
  if (tools) {
    body.tools = toolList(tools);
    if (toolChoice) body.tool_choice = toolChoice;
  }
  if (format) body.response_format = formatOf(format, formatText ?? "");
  if (effort) body.reasoning_effort = effort;
  if (scores) Object.assign(body, { logprobs: true, top_logprobs: alternatives ?? 5 });
  return body;
}

function parsed(text, name) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`The ${name} beside the chat can't be read as JSON: ${error.message}`);
  }
}

function toolList(text) {
  const given = parsed(text, "functions");
  const list = Array.isArray(given) ? given : [given];
  return list.map((tool) => (tool.function ? tool : { type: "function", function: tool }));
}

function formatOf(type, text) {
  if (type === "json_schema")
    return { type, json_schema: { name: "answer", schema: parsed(text, "schema") } };
  if (type === "regex" || type === "grammar") return { type, [type]: text };
  return { type };
}

/** The form beside the chat. @param {import("../lib/signal.js").Signal<string>} model */
export function paramsForm(model) {
  const numbers = h("div", { class: "field-grid" });
  const showNumbers = () => {
    const recommended = models.value.find((card) => card.id === model.value)?.recommended ?? {};
    put(
      numbers,
      SAMPLING.map((row) => numberField(row, recommended)),
    );
  };
  const systemPrompt = systemField();
  const form = h("form", { class: "params", onsubmit: (event) => event.preventDefault() });
  const fill = () => {
    const reset = h("button", { type: "button", class: "button quiet", onclick: resetAll }, "Reset all");
    put(form, systemPrompt, numbers, probabilityField(), formSection(), toolSection(), reset);
    showNumbers();
  };
  const resetAll = () => {
    params.set({});
    system.set("");
    fill();
  };
  fill();
  model.watch(showNumbers);
  return form;
}

function systemField() {
  const made = textArea("System prompt", system.value, "You are …", 3, (text) => system.set(text));
  system.watch((text) => (made.querySelector("textarea").value = text));
  return made;
}

function formSection() {
  return section(
    "Stop, form, reasoning",
    ["stop", "format", "effort"],
    [
      textArea("Stop at (one a line)", params.value.stop ?? "", "###", 2, (text) => change("stop", text)),
      formatFields(),
      choice("Reasoning effort", "effort", EFFORTS, (name) => name || "the model's own"),
    ],
  );
}

function toolSection() {
  return section(
    "Tools",
    ["tools"],
    [
      textArea(
        "Functions as JSON",
        params.value.tools ?? "",
        '{"name": "get_weather", "parameters": {…}}',
        6,
        (text) => change("tools", text),
        "mono",
        checkTools,
      ),
      choice("Use", "toolChoice", ["", "required", "none"], (name) => name || "as the model likes"),
    ],
  );
}

function section(title, names, content) {
  return h("details", { open: names.some((name) => params.value[name]) }, h("summary", {}, title), content);
}

function numberField([name, label, min, max, step, usual, hint], recommended) {
  const input = h("input", {
    type: "number",
    min,
    max,
    step,
    placeholder: String(recommended[name] ?? usual),
    value: params.value[name] ?? "",
    onchange: () => {
      const given = step === 1 ? Math.round(input.valueAsNumber) : input.valueAsNumber;
      input.value = Number.isNaN(given) ? "" : String(Math.min(max, Math.max(min, given)));
      change(name, input.value === "" ? null : input.valueAsNumber);
    },
  });
  return field(
    label,
    input,
    hint + (name in recommended ? ` The model's makers recommend ${recommended[name]}.` : ""),
  );
}

function textArea(label, value, placeholder, rows, onchange, className = "", check = () => {}) {
  const area = h("textarea", {
    class: className,
    placeholder,
    rows,
    value,
    onchange: () => (check(area.value), onchange(area.value)),
  });
  return field(label, area);
}

function checkTools(text) {
  try {
    if (text.trim()) toolList(text);
  } catch (error) {
    notify(error.message, "error");
  }
}

function choice(label, name, values, shown) {
  const select = h(
    "select",
    { onchange: () => change(name, select.value) },
    values.map((value) => h("option", { value }, shown(value))),
  );
  select.value = params.value[name] ?? "";
  return field(label, select);
}

function formatFields() {
  const details = textArea(
    "Schema, expression or grammar",
    params.value.formatText ?? "",
    "",
    4,
    (text) => change("formatText", text),
    "mono",
  );
  const show = () => (details.hidden = !["json_schema", "regex", "grammar"].includes(params.value.format));
  const select = h(
    "select",
    { onchange: () => (change("format", select.value === "text" ? "" : select.value), show()) },
    FORMATS.map((name) => h("option", { value: name }, name)),
  );
  select.value = params.value.format ?? "text";
  show();
  return [field("The answer must be", select, "The answer is guaranteed to have this form."), details];
}

function probabilityField() {
  const box = h("input", { type: "checkbox", onchange: () => change("scores", box.checked || null) });
  box.checked = Boolean(params.value.scores);
  return h(
    "label",
    { class: "check", title: "How likely each token was, as a heat map" },
    box,
    "Token probabilities",
  );
}
