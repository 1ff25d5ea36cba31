// The Embed panel: how similar texts are to each other, and which answer a query best.

import { h, icon, iconButton, put, s } from "../lib/dom.js";
import { json } from "../lib/api.js";
import { count, dollars, percent, plain } from "../lib/format.js";
import { modelPicker, models, refreshModels } from "../lib/models.js";
import { remembered } from "../lib/settings.js";
import { showRequest } from "../lib/snippets.js";
import { principalPlane, similarities } from "../draw/geometry.js";

const EMBEDDINGS = "/v1/embeddings";
const RERANK = "/v1/rerank";
const MAX_TEXTS = 100; // more make no picture
const EXAMPLE = [
  "The cat sleeps on the warm windowsill.",
  "A kitten is napping in the sun.",
  "Interest rates rose again in March.",
  "The central bank tightened its policy.",
  "She tuned the violin before the concert.",
  "The orchestra rehearsed all afternoon.",
];

export default class EmbedPanel {
  constructor() {
    this.model = remembered("embed-model", "");
    this.ranker = remembered("rank-model", "");
    this.controls = new Map(); // place on the page → AbortController of the request for it
    this.texts = h("textarea", {
      rows: 10,
      "aria-label": "Texts, one a line",
      placeholder: "One text a line",
      value: EXAMPLE.join("\n"),
    });
    this.query = h("input", {
      placeholder: "Which of the texts answers this best?",
      "aria-label": "Query",
      value: "What did the musicians do?",
    });
    this.output = h("div", { class: "stack", "aria-live": "polite" });
    this.ranking = h("div", { "aria-live": "polite" });
    put(
      this.output,
      h(
        "div",
        { class: "empty" },
        "Compare the texts: each pair's similarity is drawn as a square, and all of them as a map.",
      ),
    );
    this.element = this.layout();
  }

  get lines() {
    return this.texts.value
      .split("\n")
      .map((line) => line.trim())
      .filter(Boolean);
  }

  layout() {
    const compare = h(
      "form",
      {
        class: "card stack",
        onsubmit: (event) => (event.preventDefault(), this.guard(this.output, (signal) => this.compare(signal))),
      },
      modelPicker(["embedding"], this.model),
      this.texts,
      h(
        "div",
        { class: "row end" },
        iconButton("code", "The request as code", () => showRequest(EMBEDDINGS, this.embeddingsBody())),
        h("button", { type: "submit", class: "button primary" }, "Compare"),
      ),
    );
    const rank = h(
      "form",
      {
        class: "card stack",
        onsubmit: (event) => (event.preventDefault(), this.guard(this.ranking, (signal) => this.rank(signal))),
      },
      h("h2", {}, "Rank the texts"),
      modelPicker(["rerank", "embedding"], this.ranker, "Model for ranking"),
      this.query,
      h(
        "div",
        { class: "row end" },
        iconButton("code", "The request as code", () => showRequest(...this.rankRequest())),
        h("button", { type: "submit", class: "button" }, "Rank"),
      ),
      this.ranking,
    );
    return h(
      "section",
      { class: "panel", "aria-label": "Embed" },
      h("div", { class: "panel-title" }, h("h1", {}, "Embed")),
      h("div", { class: "split" }, h("div", { class: "stack" }, compare, rank), this.output),
    );
  }

  embeddingsBody() {
    return { model: this.model.value, input: this.lines, encoding_format: "float" };
  }

  /** The path and body: embedders rank by similarity to the query. */
  rankRequest() {
    const model = this.ranker.value;
    const isRanker = models.value.some((card) => card.id === model && card.kind === "rerank");
    if (isRanker) return [RERANK, { model, query: this.query.value, documents: this.lines }];
    return [EMBEDDINGS, { model, input: [this.query.value, ...this.lines], encoding_format: "float" }];
  }

  /** Does the latest of what was asked for. */
  async guard(place, work) {
    this.controls.get(place)?.abort();
    const control = new AbortController();
    this.controls.set(place, control);
    place.setAttribute("aria-busy", "true");
    try {
      if (this.lines.length > MAX_TEXTS)
        throw new Error(`These are ${this.lines.length} texts: more than ${MAX_TEXTS} make no picture.`);
      await work(control.signal);
    } catch (error) {
      if (control.signal.aborted) return;
      put(place, h("div", { class: "problem", role: "alert" }, icon("warning"), plain(error.message)));
    }
    place.removeAttribute("aria-busy");
    refreshModels().catch(() => {});
  }

