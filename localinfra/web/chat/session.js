// A conversation in use: turns are added, answers run, everything is saved. Knows no DOM.

import { Unreachable } from "../lib/api.js";
import { newId } from "../lib/id.js";
import { models, refreshModels } from "../lib/models.js";
import { ask, askAgain, Answer, cancel, speed } from "./answer.js";
import * as library from "./library.js";
import { bodyOf } from "./params.js";
import { messagesOf, Tree } from "./tree.js";

const LOOK_EVERY_MS = 1000; // whether the model is still being loaded
const LIGHTER = 4; // times as rarely is saved what has pictures, all of which go to the server each time
const LOST = "If the answer goes on, it is here when you open the conversation again.";

export class Session {
  /**
   * @param {library.Conversation} conversation
   * @param {{onShape: () => void, onText: (turn: import("./tree.js").Turn) => void,
   *   onMerge: () => void}} view
   */
  constructor(conversation, view) {
    this.conversation = conversation;
    this.tree = new Tree(conversation.turns, conversation.picked);
    for (const turn of this.tree.turns.values()) {
      // The page was closed meanwhile, and nothing is left to read on.
      const isCut = turn.params && !turn.finish && !turn.error && !turn.asked;
      if (isCut) turn.finish = "stopped";
    }
    this.view = view;
    this.running = new Map(); // turn's id → AbortController of its request
    this.savedAt = 0;
    this.isForgotten = false;
  }

  get isRunning() {
    return this.running.size > 0;
  }

  /** Its conversation was deleted: answers that run must not bring it back. */
  forget() {
    this.isForgotten = true;
    this.stop();
  }

  async save() {
    if (this.isForgotten) return;
    this.savedAt = Date.now();
    this.writeDown();
    await library.save(this.conversation, (theirs, base) => this.takeIn(theirs, base));
  }

  writeDown() {
    this.conversation.turns = [...this.tree.turns.values()];
    this.conversation.picked = this.tree.picked;
  }

  /** Merges what another window has saved. @type {library.Merge} */
  takeIn(theirs, base) {
    // Answers that run here stay, whatever happens there.
    const known = new Set([...base.ids].filter((id) => !this.running.has(id)));
    this.tree.takeIn(theirs, known);
    for (const name of ["title", "system"])
      if (this.conversation[name] === base[name]) this.conversation[name] = theirs[name];
    this.writeDown();
    this.view.onMerge();
  }

  /** Adds what the user says and shows, and has it answered. @param {string[]} names of models */
  send(text, names, pictures = []) {
    if (!this.tree.turns.size) this.conversation.title = library.titleOf(text || pictures[0].name);
    const last = this.tree.path().at(-1);
    const turn = this.tree.add({ parent: last?.id ?? null, role: "user", content: text, ...shown(pictures) });
    return this.answer(turn, names);
  }

  /** A tool's result; once all calls have theirs, the model goes on. */
  async giveResult(turn, callId, text, names) {
    const last = this.tree.path().at(-1);
    const added = this.tree.add({ parent: last.id, role: "tool", content: text, callId });
    const given = new Set(
      this.tree
        .path()
        .filter((other) => other.role === "tool")
        .map((other) => other.callId),
    );
    if (turn.calls.every((call) => given.has(call.id))) return this.answer(added, names);
    this.view.onShape();
    await this.save();
  }

  /** Adds a branch beside a turn. What the user says is answered, an answer stands as edited. */
  async edit(turn, text, names, pictures = []) {
    this.check(names);
    const { parent, role, model } = turn;
    const added = this.tree.add({ parent, role, content: text, model, ...shown(pictures) });
    if (role === "user") return this.answer(added, names);
    this.view.onShape();
    await this.save();
  }

  /** Generates answers to a turn, side by side if there are several models or choices. */
  async answer(parent, names) {
    this.check(names);
    const run = newId();
    const asked = names.map((model) => {
      const params = this.params(model);
      const turns = Array.from({ length: params.n ?? 1 }, () =>
        this.tree.add({ parent: parent.id, role: "assistant", content: "", run, model, params }),
      );
      return [params, turns];
    });
    this.tree.pick(asked[0][1][0]);
    await Promise.all(asked.map(([params, turns]) => this.run(params, turns, this.tree.before(turns[0]))));
  }

  /** Goes on where an answer was cut off. */
  goOn(turn) {
    return this.run({ ...this.params(turn.model), n: 1 }, [turn], [...this.tree.before(turn), turn]);
  }

  /** Before anything is added. @throws {Error} if there is no model, or a parameter can't be read */
  check(names) {
    if (!names[0]) throw new Error("No chat model is on this machine yet: fetch one under Models.");
    for (const name of names) this.params(name);
  }

