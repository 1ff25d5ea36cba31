// The Models panel: what is on this machine, what is in memory, and what can be fetched.

import { h, icon, iconButton, put } from "../lib/dom.js";
import { json, stream } from "../lib/api.js";
import { confirmed, notify } from "../lib/dialog.js";
import { bytes, count, dollars, plain, seconds } from "../lib/format.js";
import { adviceWithout, areKnown, isPresent, models, refreshModels, stateName } from "../lib/models.js";
import { showRequest } from "../lib/snippets.js";
import { budgets } from "./metrics.js";

const PULL = "/v1/models/pull";
const KINDS = { text: "Chat and text", embedding: "Embeddings", rerank: "Rerankers", image: "Images" };
const EVERY_MS = 2000; // while the panel is shown

export default class ModelsPanel {
  constructor() {
    this.memory = h("div", { class: "memory" });
    this.list = h("div", { class: "stack" });
    this.pulls = h("div", { class: "stack" });
    this.busy = new Set(); // ids of models whose loading or unloading was asked for here
    this.budget = new Map();
    this.element = h(
      "section",
      { class: "panel", "aria-label": "Models" },
      h("div", { class: "panel-title" }, h("h1", {}, "Models")),
      this.memory,
      this.pullForm(),
      this.pulls,
      this.list,
    );
    models.watch(() => this.show());
  }

  enter() {
    this.timer = setInterval(() => document.hidden || this.refresh(), EVERY_MS);
    this.refresh();
  }

  leave() {
    clearInterval(this.timer);
  }

  async refresh() {
    try {
      this.budget = await budgets();
      await refreshModels();
    } catch (error) {
      if (!this.failed) notify(error.message, "error");
      this.failed = true;
      return;
    }
    this.failed = false;
  }

  show() {
    if (!models.value.length) return put(this.list, h("div", { class: "empty" }, emptyAdvice()));
    put(this.memory, this.memoryBars());
    const groups = Object.entries(KINDS).map(([kind, title]) => [
      title,
      models.value.filter((card) => card.kind === kind),
    ]);
    const wasIn = document.activeElement?.dataset?.act;
    put(
      this.list,
      groups
        .filter(([, cards]) => cards.length)
        .map(([title, cards]) => [
          h("h2", {}, title),
          h(
            "div",
            { class: "model-list" },
            cards.sort((a, b) => Number(isPresent(b)) - Number(isPresent(a))).map((card) => this.row(card)),
          ),
        ]),
    );
    if (wasIn) this.list.querySelector(`[data-act="${CSS.escape(wasIn)}"]`)?.focus();
  }

  memoryBars() {
    const held = new Map(); // device → [[model, bytes]]
    for (const card of models.value) {
      for (const [device, size] of Object.entries(card.memory ?? {}))
        held.set(device, [...(held.get(device) ?? []), [card.id, size]]);
    }
    const devices = new Set([...this.budget.keys(), ...held.keys()]);
    if (!devices.size)
      return h(
        "div",
        { class: "empty" },
        "No model is in memory. The first request for one loads it, or the button beside it here.",
      );
    return [...devices].map((device) => memoryBar(device, held.get(device) ?? [], this.budget.get(device)));
  }

  row(card) {
    const facts = [
      card.context_length && `${count(card.context_length)} tokens of context`,
      card.dimensions && `${card.dimensions} dimensions`,
      priceOf(card.price),
      card.memory && bytes(Object.values(card.memory).reduce((sum, size) => sum + size, 0)),
      card.versions?.length ? `versions ${card.versions.join(", ")}` : null,
      card.optimize && `faster weights: ${card.optimize}`,
      card.aliases?.length ? `also ${card.aliases.join(", ")}` : null,
    ];
    return h(
      "article",
      { class: "card model", "aria-label": card.id },
      h(
        "div",
        {},
        h(
          "div",
          { class: "model-title" },
          plain(card.id),
          h("span", { class: `badge ${card.state}` }, stateName(card)),
        ),
        h(
          "div",
          { class: "model-facts" },
          facts.filter(Boolean).map((fact) => h("span", {}, plain(String(fact)))),
        ),
        card.description ? h("p", { class: "hint" }, plain(card.description)) : null,
        card.trouble ? h("p", { class: "hint trouble" }, plain(card.trouble)) : null,
      ),
      h("div", { class: "row" }, this.buttons(card)),
      card.remedy ? h("details", { class: "remedy" }, h("summary", {}, "By hand"), plain(card.remedy)) : null,
    );
  }

  buttons(card) {
    if (!isPresent(card))
      return h(
        "button",
        {
          type: "button",
          class: "button",
          data: { act: `get ${card.id}` },
          onclick: () => this.pull(card.id),
        },
        icon("download"),
        `Fetch ${/\(([\d.]+ [GM]B)\)/.exec(card.remedy)?.[1] ?? ""}`,
      );
    const isBusy = this.busy.has(card.id) || card.state === "loading";
    const isLoaded = card.state === "loaded";
    const label = isBusy ? (isLoaded ? "Unloading…" : "Loading…") : isLoaded ? "Unload" : "Load";
    return [
      h(
        "button",
        {
          type: "button",
          class: "button",
          disabled: isBusy,
          data: { act: `load ${card.id}` },
          onclick: () => this.change(card, isLoaded ? "unload" : "load"),
        },
        label,
      ),
      iconButton("trash", `Delete the files of ${card.id}`, () => this.remove(card)),
    ];
  }

