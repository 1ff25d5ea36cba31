// The Complete panel: a raw prompt goes on, with the probability of each token, its own included.

import { field, h, icon, iconButton, oncePerFrame, put } from "../lib/dom.js";
import { stream } from "../lib/api.js";
import { count, dollars, plain } from "../lib/format.js";
import { modelPicker, refreshModels } from "../lib/models.js";
import { inTab, keepInTab, remembered } from "../lib/settings.js";
import { showRequest } from "../lib/snippets.js";
import { TokensView } from "../draw/tokens.js";

const ROUTE = "/v1/completions";

export default class CompletePanel {
  constructor() {
    this.model = remembered("complete-model", "");
    this.prompt = h("textarea", {
      rows: 8,
      class: "mono",
      "aria-label": "Prompt",
      placeholder: "Once upon a time",
      value: inTab("prompt"),
    });
    this.maxTokens = h("input", { type: "number", min: 0, max: 100000, value: 64 });
    this.temperature = h("input", { type: "number", min: 0, max: 2, step: 0.01, value: 0.7 });
    this.stop = h("input", { placeholder: "none" });
    this.suffix = h("input", { placeholder: "none" });
    this.echo = h("input", { type: "checkbox" });
    this.scores = h("input", { type: "checkbox", checked: true });
    this.output = h("div", { class: "card output" });
    this.figures = h("div", { class: "figures", role: "status" });
    this.button = h("button", { type: "submit", class: "button primary" }, "Complete");
    this.clear();
    this.element = this.layout();
    this.prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.run();
    });
  }

  layout() {
    const form = h(
      "form",
      { class: "card stack", onsubmit: (event) => (event.preventDefault(), this.run()) },
      this.prompt,
      h(
        "div",
        { class: "fields-line" },
        field("Max tokens", this.maxTokens),
        field("Temperature", this.temperature),
        field("Stop at", this.stop),
        field("Text after the gap", this.suffix, "For models that fill in the middle."),
      ),
      h(
        "div",
        { class: "row wrap" },
        h("label", { class: "check" }, this.scores, "Probabilities"),
        h("label", { class: "check" }, this.echo, "Of the prompt too"),
        h("span", { class: "grow" }),
        iconButton("code", "The request as code", () => showRequest(ROUTE, { ...this.body(), stream: true })),
        this.button,
      ),
    );
    return h(
      "section",
      { class: "panel", "aria-label": "Complete" },
      h("div", { class: "panel-title" }, h("h1", {}, "Complete"), modelPicker(["text"], this.model)),
      h("div", { class: "stack" }, form, this.output, this.figures),
    );
  }

  clear() {
    put(
      this.output,
      h(
        "p",
        { class: "hint" },
        "Write how a text begins, and the model goes on. Nothing is added to it: no chat template, no " +
          "system prompt. Ctrl+Enter sends.",
      ),
    );
    put(this.figures);
  }

  body() {
    const body = {
      model: this.model.value,
      prompt: this.prompt.value,
      max_tokens: this.maxTokens.valueAsNumber || 0,
      temperature: this.temperature.valueAsNumber || 0,
    };
    if (this.scores.checked) body.logprobs = 5;
    if (this.echo.checked) body.echo = true;
    if (this.stop.value) body.stop = [this.stop.value];
    if (this.suffix.value) body.suffix = this.suffix.value;
    return body;
  }

  async run() {
    if (this.control) return this.control.abort();
    this.control = new AbortController();
    keepInTab("prompt", this.prompt.value);
    put(this.button, icon("stop"), "Stop");
    const answer = new Completion(this.body());
    put(this.output, answer.element);
    put(this.figures, "Waiting for the model…");
    try {
      for await (const chunk of stream(
        ROUTE,
        { ...this.body(), stream_options: { include_usage: true } },
        this.control.signal,
      )) {
        for (const choice of chunk.choices) answer.take(choice);
        if (chunk.usage)
          put(
            this.figures,
            usageText(chunk.usage).map((text) => h("span", {}, text)),
          );
      }
    } catch (error) {
      put(
        this.figures,
        error.name === "AbortError"
          ? "Stopped."
          : h("div", { class: "problem" }, icon("warning"), plain(error.message)),
      );
    } finally {
      this.control = null;
      put(this.button, "Complete");
      refreshModels().catch(() => {});
    }
  }
}

const usageText = (usage) => [
  `${count(usage.completion_tokens)} tokens`,
  `prompt ${count(usage.prompt_tokens)}`,
  dollars(usage.estimated_cost ?? 0),
];

/** A completion as it comes: as tokens if there are probabilities, else as text. */
class Completion {
  constructor(body) {
    this.text = body.echo ? "" : body.prompt;
    this.tokens = body.logprobs === undefined ? null : new TokensView();
    this.scores = [];
    this.given = h("span", { class: "given" }, body.echo ? "" : plain(body.prompt));
    this.rest = h("span");
    this.pending = "";
    this.element = this.tokens?.element ?? h("div", { class: "plain", dir: "auto" }, this.given, this.rest);
    this.draw = oncePerFrame(() => {
      if (this.tokens) this.tokens.show(this.scores);
      this.rest.append(plain(this.pending));
      this.pending = "";
    });
  }

  take(choice) {
    this.pending += choice.text;
    if (this.tokens && choice.logprobs) this.scores.push(...scoresOf(choice.logprobs));
    this.draw();
  }
}

/** A text completion's columns → the scores of chat completions. */
function scoresOf({ tokens, token_logprobs, top_logprobs }) {
  return tokens.map((token, at) => ({
    token,
    logprob: token_logprobs[at],
    top_logprobs: Object.entries(top_logprobs?.[at] ?? {})
      .map(([other, logprob]) => ({ token: other, logprob }))
      .sort((a, b) => b.logprob - a.logprob),
  }));
}