  params(model) {
    return { model, ...bodyOf(models.value.find((card) => card.id === model)) };
  }

  request(params, before) {
    return {
      ...params,
      messages: messagesOf(before, this.conversation.system),
      stream: true,
      stream_options: { include_usage: true },
    };
  }

  run(params, turns, before) {
    const id = newId();
    turns.forEach((turn, choice) => {
      turn.asked = { id, choice, content: turn.content, scores: turn.scores };
    });
    return this.read(id, turns, (...how) => ask(this.request(params, before), id, ...how));
  }

  /** Reads on where answers ran when the page was left. */
  async resume() {
    const asked = new Map();
    for (const turn of this.tree.turns.values()) {
      const id = turn.asked?.id;
      if (id && !this.running.has(turn.id)) asked.set(id, [...(asked.get(id) ?? []), turn]);
    }
    await Promise.all(
      [...asked].map(([id, turns]) => this.read(id, turns, (...how) => askAgain(id, ...how))),
    );
  }

  /** Reads a request's answers into its turns, until their end. `begin`: `ask` or `askAgain` for the request. */
  async read(id, turns, begin) {
    const control = new AbortController();
    control.signal.addEventListener("abort", () => cancel(id));
    const answers = [];
    const { saveEveryMs = 0 } = library.place.value ?? {};
    const isHeavy = library.isOnServer() && [...this.tree.turns.values()].some((turn) => turn.pictures);
    const everyMs = saveEveryMs * (isHeavy ? LIGHTER : 1);
    let isLost = false;
    for (const turn of turns) {
      delete turn.error;
      answers[turn.asked.choice] = new Answer();
      this.running.set(turn.id, control);
    }
    this.view.onShape();
    this.save().catch(() => {});
    const loading = setInterval(() => this.lookForLoading(turns[0], loading), LOOK_EVERY_MS);
    const show = (stats) => {
      turns.forEach((turn, at) => {
        takeOver(turn, answers[turn.asked.choice], at === 0 ? stats : null);
        this.view.onText(turn);
      });
      if (Date.now() - this.savedAt > everyMs) this.save().catch(() => {});
    };
    try {
      show(await begin(answers, control.signal, show));
    } catch (error) {
      const isOver = control.signal.aborted || error.code === "not_found"; // the server has forgotten it
      isLost = !isOver && error instanceof Unreachable;
      for (const turn of turns) {
        turn.error = isOver ? undefined : isLost ? `${error.message} ${LOST}` : error.message;
        if (isOver) turn.finish ??= "stopped";
      }
    } finally {
      clearInterval(loading);
      refreshModels().catch(() => {});
      for (const turn of turns) {
        if (!isLost) delete turn.asked;
        this.running.delete(turn.id);
      }
      this.view.onShape();
      for (const turn of turns) this.view.onText(turn);
      await this.save();
    }
  }

  /** Until the first token, the page tells whether the model is being loaded. */
  async lookForLoading(turn, timer) {
    if (turn.stats) return clearInterval(timer);
    await refreshModels().catch(() => {});
    this.view.onText(turn);
  }

  /** Stops the answers that run, or those of one request. */
  stop(turn = null) {
    const controls = turn ? [this.running.get(turn.id)] : [...this.running.values()];
    for (const control of controls) control?.abort();
  }
}

const shown = (pictures) => (pictures.length ? { pictures } : {});

/**
 * `turn.asked` has what the turn had before, where it goes on. `stats`: those of the request, which stand under
 * its first answer.
 */
function takeOver(turn, answer, stats) {
  const start = turn.asked;
  turn.content = start.content + answer.content;
  turn.finish = answer.finish;
  if (answer.reasoning) turn.reasoning = answer.reasoning;
  if (answer.thoughtS !== null) turn.thoughtS = answer.thoughtS;
  if (answer.calls.length) turn.calls = answer.calls;
  const hasAllScores = answer.scores.length > 0 && (start.scores || !start.content);
  if (hasAllScores) turn.scores = [...(start.scores ?? []), ...answer.scores];
  else if (answer.content) delete turn.scores; // a part would be shown as the whole answer
  if (!stats) return;
  turn.stats = {
    firstTokenS: stats.firstTokenS,
    totalS: stats.totalS,
    speed: speed(stats),
    choices: stats.choices,
    ignored: stats.ignored,
    tokens: stats.usage?.completion_tokens ?? null,
    promptTokens: stats.usage?.prompt_tokens ?? null,
    cachedTokens: stats.usage?.prompt_tokens_details?.cached_tokens ?? 0,
    cost: stats.usage?.estimated_cost ?? null,
  };
}
