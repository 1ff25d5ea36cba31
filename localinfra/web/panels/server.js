// The Server panel: what the server does now, from its metrics.

import { h, put } from "../lib/dom.js";
import { json } from "../lib/api.js";
import { notify } from "../lib/dialog.js";
import { bytes, count, dollars, plain, rate, seconds } from "../lib/format.js";
import { apiKey } from "../lib/settings.js";
import { Chart } from "../draw/chart.js";
import { byLabel, scrape, total } from "./metrics.js";

const EVERY_MS = 2000;
const KEPT = 150; // five minutes

const whole = (value) => count(Math.round(value));
const tokens = (value) => `${whole(value)} tokens`;
const share = (value) => `${Math.round(value * 100)} %`;

/** Counters become rates: how much they grew between two scrapes. */
const grown = (name) => (now, before, passedS) =>
  before ? Math.max(0, total(now, name) - total(before, name)) / passedS : null;

/** @type {[string, (value: number) => string, (now: any, before: any, passedS: number) => number | null, ((now: any) => number)?][]} */
const CHARTS = [
  ["Generated", rate, grown("generated_tokens_total")],
  ["Prompts read", rate, grown("prompt_tokens_total")],
  ["Running", whole, (now) => total(now, "sequences_running")],
  ["Waiting", whole, (now) => total(now, "sequences_waiting") + total(now, "requests_pending")],
  ["KV cache", tokens, (now) => total(now, "kv_cells_used"), (now) => total(now, "kv_cells")],
  ["Prompts from the cache", share, cacheShare, () => 1],
  ["Time to first token", seconds, meanOf("time_to_first_token_seconds")],
  ["Memory", bytes, (now) => total(now, "model_memory_bytes"), (now) => total(now, "memory_budget_bytes")],
];

function cacheShare(now, before) {
  if (!before) return null;
  const prompts = total(now, "prompt_tokens_total") - total(before, "prompt_tokens_total");
  return prompts > 0
    ? (total(now, "cached_prompt_tokens_total") - total(before, "cached_prompt_tokens_total")) / prompts
    : null;
}

/** Of the observations between two scrapes. */
function meanOf(name) {
  return (now, before) => {
    if (!before) return null;
    const number = total(now, `${name}_count`) - total(before, `${name}_count`);
    return number > 0 ? (total(now, `${name}_sum`) - total(before, `${name}_sum`)) / number : null;
  };
}

export default class ServerPanel {
  constructor() {
    this.charts = CHARTS.map(([title, shown]) => new Chart(title, shown, KEPT));
    this.routes = h("div");
    this.requests = h("div");
    this.models = h("div");
    this.before = null;
    this.element = h(
      "section",
      { class: "panel", "aria-label": "Server" },
      h(
        "div",
        { class: "panel-title" },
        h("h1", {}, "Server"),
        h(
          "span",
          { class: "hint" },
          "Every two seconds, from ",
          apiKey.value ? "/metrics" : h("a", { href: "/metrics", target: "_blank" }, "/metrics"),
        ),
      ),
      h(
        "div",
        { class: "stack" },
        h(
          "div",
          { class: "charts" },
          this.charts.map((chart) => chart.element),
        ),
        this.requests,
        this.models,
        this.routes,
      ),
    );
    // It watches from the first visit on, so that coming back shows what happened meanwhile.
    setInterval(() => document.hidden || this.look(), EVERY_MS);
    this.look();
  }

  async look() {
    let now;
    try {
      now = await scrape();
    } catch (error) {
      if (!this.failed) notify(error.message, "error");
      this.failed = true;
      return;
    }
    this.failed = false;
    const at = performance.now() / 1000;
    CHARTS.forEach(([, , value, full], index) =>
      this.charts[index].add(value(now, this.before, at - this.at), full?.(now)),
    );
    this.before = now;
    this.at = at;
    if (!this.element.isConnected) return;
    await this.showRequests();
    put(this.models, this.modelTable(now));
    put(this.routes, this.routeTable(now));
  }

