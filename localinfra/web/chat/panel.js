// The Chat panel: conversations on one side, parameters on the other, the thread between.

import { h, icon, iconButton, put } from "../lib/dom.js";
import { announce, notify } from "../lib/dialog.js";
import { count, plain } from "../lib/format.js";
import { adviceWithout, modelPicker, models, ofKind } from "../lib/models.js";
import { apiKey, remembered } from "../lib/settings.js";
import { showRequest } from "../lib/snippets.js";
import { ROUTE } from "./answer.js";
import { composer } from "./composer.js";
import * as library from "./library.js";
import { paramsForm, system } from "./params.js";
import { Session } from "./session.js";
import { sidebar } from "./sidebar.js";
import { Thread } from "./thread.js";
import { loadPictures } from "./tray.js";

const narrow = matchMedia("(max-width: 900px)"); // as in chat.css

const IDEAS = [
  ["Explain", "Explain how a language model chooses its next word, to a curious twelve-year-old."],
  ["Write code", "Write a Python function that merges overlapping intervals, with a test."],
  ["Derive", "Derive the quadratic formula step by step."],
  ["Compare", "Compare REST and gRPC in a table."],
];

export default class ChatPanel {
  constructor() {
    this.model = remembered("model", "");
    this.second = remembered("second-model", "");
    this.isComparing = remembered("compare", false);
    this.kept = new Map(); // by conversation's id: sessions whose answers go on in the background
    this.thread = new Thread(() => this.session, this.actions());
    this.composer = composer({
      send: (text, pictures) => this.guard(() => this.send(text, pictures)),
      names: () => this.names,
      stop: () => this.session.stop(),
    });
    this.session = this.newSession(library.newConversation(system.value));
    this.sidebar = sidebar({
      open: (id) => this.open(id),
      startNew: () => this.startNew(),
      rename: (id, title) => this.rename(id, title),
      forget: (id) => this.forget(id),
      forgetAll: () => [this.session, ...this.kept.values()].forEach((one) => this.forget(one.conversation.id)),
      current: () => this.session,
    });
    this.heading = h("h1", { class: "unseen" });
    this.welcome = h("div", { class: "welcome" });
    this.thread.element.prepend(this.welcome);
    this.element = this.layout();
    this.show();
    models.watch(() => this.showWelcome());
    this.model.watch(() => this.showWelcome());
    for (const signal of [models, this.model, this.second, this.isComparing])
      signal.watch(() => this.composer.showSight());
    system.watch((text) => (this.session.conversation.system = text));
    apiKey.watch(() => this.sidebar.load());
    document.addEventListener("visibilitychange", () => document.hidden || this.catchUp());
  }

  /** Another browser may have changed the conversations while this page was not seen. */
  async catchUp() {
    if (!library.isOnServer()) return;
    await this.sidebar.load();
    const { session } = this;
    if (!session.isRunning)
      await this.guard(() =>
        library.catchUp(session.conversation.id, (theirs, base) => session.takeIn(theirs, base)),
      );
  }

  get names() {
    return this.isComparing.value && this.second.value
      ? [this.model.value, this.second.value]
      : [this.model.value];
  }

  layout() {
    const params = h(
      "aside",
      { class: "side-params", "aria-label": "Parameters" },
      h("h2", {}, "Parameters"),
      paramsForm(this.model),
    );
    const second = h(
      "span",
      { class: "second" },
      modelPicker(["text"], this.second, "Second model", this.model),
    );
    const compare = iconButton("columns", "Compare with a second model", () =>
      this.isComparing.set(!this.isComparing.value),
    );
    this.isComparing.watch((on) => {
      second.hidden = !on;
      compare.setAttribute("aria-pressed", String(on));
    });
    const element = h("section", { class: "chat", "aria-label": "Chat" });
    this.list = new Side("list", "Conversations", "shows-list", element);
    this.params = new Side("sliders", "Parameters", "shows-params", element);
    element.append(
      this.sidebar.element,
      h(
        "div",
        { class: "chat-main" },
        h(
          "header",
          { class: "panel-head" },
          this.heading,
          this.list.button,
          modelPicker(["text"], this.model),
          second,
          compare,
          h("span", { class: "grow" }),
          this.params.button,
        ),
        this.thread.element,
        this.composer.element,
      ),
      params,
    );
    element.addEventListener("pointerdown", ({ target }) => {
      if (!target.closest("aside, .panel-head")) this.uncover();
    });
    element.addEventListener("drop", (event) => {
      const files = [...event.dataTransfer.files];
      if (files.length) this.composer.attach(files);
    });
    return element;
  }

  /** Takes away what lies over the thread. */
  uncover() {
    if (!narrow.matches) return;
    this.list.show(false);
    this.params.show(false);
  }

  newSession(conversation) {
    const session = new Session(conversation, {
      onShape: () => {
        if (session !== this.session && !session.isRunning) this.kept.delete(conversation.id);
        this.show();
      },
      onText: (turn) => this.thread.update(turn),
      onMerge: () => {
        if (session !== this.session) return;
        system.set(conversation.system);
        this.show();
      },
    });
    return session;
  }

  show() {
    const { isRunning, tree } = this.session;
    if (this.wasRunning && !isRunning) announce(this.ending());
    if (!this.wasRunning && isRunning) announce("The model is answering.");
    this.wasRunning = isRunning;
    this.thread.show();
    this.composer.setRunning(isRunning);
    this.welcome.hidden = tree.turns.size > 0;
    put(this.heading, plain(this.session.conversation.title || "New chat"));
  }

