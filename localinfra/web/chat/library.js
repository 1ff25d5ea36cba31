// The conversations, wherever they are kept: listed, saved one after the other, carried elsewhere.

import { ApiError } from "../lib/api.js";
import { newId } from "../lib/id.js";
import { apiKey } from "../lib/settings.js";
import { Signal } from "../lib/signal.js";
import { browser, idsInBrowser, loadReading, placeHere, server } from "./places.js";
import { messagesOf, Tree } from "./tree.js";

const MAX_TITLE = 80;

/**
 * @typedef {{id: string, title: string, createdAt: number, updatedAt: number, system: string,
 *   turns: import("./tree.js").Turn[], picked: Object<string, string>}} Conversation
 * @typedef {{revision: number, title: string, system: string, ids: Set<string>}} Base what was there when it was
 *   last read or written here
 * @typedef {(theirs: Conversation, base: Base) => void} Merge puts what another window has saved into the
 *   conversation that is to be saved here
 */

/** @type {Signal<import("./places.js").Head[]>} the latest first */
export const heads = new Signal([]);
/** Whether there are more than those. */
export const hasMore = new Signal(false);
/** @type {Signal<import("./places.js").Place | null>} null until the server has said so */
export const place = new Signal(null);
/** How many conversations are in this browser, though the server keeps them. */
export const numStray = new Signal(0);

/** @type {Map<string, Base>} */
const bases = new Map();
const NEW = { revision: 0, title: "", system: "", ids: new Set() };

/** Whether other machines may change them. */
export const isOnServer = () => place.value === server;

let asking = null;

/** Never the browser only because the server could not say. @throws {ApiError} */
async function here() {
  if (place.value) return place.value;
  asking ??= placeHere().finally(() => (asking = null));
  place.set(await asking);
  return place.value;
}

/** Another key has other conversations. */
let usedKey = apiKey.value;
apiKey.watch((key) => {
  if (key === usedKey) return;
  usedKey = key;
  bases.clear();
  place.set(null);
});

const shown = { query: "", next: null, control: new AbortController() };

export async function loadHeads(query = "") {
  shown.control.abort();
  const { signal } = (shown.control = new AbortController());
  const found = await here()
    .then((at) => at.heads(query.trim(), null, signal))
    .catch((error) => {
      if (!signal.aborted) throw error;
    });
  if (signal.aborted) return; // another was asked for meanwhile
  Object.assign(shown, { query: query.trim(), next: found.next });
  hasMore.set(found.next !== null);
  heads.set(found.heads);
  if (isOnServer()) numStray.set((await idsInBrowser().catch(() => [])).length);
}

export async function loadMoreHeads() {
  const { control, query, next } = shown;
  const found = await (await here()).heads(query, next);
  if (control.signal.aborted) return;
  shown.next = found.next;
  const known = new Set(heads.value.map(({ id }) => id));
  hasMore.set(found.next !== null);
  heads.set([...heads.value, ...found.heads.filter(({ id }) => !known.has(id))]);
}

function setHead({ id, title, updatedAt }, revision) {
  heads.set([{ id, title, updatedAt, revision }, ...heads.value.filter((head) => head.id !== id)]);
}

const baseOf = ({ title, system, turns }, revision) => ({
  revision,
  title,
  system,
  ids: new Set(turns.map((turn) => turn.id)),
});

/** @returns {Promise<Conversation | null>} null if there is none, or no longer */
export async function load(id) {
  await settled(id);
  const found = await (await here()).load(id);
  if (!found) return null;
  bases.set(id, baseOf(found.conversation, found.revision));
  return found.conversation;
}

/** Merges what another window has saved since, if the list says so. */
export async function catchUp(id, /** @type {Merge} */ merge) {
  const base = bases.get(id);
  const head = heads.value.find((other) => other.id === id);
  if (!base || !head || head.revision === base.revision || running.has(id)) return;
  const theirs = await load(id);
  if (theirs) merge(theirs, base);
}

const running = new Map(); // conversation's id → its save that runs
const waiting = new Map(); // → the one after it, which takes what is there by then

const settled = (id) => (waiting.get(id) ?? running.get(id))?.catch(() => {});

/** Saves a conversation under the time of now. @param {Conversation} conversation @param {Merge} merge */
export function save(conversation, merge) {
  const { id } = conversation;
  if (waiting.has(id)) return waiting.get(id);
  const start = () => {
    waiting.delete(id);
    const done = write(conversation, merge).finally(() => running.delete(id));
    running.set(id, done);
    return done;
  };
  if (!running.has(id)) return start();
  const next = running.get(id).then(start, start);
  waiting.set(id, next);
  return next;
}