  async compare(signal) {
    const texts = this.lines;
    const { data, usage } = await json(EMBEDDINGS, { body: this.embeddingsBody(), signal });
    const matrix = similarities(data.map((item) => item.embedding));
    const facts = `${data[0].embedding.length} dimensions · ${count(usage.prompt_tokens)} tokens · ${dollars(usage.estimated_cost ?? 0)}`;
    put(
      this.output,
      h(
        "div",
        { class: "card" },
        h("h2", {}, "Similarity"),
        heatTable(texts, matrix),
        h("p", { class: "hint" }, facts),
      ),
      texts.length > 2 ? h("div", { class: "card" }, h("h2", {}, "Map"), map(texts, matrix)) : null,
    );
  }

  async rank(signal) {
    const texts = this.lines;
    const [path, body] = this.rankRequest();
    const reply = await json(path, { body, signal });
    const results = reply.results ?? bySimilarity(reply.data.map((item) => item.embedding));
    const best = Math.max(...results.map((result) => result.relevance_score), 1e-9);
    put(
      this.ranking,
      h(
        "ol",
        { class: "ranked" },
        results.map(({ index, relevance_score: score }, at) =>
          h(
            "li",
            {},
            h("span", { class: "hint number" }, at + 1),
            h("span", { dir: "auto" }, plain(texts[index])),
            h("span", { class: "number" }, score.toFixed(3)),
            h("span", { class: "bar", style: { "--share": `${Math.max(0, score / best) * 100}%` } }),
          ),
        ),
      ),
    );
  }
}

/** How near each vector is to the first, in the form of a ranking. */
function bySimilarity([query, ...vectors]) {
  const scores = similarities([query, ...vectors])[0].slice(1);
  return scores
    .map((score, index) => ({ index, relevance_score: score }))
    .sort((a, b) => b.relevance_score - a.relevance_score);
}

/** Each pair's cosine, tinted from the least to the most similar pair. */
function heatTable(texts, matrix) {
  const others = matrix.flatMap((row, i) => row.filter((_, j) => j !== i));
  const low = Math.min(...others, 1),
    high = Math.max(...others, low + 1e-9);
  const cell = (value, i, j) => {
    const share = i === j ? 1 : (value - low) / (high - low);
    return h(
      "td",
      {
        class: share > 0.6 ? "dark" : null,
        title: `${plain(texts[i])}\n${plain(texts[j])}`,
        style: { "--share": `${Math.round(share * 100)}%` },
      },
      value.toFixed(2).replace("0.", "."),
    );
  };
  const head = h(
    "tr",
    {},
    h("td", {}),
    texts.map((_, at) => h("th", { scope: "col" }, at + 1)),
  );
  const rows = matrix.map((row, i) =>
    h(
      "tr",
      {},
      h("th", { scope: "row", title: plain(texts[i]) }, `${i + 1}  ${plain(texts[i])}`),
      row.map((value, j) => cell(value, i, j)),
    ),
  );
  return h(
    "div",
    { class: "matrix", tabindex: "0", role: "group", "aria-label": "Similarity of each pair" },
    h("table", {}, h("thead", {}, head), h("tbody", {}, rows)),
  );
}

const WIDTH = 640;
const HEIGHT = 400;
const MARGIN = 40;

/** Beside their points, towards the middle, and below each other where points are close. */
function labelPlaces(points) {
  const places = [];
  const order = points.map((_, at) => at).sort((a, b) => points[a][1] - points[b][1]);
  for (const at of order) {
    const [x, y] = points[at];
    const isRight = x > WIDTH * 0.6;
    const near = Object.values(places).filter((other) => Math.abs(other.x - x) < WIDTH * 0.4);
    const top = Math.max(y + 4, ...near.map((other) => other.top + 14).filter((lowest) => lowest - y < 60));
    places[at] = { x, left: x + (isRight ? -10 : 10), top, anchor: isRight ? "end" : "start" };
  }
  return places;
}

function map(texts, matrix) {
  const { points, share } = principalPlane(matrix);
  const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
  const scale = (values, size) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return (value) => MARGIN + ((value - low) / (high - low || 1)) * (size - 2 * MARGIN);
  };
  const [x, y] = [scale(xs, WIDTH), scale(ys, HEIGHT)];
  const labels = labelPlaces(points.map(([px, py]) => [x(px), y(py)]));
  const marks = points.map(([px, py], at) => {
    const label = texts[at].length > 34 ? `${texts[at].slice(0, 33)}…` : texts[at];
    const { left, top, anchor } = labels[at];
    return s(
      "g",
      {},
      s("title", {}, plain(texts[at])),
      s("circle", { cx: x(px), cy: y(py), r: 5 }),
      s("text", { x: left, y: top, "text-anchor": anchor }, plain(label)),
    );
  });
  const drawing = s(
    "svg",
    {
      class: "map",
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      role: "img",
      "aria-label": "The texts as points: similar ones are near each other",
    },
    marks,
  );
  return [
    drawing,
    h("p", { class: "hint" }, `Near means similar. The plane shows ${percent(share)} of all differences.`),
  ];
}
