// How a turn looks: what the user said, and an answer with its reasoning, calls and figures.

import { h, icon, iconButton, put } from "../lib/dom.js";
import { copyButton } from "../lib/dialog.js";
import { count, dollars, plain, rate, seconds } from "../lib/format.js";
import { models } from "../lib/models.js";
import { highlight } from "../text/highlight.js";
import { MarkdownView } from "../text/markdown.js";
import { TokensView } from "../draw/tokens.js";
import { showPictures, Tray } from "./tray.js";

/**
 * @typedef {import("./tree.js").Turn} Turn
 * @typedef {object} Actions what the buttons of a turn do
 * @property {(turn: Turn, text: string, pictures?: import("./tray.js").Picture[]) => void} edit
 * @property {(turn: Turn) => void} regenerate
 * @property {(turn: Turn) => void} goOn
 * @property {(turn: Turn) => void} pick
 * @property {(turn: Turn) => void} remove
 * @property {(turn: Turn) => void} showRequest
 * @property {(turn: Turn) => void} stop
 * @property {(turn: Turn, callId: string, text: string) => void} giveResult
 */

/** An element in which the user edits a text, and may remove pictures: `done` gets what is left. */
function editor(text, pictures, submit, done, cancel) {
  const area = h("textarea", {
    class: "edit",
    rows: Math.min(20, text.split("\n").length + 1),
    value: text,
    "aria-label": "Edit the message",
  });
  const tray = new Tray(pictures, area, () => {});
  const finish = () => {
    const isChanged = area.value !== text || tray.pictures.length < pictures.length;
    const isEmpty = !area.value.trim() && !tray.pictures.length;
    if (isChanged && !isEmpty) done(area.value, tray.pictures);
    else cancel();
  };
  area.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Escape") {
      event.stopPropagation(); // it stops answers elsewhere
      cancel();
    }
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) finish();
  });
  setTimeout(() => area.focus());
  return h(
    "div",
    { class: "editor" },
    tray.element,
    area,
    h(
      "div",
      { class: "row end" },
      h("button", { type: "button", class: "button quiet", onclick: cancel }, "Cancel"),
      h("button", { type: "button", class: "button primary", onclick: finish }, submit),
    ),
  );
}

/** ‹ 2/3 › between the branches at a turn. */
export function branchSwitch(branches, index, pick) {
  if (branches.length < 2) return null;
  const step = (by) => () => pick(branches[(index + by + branches.length) % branches.length]);
  return h(
    "span",
    { class: "branches" },
    iconButton("left", "Previous version", step(-1)),
    h("span", { class: "number" }, `${index + 1}/${branches.length}`),
    iconButton("right", "Next version", step(1)),
  );
}

/** What the user, or a tool, said. */
export class SaidView {
  /** @param {Turn} turn @param {Actions} actions */
  constructor(turn, actions) {
    this.turn = turn;
    this.actions = actions;
    this.branches = h("span");
    this.pictures = h("div", { class: "shown" });
    showPictures(this.pictures, turn.pictures ?? []);
    const isWordless = !turn.content && Boolean(turn.pictures);
    this.body = h("div", { class: "said", dir: "auto", hidden: isWordless }, plain(turn.content));
    this.tools = h(
      "div",
      { class: "turn-tools" },
      this.branches,
      copyButton(() => turn.content),
      iconButton("edit", "Edit and ask again", () => this.edit()),
      iconButton("trash", "Delete from here on", () => actions.remove(turn)),
    );
    const label = turn.role === "tool" ? h("div", { class: "turn-name" }, icon("tool"), "Result") : null;
    this.element = h(
      "li",
      { class: `turn ${turn.role}`, "aria-label": turn.role === "tool" ? "Tool result" : "You" },
      (this.parts = [label, this.pictures, this.body, this.tools]),
    );
  }

  edit() {
    const { content, pictures = [] } = this.turn;
    const back = () => put(this.element, this.parts);
    const done = (text, kept) => (back(), this.actions.edit(this.turn, text, kept));
    put(this.element, editor(content, pictures, "Ask again", done, back));
  }

