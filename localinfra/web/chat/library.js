// The conversations of this browser: saved, found, carried elsewhere.

import * as db from "../lib/db.js";
import { newId } from "../lib/id.js";
import { Signal } from "../lib/signal.js";
import { FORMAT, readConversations } from "./reading.js";
import { messagesOf, Tree } from "./tree.js";

const STORE = "conversations";
const MAX_TITLE = 80;

/**
 * @typedef {{id: string, title: string, createdAt: number, updatedAt: number, system: string,
 *   turns: import("./tree.js").Turn[], picked: Object<string, string>}} Conversation
 */

/** @type {Signal<{id: string, title: string, updatedAt: number}[]>} the latest first */
export const heads = new Signal([]);

export async function loadHeads(query = "") {
  const found = [];
  const wanted = query.trim().toLowerCase();
  await db.each(STORE, (conversation) => {
    if (!wanted || contains(conversation, wanted)) found.push(headOf(conversation));
  });
  heads.set(found.sort((a, b) => b.updatedAt - a.updatedAt));
}

const headOf = ({ id, title, updatedAt }) => ({ id, title, updatedAt });

function contains(conversation, wanted) {
  const texts = [conversation.title, ...conversation.turns.map((turn) => turn.content)];
  return texts.some((text) => text.toLowerCase().includes(wanted));
}

export const load = (id) => db.get(STORE, id);

/** Saves a conversation under the time of now. @param {Conversation} conversation */
export async function save(conversation) {
  conversation.updatedAt = Date.now();
  await db.save(STORE, conversation);
  heads.set([headOf(conversation), ...heads.value.filter(({ id }) => id !== conversation.id)]);
}

export async function remove(id) {
  await db.remove(STORE, id);
  heads.set(heads.value.filter((head) => head.id !== id));
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
  return line.length > MAX_TITLE ? `${line.slice(0, MAX_TITLE - 1)}…` : line;
}

/** A file with all of them. */
export async function exported() {
  return JSON.stringify({ format: FORMAT, version: 1, conversations: await db.getAll(STORE) }, null, 1);
}

/** A conversation's picked branch as Markdown. @param {Conversation} conversation */
export function asMarkdown({ title, system, turns, picked }) {
  const parts = new Tree(turns, picked)
    .path()
    .map((turn) => `## ${turn.role === "user" ? "User" : (turn.model ?? turn.role)}\n\n${turn.content}`);
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

/**
 * Takes over a file: ours, or messages in OpenAI's form. Returns how many conversations it had.
 * @throws {Error} if it is neither
 */
export async function imported(text) {
  const found = readConversations(text, newConversation);
  for (const conversation of found) {
    conversation.title ||= titleOf(conversation.turns[0]?.content ?? "Imported");
    await db.save(STORE, conversation);
  }
  await loadHeads();
  return found.length;
}
