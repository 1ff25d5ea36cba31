// A conversation as a tree: editing a message or asking again adds a branch and loses nothing.
// Plain values only, so that it can be saved as it is.

import { newId } from "../lib/id.js";

/**
 * @typedef {object} Turn
 * @property {string} id
 * @property {string | null} parent
 * @property {"user" | "assistant" | "tool"} role
 * @property {string} content
 * @property {import("./tray.js").Picture[]} [pictures] that the user shows, before the text
 * @property {string} [run] answers with the same run were generated together, side by side
 * @property {string} [reasoning]
 * @property {{id: string, name: string, arguments: string}[]} [calls]
 * @property {string} [callId] of a tool's result
 * @property {string} [model]
 * @property {object} [stats]
 * @property {object[]} [scores] logprobs
 * @property {string | null} [finish]
 * @property {string} [error]
 * @property {object} [asked] while it is answered: the request's id, which choice of it, and what was there before
 */

export class Tree {
  /** @param {Turn[]} turns @param {Object<string, string>} picked parent's id ("" at the root) → child's */
  constructor(turns = [], picked = {}) {
    /** @type {Map<string, Turn>} */
    this.turns = new Map(turns.map((turn) => [turn.id, turn]));
    this.picked = { ...picked };
  }

  /** @returns {Turn[]} in the order they were added */
  children(id) {
    return [...this.turns.values()].filter((turn) => turn.parent === id);
  }

  /** From the root along the picked branches. @returns {Turn[]} */
  path() {
    const found = [];
    for (let next = this.child(null); next; next = this.child(next.id)) found.push(next);
    return found;
  }

  child(id) {
    const picked = this.turns.get(this.picked[id ?? ""]);
    return picked?.parent === id ? picked : this.children(id).at(-1);
  }

  /** The turns that lead to one, without it. @returns {Turn[]} */
  before(turn) {
    const found = [];
    for (let at = this.turns.get(turn.parent); at; at = this.turns.get(at.parent)) found.unshift(at);
    return found;
  }

  /** Adds a turn and picks its branch. @param {Omit<Turn, "id">} turn @returns {Turn} */
  add(turn) {
    const added = { ...turn, id: newId() };
    this.turns.set(added.id, added);
    this.pick(added);
    return added;
  }

  pick(turn) {
    this.picked[turn.parent ?? ""] = turn.id;
  }

  /** The turns generated together with one, itself included. @returns {Turn[]} */
  together(turn) {
    if (!turn.run) return [turn];
    return this.children(turn.parent).filter((other) => other.run === turn.run);
  }

  /** The branches at a turn: the first turn of each run, and each turn without one. @returns {Turn[]} */
  branches(turn) {
    const seen = new Set();
    return this.children(turn.parent).filter((other) => {
      const key = other.run ?? other.id;
      return !seen.has(key) && seen.add(key);
    });
  }

  /** Where a turn is among the branches, from 0. */
  branchIndex(turn) {
    return this.branches(turn).findIndex((other) => (other.run ?? other.id) === (turn.run ?? turn.id));
  }

  /**
   * Takes in what another window made of the same conversation since both had the turns `known`: what is new
   * there, texts that have grown, and what is missing there, unless this one goes on from it.
   * @param {{turns: Turn[], picked: Object<string, string>}} theirs @param {Set<string>} known ids
   */
  takeIn({ turns, picked }, known) {
    const theirs = new Map(turns.map((turn) => [turn.id, turn]));
    for (const turn of turns) {
      const own = this.turns.get(turn.id);
      if (own && turn.content.length > own.content.length) Object.assign(own, turn);
    }
    const ours = this.turns;
    const all = new Map([...theirs, ...ours]);
    this.turns = new Map();
    for (const turn of all.values()) {
      if (known.has(turn.id) && !(ours.has(turn.id) && theirs.has(turn.id))) continue; // deleted on one side
      const line = []; // with what it follows, which comes first
      for (let at = turn; at && !this.turns.has(at.id); at = all.get(at.parent)) line.unshift(at);
      for (const one of line) this.turns.set(one.id, one);
    }
    this.picked = { ...picked, ...this.picked };
  }

  /** Removes a turn, those generated with it, and all that follow them. */
  remove(turn) {
    const doomed = this.together(turn);
    for (let next = doomed.pop(); next; next = doomed.pop()) {
      doomed.push(...this.children(next.id));
      this.turns.delete(next.id);
    }
  }
}

/** The messages of a request for what follows these turns. @param {Turn[]} turns */
export function messagesOf(turns, system) {
  const messages = turns.map((turn) => {
    if (turn.role === "tool") return { role: "tool", tool_call_id: turn.callId, content: turn.content };
    if (turn.pictures) return { role: turn.role, content: partsOf(turn) };
    if (!turn.calls?.length) return { role: turn.role, content: turn.content };
    const calls = turn.calls.map(({ id, name, arguments: text }) => ({
      id,
      type: "function",
      function: { name, arguments: text },
    }));
    return { role: turn.role, content: turn.content || null, tool_calls: calls };
  });
  return system.trim() ? [{ role: "system", content: system }, ...messages] : messages;
}

function partsOf({ pictures, content }) {
  const parts = pictures.map(({ url }) => ({ type: "image_url", image_url: { url } }));
  return content ? [...parts, { type: "text", text: content }] : parts;
}

/**
 * Turns as they are kept: with their pictures apart, each once, however many versions of a message have it.
 * @param {Turn[]} turns @returns {{turns: object[], pictures: Object<string, string>}} pictures: id → data URL
 */
export function apart(turns) {
  const pictures = new Map();
  const bare = turns.map((turn) => {
    if (!turn.pictures) return turn;
    for (const { id, url } of turn.pictures) pictures.set(id, url);
    return { ...turn, pictures: turn.pictures.map(({ id, name }) => ({ id, name })) };
  });
  return { turns: bare, pictures: Object.fromEntries(pictures) };
}

/** The other way round; only users show pictures, and one that is missing is left out. */
export function together(turns, pictures) {
  const known = new Map(Object.entries(pictures));
  return turns.map(({ pictures: named = [], ...turn }) => {
    const found = named.filter(({ id }) => turn.role === "user" && known.has(id));
    if (!found.length) return turn;
    return { ...turn, pictures: found.map(({ id, name }) => ({ id, name, url: known.get(id) })) };
  });
}