  showBranches(branches, index) {
    put(this.branches, branchSwitch(branches, index, this.actions.pick));
  }
}

/** One answer. `show` brings it up to date with its turn, in steps as the text grows. */
export class AnswerView {
  /** @param {Turn} turn @param {Actions} actions */
  constructor(turn, actions) {
    this.turn = turn;
    this.actions = actions;
    this.markdown = null;
    this.heat = null;
    this.wantsHeat = Boolean(turn.params?.logprobs);
    this.name = h(
      "div",
      { class: "turn-name" },
      h("span", { class: "model-name" }, plain(turn.model ?? "edited")),
    );
    this.reasoning = null;
    this.text = h("div", { class: "answer-text" });
    this.calls = h("div", { class: "calls" });
    this.problem = h("div");
    this.figures = h("div", { class: "figures" });
    this.tools = h("div", { class: "turn-tools" });
    this.body = [this.name, this.text, this.calls, this.problem, this.figures, this.tools];
    this.element = h(
      "article",
      { class: "answer", "aria-label": `Answer of ${plain(turn.model ?? "the assistant")}` },
      this.body,
    );
  }

  /** @param {boolean} isRunning @param {boolean} isPicked @param {boolean} hasOthers beside it */
  show(isRunning, isPicked = true, hasOthers = false) {
    this.element.setAttribute("aria-busy", String(isRunning));
    this.element.classList.toggle("picked", hasOthers && isPicked);
    this.element.classList.toggle("running", isRunning);
    this.showReasoning(isRunning);
    this.showText();
    const calls = this.turn.calls ?? [];
    if (calls.length)
      put(
        this.calls,
        calls.map((call) => this.callCard(call, isRunning)),
      );
    put(
      this.problem,
      this.turn.error
        ? h("div", { class: "problem", role: "alert" }, icon("warning"), plain(this.turn.error))
        : null,
    );
    put(this.figures, figuresOf(this.turn, isRunning));
    put(this.tools, isRunning ? this.stopButton() : this.buttons(isPicked, hasOthers));
  }

  showText() {
    const { content, scores } = this.turn;
    if (this.wantsHeat && scores?.length) {
      if (!this.heat) put(this.text, (this.heat = new TokensView()).element);
      this.markdown = null;
      this.heat.show(scores);
      return;
    }
    if (this.heat || !this.markdown || content.length < this.markdown.shown) {
      this.heat = null;
      put(this.text, (this.markdown = new MarkdownView()).element);
    }
    this.markdown.show(content);
  }

  showReasoning(isRunning) {
    const { reasoning, thoughtS, content } = this.turn;
    if (!reasoning) return;
    if (!this.reasoning) {
      this.reasoning = {
        text: h("div", { class: "reasoning-text", dir: "auto" }),
        label: h("summary"),
        shown: 0,
      };
      this.reasoning.element = h(
        "details",
        { class: "reasoning" },
        this.reasoning.label,
        this.reasoning.text,
      );
      this.name.after(this.reasoning.element);
    }
    this.reasoning.text.append(plain(reasoning.slice(this.reasoning.shown)));
    this.reasoning.shown = reasoning.length;
    const isThinking = isRunning && !content;
    const label = isThinking ? "Thinking…" : `Thought for ${thoughtS ? seconds(thoughtS) : "a while"}`;
    if (this.reasoning.label.textContent !== label) put(this.reasoning.label, icon("thought"), label);
  }

  callCard(call, isRunning) {
    const open = this.calls.querySelector(`[data-call="${CSS.escape(call.id)}"] textarea`);
    const card = h(
      "div",
      { class: "call", data: { call: call.id } },
      h("div", { class: "turn-name" }, icon("tool"), plain(call.name)),
    );
    card.append(
      h("pre", { class: "code", tabindex: "0" }, h("code", {}, highlight(indented(call.arguments), "json"))),
    );
    if (isRunning) return card;
    const area =
      open ??
      h("textarea", {
        rows: 2,
        placeholder: "What the tool returns",
        "aria-label": `Result of ${plain(call.name)}`,
      });
    const give = () => area.value && this.actions.giveResult(this.turn, call.id, area.value);
    card.append(
      h(
        "div",
        { class: "row" },
        area,
        h("button", { type: "button", class: "button", onclick: give }, "Give result"),
      ),
    );
    return card;
  }