  /** What a screen reader hears when an answer has ended. */
  ending() {
    const last = this.session.tree.path().at(-1);
    if (last?.error) return `The answer failed: ${last.error}`;
    return `The answer is complete${last?.stats?.tokens ? `, ${count(last.stats.tokens)} tokens` : ""}.`;
  }

  startNew() {
    this.use(this.newSession(library.newConversation(system.value)));
    this.composer.focus();
  }

  async open(id) {
    if (this.kept.get(id)?.isRunning) return this.use(this.kept.get(id));
    await this.guard(async () => {
      const conversation = await library.load(id);
      if (conversation) {
        this.use(this.newSession(conversation));
        return this.session.resume();
      }
      notify("Another window has deleted this conversation.");
      await this.sidebar.load();
    });
  }

  sessionOf(id) {
    return [this.session, ...this.kept.values()].find(({ conversation }) => conversation.id === id);
  }

  forget(id) {
    const session = this.sessionOf(id);
    session?.forget();
    if (session === this.session) this.startNew();
    this.kept.delete(id);
  }

  async rename(id, title) {
    const session = this.sessionOf(id);
    if (!session) return library.rename(id, title);
    session.conversation.title = title;
    await session.save();
    this.show();
  }

  use(session) {
    if (this.session.isRunning) this.kept.set(this.session.conversation.id, this.session);
    this.session = session;
    system.set(session.conversation.system);
    this.kept.delete(session.conversation.id);
    this.wasRunning = session.isRunning;
    this.thread.reset();
    this.show();
    this.sidebar.refresh();
    this.uncover();
  }

  showWelcome() {
    const hasModel = ofKind(["text"]).length > 0;
    const advice = hasModel
      ? IDEAS.map(([name, text]) =>
          h(
            "button",
            { type: "button", class: "idea", onclick: () => this.composer.set(text) },
            h("strong", {}, name),
            text,
          ),
        )
      : h("p", {}, adviceWithout("chat model"));
    put(
      this.welcome,
      icon("mark"),
      h("h2", {}, "What shall we think about?"),
      h("div", { class: "ideas" }, advice),
    );
    this.welcome.hidden = this.session.tree.turns.size > 0;
  }

  async send(text, pictures) {
    const { session, names } = this;
    try {
      session.check(names);
      if (pictures.length)
        (await loadPictures()).checkPictures(pictures, session.tree, names, library.place.value?.maxPictureBytes);
    } catch (error) {
      this.composer.set(text, pictures);
      throw error;
    }
    return session.send(text, names, pictures);
  }

  /** Shows what goes wrong before a request is sent. */
  async guard(work) {
    try {
      await work();
    } catch (error) {
      notify(error.message, "error");
    }
  }

  /** @returns {import("./turns.js").Actions} */
  actions() {
    const shaped = (change) => (turn) => {
      change(this.session.tree, turn);
      this.show();
      this.guard(() => this.session.save());
    };
    return {
      edit: (turn, text, pictures) => this.guard(() => this.session.edit(turn, text, this.names, pictures)),
      regenerate: (turn) =>
        this.guard(() => this.session.answer(this.session.tree.turns.get(turn.parent), this.names)),
      goOn: (turn) => this.guard(() => this.session.goOn(turn)),
      giveResult: (turn, id, text) => this.guard(() => this.session.giveResult(turn, id, text, this.names)),
      stop: (turn) => this.session.stop(turn),
      pick: shaped((tree, turn) => tree.pick(turn)),
      remove: shaped((tree, turn) => (this.session.stop(), tree.remove(turn))),
      showRequest: (turn) =>
        showRequest(ROUTE, this.session.request(turn.params, this.session.tree.before(turn))),
    };
  }

  /** Keys of the whole page while this panel is shown. Returns whether it took the key. */
  onKey(event) {
    if (event.key === "Escape") this.uncover();
    if (event.key === "Escape" && this.session.isRunning) return (this.session.stop(), true);
    const isCommand = event.ctrlKey || event.metaKey;
    if (isCommand && event.key === "k")
      return (this.list.show(true), this.sidebar.focusSearch(), true);
    if (isCommand && event.shiftKey && event.key.toLowerCase() === "o") return (this.startNew(), true);
    return false;
  }

  enter() {
    requestAnimationFrame(() => this.composer.focus()); // it would lay out the page before its time
  }
}

/**
 * A side of the panel with the button that shows or hides it. On a narrow screen it lies over the thread, and
 * isn't remembered.
 */
class Side {
  /** @param {string} className of `panel` while it is shown */
  constructor(iconName, label, className, panel) {
    this.className = className;
    this.panel = panel;
    this.isOn = remembered(className, window.innerWidth > 1100);
    this.button = iconButton(iconName, label, () => {
      if (narrow.matches) this.show(!panel.classList.contains(className));
      else this.isOn.set(!this.isOn.value);
    });
    this.isOn.watch(() => this.settle());
    narrow.addEventListener("change", () => this.settle());
  }

  settle() {
    this.show(this.isOn.value && !narrow.matches);
  }

  show(on) {
    this.button.setAttribute("aria-pressed", String(on));
    this.panel.classList.toggle(this.className, on);
  }
}
