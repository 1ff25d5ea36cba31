// The picked branch of a conversation on the page. A turn keeps its element as long as it is shown,
// so a stream changes only the answer that it is for.

import { h, oncePerFrame, put } from "../lib/dom.js";
import { AnswerView, branchSwitch, SaidView } from "./turns.js";

const MAX_SHARE = 0.25; // of the time may go into drawing, however long a paragraph is
const NEAR_END_PX = 60; // still counts as looking at the end

export class Thread {
  /** @param {() => import("./session.js").Session} session @param {import("./turns.js").Actions} actions */
  constructor(session, actions) {
    this.session = session;
    this.actions = actions;
    this.views = new Map(); // turn's id → its view
    this.list = h("ol", { class: "thread", "aria-label": "Conversation" });
    this.element = h("div", { class: "thread-scroll", tabindex: "-1" }, this.list);
    this.changed = new Set();
    this.draw = oncePerFrame(() => this.drawChanged());
    this.drawAgainAt = 0;
    this.follows = true; // until the user looks further up
    this.lastTop = 0;
    this.element.addEventListener("scroll", () => this.watchScrolling(), { passive: true });
    // New text may have scrolled to the end again before a scroll event tells of the wheel.
    this.element.addEventListener("wheel", (event) => this.watchWheel(event), { passive: true });
    new ResizeObserver(() => this.follow()).observe(this.list);
    new ResizeObserver(() => this.follow()).observe(this.element);
  }

  watchScrolling() {
    const { scrollTop } = this.element;
    if (this.isAtEnd && scrollTop > this.lastTop) this.follows = true;
    else if (!this.isAtEnd && scrollTop < this.lastTop) this.follows = false;
    this.lastTop = scrollTop;
  }

  watchWheel(event) {
    if (event.deltaY < 0 && this.element.scrollTop > 0) this.follows = false;
  }

  follow() {
    if (!this.follows) return;
    this.element.scrollTop = this.element.scrollHeight;
    this.lastTop = this.element.scrollTop; // its scroll event is not the user's
  }

  get isAtEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.element;
    return scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
  }

  /** For another conversation. */
  reset() {
    this.views.clear();
    this.changed.clear();
    this.follows = true;
    this.show();
  }

  /** Draws a turn's new text in the next frame, or later if drawing takes long. */
  update(turn) {
    this.changed.add(turn);
    const wait = this.drawAgainAt - performance.now();
    if (wait <= 0) this.draw();
    else this.timer ??= setTimeout(() => ((this.timer = null), this.draw()), wait);
  }

  drawChanged() {
    const session = this.session();
    const start = performance.now();
    for (const turn of this.changed) {
      const view = this.views.get(turn.id);
      if (view instanceof AnswerView) view.show(...this.stateOf(turn, session));
    }
    this.changed.clear();
    const end = performance.now();
    this.drawAgainAt = end + (end - start) * (1 / MAX_SHARE - 1);
  }

  stateOf(turn, { tree, running }) {
    const others = tree.together(turn);
    return [running.has(turn.id), tree.child(turn.parent) === turn, others.length > 1];
  }

  /** Draws the branch, after turns were added, picked or removed. */
  show() {
    const session = this.session();
    const path = session.tree.path();
    for (const id of this.views.keys()) if (!session.tree.turns.has(id)) this.views.delete(id);
    const focused = document.activeElement;
    put(
      this.list,
      path.map((turn) =>
        turn.role === "assistant" ? this.answers(turn, session) : this.said(turn, session),
      ),
    );
    this.list.classList.toggle("empty", !path.length);
    this.focusAgain(focused);
  }

  /** What moves loses the focus; a switch between branches is a new one. */
  focusAgain(element) {
    if (element === document.activeElement) return;
    const label = element.getAttribute("aria-label");
    const same = element.isConnected
      ? element
      : label && this.list.querySelector(`.branches [aria-label="${CSS.escape(label)}"]`);
    same?.focus({ preventScroll: true });
  }

  viewOf(turn, kind) {
    if (!this.views.has(turn.id)) this.views.set(turn.id, new kind(turn, this.actions));
    return this.views.get(turn.id);
  }

  said(turn, { tree }) {
    const view = this.viewOf(turn, SaidView);
    view.showBranches(tree.branches(turn), tree.branchIndex(turn));
    return view.element;
  }

  answers(turn, session) {
    const { tree } = session;
    const together = tree.together(turn);
    const columns = together.map((other) => {
      const view = this.viewOf(other, AnswerView);
      view.show(...this.stateOf(other, session));
      return view.element;
    });
    const branches = branchSwitch(tree.branches(turn), tree.branchIndex(turn), this.actions.pick);
    return h(
      "li",
      { class: `turn assistant ${columns.length > 1 ? "beside" : ""}` },
      h("div", { class: "columns" }, columns),
      branches && h("div", { class: "turn-tools" }, branches),
    );
  }
}
