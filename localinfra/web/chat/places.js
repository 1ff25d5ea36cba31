// Where conversations are kept: in this browser, or on the server if it says so. Both keep a number with each,
// its revision, so that two windows can't overwrite each other's changes unseen.

import { ApiError, json, part } from "../lib/api.js";
import * as db from "../lib/db.js";
import { apart, together } from "./tree.js";

/** What reads files and the server's conversations. @returns {Promise<typeof import("./reading.js")>} */
export const loadReading = () => part(import("./reading.js"));

const STORE = "conversations";
const PICTURES = "attached"; // by conversation's id/picture's id: read with their conversation, not for the list
const ROUTE = "/v1/chats";
const PER_PAGE = 100;
const MAX_TITLE = 200; // characters that the server takes

/**
 * @typedef {import("./library.js").Conversation} Conversation
 * @typedef {{id: string, title: string, updatedAt: number, revision: number}} Head
 * @typedef {object} Place
 * @property {string} sign what the page says of it
 * @property {number} saveEveryMs of a running answer: what a reload keeps
 * @property {number} maxPictureBytes of one conversation, as data URLs
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
  maxPictureBytes: 12 * 2 ** 20, // as much as is sent

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
    if (conversation.id === undefined) return null;
    if (!conversation.turns.some((turn) => turn.pictures)) return { conversation, revision };
    const found = await db.getBelow(PICTURES, `${id}/`);
    const pictures = Object.fromEntries(found.map(({ id: key, url }) => [key.slice(id.length + 1), url]));
    return { conversation: { ...conversation, turns: together(conversation.turns, pictures) }, revision };
  },

  async save(conversation, revision) {
    const { turns, pictures } = apart(conversation.turns);
    await savePictures(conversation.id, pictures);
    let there;
    await db.change(STORE, conversation.id, (found) => {
      there = found;
      return (found?.revision ?? 0) === revision ? { ...conversation, turns, revision: revision + 1 } : null;
    });
    if ((there?.revision ?? 0) === revision) return revision + 1;
    throw new ApiError("Another window has changed this conversation.", there ? 409 : 404);
  },

  async remove(id) {
    await db.remove(STORE, id);
    await db.removeBelow(PICTURES, `${id}/`);
  },

  async removeAll() {
    await db.clear(STORE);
    await db.clear(PICTURES);
  },
};

/** Those that are not there yet: saving an answer as it grows must not write them again. */
async function savePictures(id, pictures) {
  if (!Object.keys(pictures).length) return;
  const there = new Set(await db.idsBelow(PICTURES, `${id}/`));
  for (const [key, url] of Object.entries(pictures))
    if (!there.has(`${id}/${key}`))
      await db.save(PICTURES, { id: `${id}/${key}`, url }).catch(() => {
        throw new Error("The browser's storage is full, and this conversation is not kept: delete others, or export it.");
      });
}

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
  maxPictureBytes: 6 * 2 ** 20, // of 8 that it takes

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
    const { readConversation } = await loadReading();
    return { conversation: readConversation({ ...data, id, title, ...times }), revision };
  },

  async save(conversation, revision) {
    const { id, title, system, picked, updatedAt } = conversation;
    const body = {
      title: [...title].slice(0, MAX_TITLE).join(""),
      data: { system, ...apart(conversation.turns), picked },
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
  if (kept) loadReading().catch(() => {}); // as it will be needed
  return kept ? server : browser;
}
