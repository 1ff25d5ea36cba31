// Where conversations are kept: in this browser, or on the server if it says so. Both keep a number with each,
// its revision, so that two windows can't overwrite each other's changes unseen.

import { ApiError, json } from "../lib/api.js";
import * as db from "../lib/db.js";
import { readConversation } from "./reading.js";

const STORE = "conversations";
const ROUTE = "/v1/chats";
const PER_PAGE = 100;
const MAX_TITLE = 200; // characters that the server takes

/**
 * @typedef {import("./library.js").Conversation} Conversation
 * @typedef {{id: string, title: string, updatedAt: number, revision: number}} Head
 * @typedef {object} Place
 * @property {string} sign what the page says of it
 * @property {number} saveEveryMs of a running answer: what a reload keeps
 * @property {(query: string, after?: string | null, signal?: AbortSignal) =>
 *   Promise<{heads: Head[], next: string | null}>} heads the latest first
 * @property {(id: string) => Promise<{conversation: Conversation, revision: number} | null>} load
 * @property {(conversation: Conversation, revision: number) => Promise<number>} save returns the next revision;
 *   fails with an ApiError, 409 if another window has saved meanwhile, 404 if it has deleted
 * @property {(id: string) => Promise<any>} remove
 * @property {() => Promise<any>} removeAll
 */

/** @type {Place} */
export const browser = {
  sign: "Kept in this browser only",
  saveEveryMs: 1000,

  async heads(query) {
    const heads = [];
    const look = (conversation) => {
      if (!query || contains(conversation, query)) heads.push(headOf(conversation));
    };
    await db.each(STORE, look).catch(() => {
      throw new Error("The browser's storage can't be used: conversations are lost when the page closes.");
    });
    return { heads: heads.sort((a, b) => b.updatedAt - a.updatedAt), next: null };
  },

  async load(id) {
    const { revision = 0, ...conversation } = (await db.get(STORE, id)) ?? {};
    return conversation.id === undefined ? null : { conversation, revision };
  },

  async save(conversation, revision) {
    let there;
    await db.change(STORE, conversation.id, (found) => {
      there = found;
      return (found?.revision ?? 0) === revision ? { ...conversation, revision: revision + 1 } : null;
    });
    if ((there?.revision ?? 0) === revision) return revision + 1;
    throw new ApiError("Another window has changed this conversation.", there ? 409 : 404);
  },

  remove: (id) => db.remove(STORE, id),
  removeAll: () => db.clear(STORE),
};

/** Ids of the conversations in this browser. */
export const idsInBrowser = () => db.ids(STORE);

const headOf = ({ id, title, updatedAt, revision = 0 }) => ({ id, title, updatedAt, revision });

function contains(conversation, words) {
  const wanted = words.toLowerCase();
  const texts = [conversation.title, ...conversation.turns.map((turn) => turn.content)];
  return texts.some((text) => text.toLowerCase().includes(wanted));
}

/** @type {Place} */
export const server = {
  sign: "Kept on this server",
  saveEveryMs: 5000,

  async heads(query, after = null, signal = undefined) {
    const asked = new URLSearchParams({ limit: PER_PAGE, search: query.slice(0, 1000), after: after ?? "" });
    const { data, next } = await json(`${ROUTE}?${asked}`, { isQuiet: true, signal });
    return { heads: data.map(headOnServer), next };
  },

  async load(id) {
    const found = await json(pathOf(id)).catch((error) => {
      if (error.status === 404 && error.code === "not_found") return null;
      throw error;
    });
    if (!found) return null;
    const { data, title, created_at, updated_at, revision } = found;
    const times = { createdAt: created_at * 1000, updatedAt: updated_at * 1000 };
    return { conversation: readConversation({ ...data, id, title, ...times }), revision };
  },

  async save(conversation, revision) {
    const { id, title, system, turns, picked, updatedAt } = conversation;
    const body = {
      title: [...title].slice(0, MAX_TITLE).join(""),
      data: { system, turns, picked },
      revision,
      updated_at: updatedAt / 1000,
    };
    return (await json(pathOf(id), { method: "PUT", body })).revision;
  },

  remove: (id) => json(pathOf(id), { method: "DELETE" }),
  removeAll: () => json(ROUTE, { method: "DELETE" }),
};

const pathOf = (id) => `${ROUTE}/${encodeURIComponent(id)}`;
const headOnServer = ({ id, title, updated_at, revision }) => ({ id, title, updatedAt: updated_at * 1000, revision });

/** Where this server wants conversations to be. @returns {Promise<Place>} */
export async function placeHere() {
  const { kept } = await json(`${ROUTE}?limit=1`, { isQuiet: true });
  return kept ? server : browser;
}