  stopButton() {
    return (
      this.tools.querySelector(".stop") ??
      h(
        "button",
        { type: "button", class: "button quiet stop", onclick: () => this.actions.stop(this.turn) },
        icon("stop"),
        "Stop",
      )
    );
  }

  buttons(isPicked, hasOthers) {
    const { turn, actions } = this;
    const isCut = turn.finish === "length" || turn.finish === "stopped";
    return [
      copyButton(() => turn.content),
      turn.parent ? iconButton("again", "Ask again", () => actions.regenerate(turn)) : null,
      isCut && turn.content ? iconButton("forward", "Go on from here", () => actions.goOn(turn)) : null,
      iconButton("edit", "Edit the answer", () => this.edit(isPicked, hasOthers)),
      turn.scores?.length
        ? iconButton("heat", "Probabilities or text", (event) => this.toggleHeat(event.currentTarget), {
            "aria-pressed": String(this.wantsHeat),
          })
        : null,
      turn.params ? iconButton("code", "The request as code", () => actions.showRequest(turn)) : null,
      iconButton("trash", "Delete from here on", () => actions.remove(turn)),
      hasOthers && !isPicked
        ? h(
            "button",
            { type: "button", class: "button quiet", onclick: () => actions.pick(turn) },
            "Go on with this one",
          )
        : null,
      hasOthers && isPicked ? h("span", { class: "hint" }, "The conversation goes on with this one.") : null,
    ];
  }

  toggleHeat(button) {
    this.wantsHeat = !this.wantsHeat;
    button.setAttribute("aria-pressed", String(this.wantsHeat));
    this.showText();
  }

  edit(isPicked, hasOthers) {
    const back = () => put(this.element, this.body),
      redraw = () => this.show(false, isPicked, hasOthers);
    put(
      this.element,
      editor(
        this.turn.content,
        [],
        "Keep as a version",
        (text) => (back(), this.actions.edit(this.turn, text)),
        () => (back(), redraw()),
      ),
    );
  }
}

function indented(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // it is still coming
  }
}

const ENDS = { length: "cut off at the limit", stopped: "stopped", tool_calls: "waits for its tools" };

const isLoading = (name) => models.value.some((card) => card.id === name && card.state === "loading");

/** Time to the first token, speed, tokens, cost. */
function figuresOf({ stats, finish, model }, isRunning) {
  const end = !isRunning && ENDS[finish] ? [ENDS[finish], "Why the answer ended"] : null;
  if (!stats && isRunning)
    return h(
      "span",
      { class: "waiting" },
      isLoading(model) ? "Loading the model into memory…" : "Waiting for the model…",
    );
  if (!stats) return end && h("span", { title: end[1] }, end[0]);
  const { firstTokenS, totalS, tokens, promptTokens, cachedTokens, cost, choices, ignored } = stats;
  const facts = [
    stats.speed === null ? null : [rate(stats.speed), "Speed of generation after the first token"],
    firstTokenS === null
      ? null
      : [`first token ${seconds(firstTokenS)}`, "From the request to the first token"],
    tokens === null
      ? null
      : [`${count(tokens)} tokens${choices > 1 ? ` in ${choices} answers` : ""}`, "Tokens generated"],
    tokens === null
      ? null
      : [
          `prompt ${count(promptTokens)}${cachedTokens ? ` (${count(cachedTokens)} cached)` : ""}`,
          "Tokens of the prompt, and those that were not computed again",
        ],
    tokens === null || totalS === null ? null : [seconds(totalS), "From the request to the end"],
    cost === null ? null : [dollars(cost), "At the prices in models.toml"],
    end,
    ignored ? [`ignored: ${plain(ignored)}`, "Fields of the request that had no effect"] : null,
  ];
  return facts.filter(Boolean).map(([text, title]) => h("span", { title }, text));
}
