// Tokens with their probabilities as a heat map: the less likely a token was, the stronger its tint.
// Pointing at one, or moving to it by the arrow keys, shows what else the model had in mind.

import { h, put } from "../lib/dom.js";
import { percent, plain } from "../lib/format.js";
import { newId } from "../lib/id.js";

/**
 * @typedef {{token: string, logprob: number | null, top_logprobs: {token: string, logprob: number | null}[]}} Score
 */

/** Grows with a stream: `show` adds the tokens that are new. */
export class TokensView {
  constructor() {
    this.tokens = h("div", {
      class: "tokens",
      role: "listbox",
      "aria-label": "Tokens and their probabilities",
      tabindex: "0",
    });
    this.details = h("div", { class: "token-details", "aria-live": "polite" }, HINT);
    this.element = h("div", { class: "tokens-view" }, this.tokens, this.details);
    /** @type {Score[]} */
    this.scores = [];
    this.number = 0; // of them that are shown
    this.chosen = -1;
    this.tokens.addEventListener("mouseover", (event) => this.choose(event.target));
    this.tokens.addEventListener("click", (event) => this.choose(event.target));
    this.tokens.addEventListener("keydown", (event) => this.move(event));
  }

  /** @param {Score[]} scores all of them */
  show(scores) {
    const added = scores.slice(this.number).map((score, at) => tokenSpan(score, this.number + at));
    this.tokens.append(...added);
    this.scores = scores;
    this.number = scores.length;
  }

  choose(span) {
    if (span?.dataset?.at === undefined) return;
    const score = this.scores[span.dataset.at];
    this.tokens.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
    span.setAttribute("aria-selected", "true");
    this.tokens.setAttribute("aria-activedescendant", (span.id ||= `token-${newId()}`));
    this.chosen = Number(span.dataset.at);
    put(this.details, alternatives(score));
  }

  move(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const at = Math.max(0, Math.min(this.scores.length - 1, this.chosen + by));
    const span = this.tokens.querySelector(`[data-at="${at}"]`);
    this.choose(span);
    span?.scrollIntoView({ block: "nearest" });
  }
}

const HINT = "Point at a token, or use the arrow keys, to see what else was likely.";

const shown = (token) => plain(token).replaceAll("\ufffd", "▯");
const visible = (token) => shown(token).replaceAll("\n", "⏎").replaceAll(" ", "␣");

function tokenSpan(score, at) {
  const text = shown(score.token);
  const span = h(
    "span",
    { class: "token", role: "option", "aria-selected": "false", data: { at: String(at) } },
    text,
  );
  const share = score.logprob === null ? 1 : Math.exp(score.logprob);
  span.style.setProperty("--doubt", `${Math.round((1 - share) * 100)}%`);
  if (score.logprob === null) span.classList.add("unscored");
  return span;
}

function alternatives(score) {
  if (score.logprob === null) return `“${visible(score.token)}” is the first token: nothing precedes it.`;
  const others = score.top_logprobs.some((other) => other.token === score.token)
    ? score.top_logprobs
    : [...score.top_logprobs, { token: score.token, logprob: score.logprob }];
  return others.map((other) => {
    const share = other.logprob === null ? 0 : Math.exp(other.logprob);
    const bar = h("span", { class: "bar" });
    bar.style.setProperty("--share", `${share * 100}%`);
    return h(
      "div",
      { class: `alternative ${other.token === score.token ? "taken" : ""}` },
      h("code", {}, visible(other.token)),
      bar,
      h("span", { class: "number" }, percent(share)),
    );
  });
}