  async change(card, action) {
    this.busy.add(card.id);
    this.show();
    await this.tell(`/v1/models/${encodeURIComponent(card.id)}/${action}`, "POST");
    this.busy.delete(card.id);
    await this.refresh();
  }

  async remove(card) {
    if (!(await confirmed(`Delete the files of ${card.id}? Fetching them again may take long.`, "Delete")))
      return;
    const deleted = await this.tell(`/v1/models/${encodeURIComponent(card.id)}`, "DELETE");
    if (deleted) notify(`${bytes(deleted.size_bytes)} are free now.`);
    await this.refresh();
  }

  async tell(path, method) {
    try {
      return await json(path, { method });
    } catch (error) {
      notify(error.message, "error");
      return null;
    }
  }

  pullForm() {
    const name = h("input", {
      "aria-label": "Model to fetch",
      placeholder: "hf:owner/repo, ollama:name, or a name from the list",
      spellcheck: "false",
    });
    const send = (event) => {
      event.preventDefault();
      if (name.value.trim()) this.pull(name.value.trim());
      name.value = "";
    };
    const code = iconButton("code", "The request as code", () =>
      showRequest(PULL, { model: name.value || "hf:owner/repo", stream: true }),
    );
    return h(
      "form",
      { class: "row", onsubmit: send, style: { "margin-bottom": "14px" } },
      name,
      code,
      h("button", { type: "submit", class: "button primary" }, icon("download"), "Fetch"),
    );
  }

  /** Fetches a model and shows how far it is; closing its line stops it, and what came is kept. */
  async pull(name) {
    const control = new AbortController();
    const bar = h("progress", { max: 1, "aria-label": `Fetching ${name}` });
    const text = h("span", { class: "hint" }, "asking…");
    const line = h(
      "div",
      { class: "card stack", role: "group", "aria-label": `Fetching ${name}` },
      h(
        "div",
        { class: "row" },
        h("strong", { class: "grow" }, plain(name)),
        text,
        iconButton("close", "Stop fetching", () => (control.abort(), line.remove())),
      ),
      bar,
    );
    this.pulls.append(line);
    try {
      for await (const event of stream(PULL, { model: name }, control.signal)) {
        if (event.total_bytes) bar.value = (event.done_bytes ?? 0) / event.total_bytes;
        text.textContent = progressText(event);
        if (event.status === "done") notify(`${event.ids?.join(", ") || name} is here now.`);
      }
      line.remove();
    } catch (error) {
      if (error.name === "AbortError") return;
      put(
        line,
        h(
          "div",
          { class: "row" },
          h("strong", { class: "grow" }, plain(name)),
          iconButton("close", "Dismiss", () => line.remove()),
        ),
        h("div", { class: "problem" }, icon("warning"), plain(error.message)),
      );
    }
    await this.refresh();
  }
}

const emptyAdvice = () =>
  areKnown() ? "The server has no models yet: fetch one above." : adviceWithout("model");

function progressText({ status, file, done_bytes, total_bytes, rate, left_s }) {
  const parts = [
    status,
    file,
    total_bytes ? `${bytes(done_bytes ?? 0)} of ${bytes(total_bytes)}` : null,
    rate ? `${bytes(rate)}/s` : null,
    left_s ? `${seconds(left_s)} left` : null,
  ];
  return plain(parts.filter(Boolean).join(" · "));
}

function priceOf({ input, output, image }) {
  if (image) return `${dollars(image)} an image`;
  if (!input && !output) return null;
  return output
    ? `${dollars(input)} in, ${dollars(output)} out per million`
    : `${dollars(input)} per million`;
}

/** How much of a device's budget each model takes. */
function memoryBar(device, parts, budget) {
  const used = parts.reduce((sum, [, size]) => sum + size, 0);
  const total = Math.max(budget ?? 0, used) || 1;
  const sorted = parts
    .sort((a, b) => b[1] - a[1])
    .map(([name, size], at) => ({
      text: `${plain(name)} ${bytes(size)}`,
      share: size / total,
      at: Math.min(at, 4),
    }));
  const bar = h(
    "div",
    { class: "memory-bar", role: "img", "aria-label": `${device}: ${bytes(used)} of ${bytes(total)} in use` },
    sorted.map(({ text, share, at }) =>
      h("div", { class: "memory-part", title: text, style: { width: `${share * 100}%`, "--at": at } }),
    ),
  );
  const legend = h(
    "div",
    { class: "legend" },
    sorted.map(({ text, at }) => h("span", { style: { "--at": at } }, text)),
  );
  const line = h(
    "div",
    { class: "memory-line" },
    h("span", {}, device === "cpu" ? "Main memory" : device),
    h("span", { class: "number" }, `${bytes(used)}${budget ? ` of ${bytes(budget)} for models` : ""}`),
  );
  return h("div", {}, line, bar, legend);
}