async function write(conversation, merge) {
  const { id } = conversation;
  const at = await here();
  for (;;) {
    conversation.updatedAt = Date.now();
    const base = bases.get(id) ?? NEW;
    const next = baseOf(conversation, base.revision + 1);
    try {
      next.revision = await at.save(conversation, base.revision);
      bases.set(id, next);
      return setHead(conversation, next.revision);
    } catch (error) {
      if (error.status === 404 && base.revision) {
        bases.delete(id); // another window has deleted it: here it goes on
        continue;
      }
      if (error.status !== 409) throw error;
      const theirs = await at.load(id);
      if (!theirs) continue;
      merge(theirs.conversation, base);
      bases.set(id, baseOf(theirs.conversation, theirs.revision));
    }
  }
}

/** Of a conversation that is not in use. */
export async function rename(id, title) {
  const conversation = await load(id);
  if (conversation) await save({ ...conversation, title }, (theirs) => Object.assign(conversation, theirs, { title }));
}

export async function remove(id) {
  await settled(id);
  await (await here()).remove(id);
  bases.delete(id);
  heads.set(heads.value.filter((head) => head.id !== id));
}

export async function removeAll() {
  await Promise.all([...running.keys()].map(settled));
  await (await here()).removeAll();
  bases.clear();
  await loadHeads();
}

/** @returns {Conversation} */
export function newConversation(system = "") {
  const now = Date.now();
  return { id: newId(), title: "", createdAt: now, updatedAt: now, system, turns: [], picked: {} };
}

export function titleOf(text) {
  const line =
    text
      .trim()
      .split("\n")[0]
      .replace(/^[#>*\s-]+/, "") || "Untitled";
  const signs = [...line];
  return signs.length > MAX_TITLE ? `${signs.slice(0, MAX_TITLE - 1).join("")}…` : line;
}

/** A file with all of them. */
export async function exported() {
  const at = await here();
  const conversations = [];
  for (let next = null, isFirst = true; isFirst || next; isFirst = false) {
    const page = await at.heads("", next);
    next = page.next;
    for (const { id } of page.heads) {
      const found = await at.load(id);
      if (found) conversations.push(found.conversation);
    }
  }
  return (await loadReading()).written(conversations);
}

/** A conversation's picked branch as Markdown. @param {Conversation} conversation */
export function asMarkdown({ title, system, turns, picked }) {
  const parts = new Tree(turns, picked)
    .path()
    .map((turn) => {
      const names = (turn.pictures ?? []).map(({ name }) => `*Picture: ${name}*\n\n`).join("");
      return `## ${turn.role === "user" ? "User" : (turn.model ?? turn.role)}\n\n${names}${turn.content}`;
    });
  return (
    [
      `# ${title || "Conversation"}`,
      ...(system ? [`> ${system.replaceAll("\n", "\n> ")}`] : []),
      ...parts,
    ].join("\n\n") + "\n"
  );
}

/** A conversation's picked branch as the messages of a request. @param {Conversation} conversation */
export const asMessages = ({ system, turns, picked }) => messagesOf(new Tree(turns, picked).path(), system);

/** Keeps a conversation from elsewhere, with its time; together with the one of its id, if there is one. */
async function bring(at, conversation) {
  try {
    await at.save(conversation, 0);
  } catch (error) {
    if (error.status !== 409) throw error;
    const there = await at.load(conversation.id);
    if (!there) throw error;
    const tree = new Tree(there.conversation.turns, there.conversation.picked);
    tree.takeIn(conversation, new Set());
    await at.save({ ...there.conversation, turns: [...tree.turns.values()], picked: tree.picked }, there.revision);
  }
}

/**
 * Takes over a file: ours, or messages in OpenAI's form. Returns how many conversations it had.
 * @throws {Error} if it is neither
 */
export async function imported(text) {
  const found = (await loadReading()).readConversations(text, newConversation);
  const at = await here();
  for (const conversation of found) {
    conversation.title ||= titleOf(conversation.turns[0]?.content || conversation.turns[0]?.pictures?.[0].name || "Imported");
    await bring(at, conversation);
    bases.delete(conversation.id);
  }
  await loadHeads();
  return found.length;
}

/**
 * Moves the conversations of this browser to the server, one after the other. One that can't be moved stays, and
 * doesn't keep the others. @returns how many
 */
export async function moveToServer(onMoved = (/** @type {number} */ _number) => {}) {
  const { packed, readConversation } = await loadReading();
  let number = 0;
  let problem = null;
  try {
    for (const id of await idsInBrowser()) {
      try {
        const found = await browser.load(id);
        if (found) await bring(server, readConversation(packed(found.conversation)));
        await browser.remove(id);
        onMoved(++number);
      } catch (error) {
        const isItsOwn = !(error instanceof ApiError) || [400, 413].includes(error.status);
        if (!isItsOwn) throw error;
        problem ??= error;
      }
    }
  } finally {
    await loadHeads();
  }
  if (problem) throw problem;
  return number;
}