  /** One row for each request that is being answered. */
  async showRequests() {
    const found = this.mayNotAsk ? null : await json("/v1/requests", { isQuiet: true }).catch((error) => this.refused(error));
    if (!found) return;
    const rows = new Map(found.data.map((request) => [request.id, request]));
    const each = (value) => new Map([...rows].map(([id, request]) => [id, value(request)]));
    const columns = [
      ["Route", each((request) => request.route), String],
      ["Model", each((request) => request.model ?? "loading…"), plain],
      ["Key", each((request) => request.key), plain],
      ["Running", each((request) => request.running_s), seconds],
      ["Prompt", each((request) => request.prompt_tokens), whole],
      ["Generated", each((request) => request.generated_tokens), whole],
      [
        "",
        each((request) => request.id),
        (id) =>
          h(
            "button",
            {
              type: "button",
              class: "button",
              "aria-label": `Cancel ${plain(id)}`,
              onclick: () => this.cancel(id),
            },
            "Cancel",
          ),
      ],
    ];
    const had = document.activeElement?.getAttribute("aria-label");
    put(this.requests, table("Running now", "Request", [...rows.keys()], columns, "No request is running."));
    if (had?.startsWith("Cancel ")) this.requests.querySelector(`[aria-label="${CSS.escape(had)}"]`)?.focus();
  }

  /** Without keys, other machines may not know: they don't ask again. */
  refused(error) {
    if (error.status !== 403) return;
    this.mayNotAsk = true;
    put(this.requests, h("p", { class: "hint" }, plain(error.message)));
  }

  async cancel(id) {
    try {
      await json(`/v1/requests/${encodeURIComponent(id)}`, { method: "DELETE" });
    } catch (error) {
      notify(error.message, "error");
    }
    await this.showRequests();
  }

  modelTable(samples) {
    const columns = [
      ["Running", byLabel(samples, "sequences_running", "model"), whole],
      ["Waiting", byLabel(samples, "sequences_waiting", "model"), whole],
      ["Prompt tokens", byLabel(samples, "prompt_tokens_total", "model"), whole],
      ["From cache", byLabel(samples, "cached_prompt_tokens_total", "model"), whole],
      ["Generated", byLabel(samples, "generated_tokens_total", "model"), whole],
      ["Cost", byLabel(samples, "cost_usd_total", "model"), dollars],
    ];
    const names = [...new Set(columns.flatMap(([, values]) => [...values.keys()]))];
    return table(
      "Models since the server started",
      "Model",
      names,
      columns,
      "No request has come yet. Chat, or send one from anywhere: it shows here.",
    );
  }

  routeTable(samples) {
    const sums = byLabel(samples, "request_duration_seconds_sum", "route");
    const counts = byLabel(samples, "request_duration_seconds_count", "route");
    const means = new Map([...counts].map(([route, number]) => [route, sums.get(route) / number]));
    const failed = new Map();
    for (const { name, labels, value } of samples) {
      if (name === "localinfra_requests_total" && /^[45n]/.test(labels.status))
        failed.set(labels.route, (failed.get(labels.route) ?? 0) + value);
    }
    const names = [...counts.keys()].filter((route) => !route.startsWith("/web/"));
    const columns = [
      ["Requests", counts, whole],
      ["Mean time", means, seconds],
      ["Failed or left", failed, whole],
    ];
    return table("Requests since the server started", "Route", names, columns, "No request has ended yet.");
  }
}

/** Numbers stand at the end of their cells. */
const sideOf = (values) => (typeof [...values.values()][0] === "string" ? null : "number");

function table(title, first, names, columns, empty) {
  const body = names.map((name) =>
    h(
      "tr",
      {},
      h("td", {}, plain(name || "unknown paths")),
      columns.map(([, values, shown]) =>
        h("td", { class: sideOf(values) }, values.has(name) ? shown(values.get(name)) : "–"),
      ),
    ),
  );
  const content = names.length
    ? h(
        "div",
        { class: "table-wrap", tabindex: "0", role: "group", "aria-label": title },
        h(
          "table",
          { class: "wide-table" },
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              h("th", {}, first),
              columns.map(([name, values]) => h("th", { class: sideOf(values) }, name)),
            ),
          ),
          h("tbody", {}, body),
        ),
      )
    : h("div", { class: "empty" }, empty);
  return h("div", { class: "card" }, h("h2", {}, title), content);
}
