// What a file or the server has ↔ conversations. It may come from anywhere: only what the rest of the
// page can rely on is taken over.

import { newId } from "../lib/id.js";
import { apart, together, Tree } from "./tree.js";

const FORMAT = "localinfra-conversations";
const ID = /^[\w-]{1,64}$/; // as the server takes it
const ROLES = new Set(["user", "assistant", "tool"]);
const isText = (value) => typeof value === "string";
const isNumber = (value) => Number.isFinite(value);
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const listOf = (check) => (value) => Array.isArray(value) && value.every(check);
const orNull = (check) => (value) => value === null || check(value);
const isOdds = (value) => isText(value?.token) && orNull(isNumber)(value.logprob);

const STATS = {
  firstTokenS: orNull(isNumber),
  totalS: orNull(isNumber),
  speed: orNull(isNumber),
  choices: isNumber,
  ignored: isText,
  tokens: orNull(isNumber),
  promptTokens: orNull(isNumber),
  cachedTokens: isNumber,
  cost: orNull(isNumber),
};

const areScores = listOf((score) => isOdds(score) && listOf(isOdds)(score.top_logprobs));

/** A request whose answer may still be read. */
const isAsked = ({ id, choice, content, scores }) =>
  isText(id) && Number.isInteger(choice) && isText(content) && (scores === undefined || areScores(scores));

// No SVG, and nothing of other hosts.
const PICTURE = /^data:image\/(?:png|jpeg|webp|gif);base64,/;

/** The text is searched for what doesn't belong: a pattern of all of it would overflow the browser's stack. */
function isPicture(value) {
  const head = isText(value) && PICTURE.exec(value)?.[0];
  return Boolean(head) && !/[^A-Za-z0-9+/=]/.test(value.slice(head.length));
}

const onlyPictures = (given) =>
  Object.fromEntries(Object.entries(given ?? {}).filter(([, value]) => isPicture(value)));

/** What a turn may have beside what it needs; anything else is left out. */
const OPTIONAL = {
  run: isText,
  reasoning: isText,
  thoughtS: isNumber,
  calls: listOf((call) => isText(call?.id) && isText(call.name) && isText(call.arguments)),
  callId: isText,
  pictures: listOf((picture) => isText(picture?.id) && isText(picture.name)),
  model: isText,
  params: isObject,
  scores: areScores,
  asked: (value) => isObject(value) && isAsked(value),
  stats: (value) => isObject(value) && Object.entries(STATS).every(([name, check]) => check(value[name])),
  finish: isText,
  error: isText,
};

/**
 * @param {string} text our own format, or messages in OpenAI's
 * @param {(system: string) => import("./library.js").Conversation} newConversation
 * @returns {import("./library.js").Conversation[]}
 * @throws {Error} if it is neither
 */
export function readConversations(text, newConversation) {
  let given;
  try {
    given = JSON.parse(text);
  } catch {
    throw new Error("The file is no JSON.");
  }
  if (given?.format !== FORMAT) return [fromMessages(given?.messages ?? given, newConversation)];
  if (!Array.isArray(given.conversations)) throw new Error("The file has no list of conversations.");
  return given.conversations.map(readConversation);
}

/** A file with these. @param {import("./library.js").Conversation[]} conversations */
export function written(conversations) {
  return JSON.stringify({ format: FORMAT, version: 1, conversations: conversations.map(packed) }, null, 1);
}

/** A conversation as `readConversation` takes it. */
export const packed = (conversation) => ({ ...conversation, ...apart(conversation.turns) });

/** @returns {import("./library.js").Conversation} @throws {Error} if it is none */
export function readConversation(given) {
  const { id, title, createdAt, updatedAt, system, turns, picked, pictures } = given ?? {};
  if (!isText(id) || !Array.isArray(turns))
    throw new Error("A conversation in the file has no id or no turns.");
  const known = new Set([null]);
  const name = isText(title) ? `“${title}”` : id;
  const read = turns.map((turn) => turnOf(turn, known, name));
  const now = Date.now();
  return {
    id: ID.test(id) ? id : newId(),
    title: isText(title) ? title : "",
    createdAt: isNumber(createdAt) ? createdAt : now,
    updatedAt: isNumber(updatedAt) ? updatedAt : now,
    system: isText(system) ? system : "",
    turns: together(read, onlyPictures(pictures)),
    picked: Object.fromEntries(Object.entries(picked ?? {}).filter(([, value]) => isText(value))),
  };
}

/** A turn follows one that came before it, so that no branch leads in a circle. */
function turnOf(given, known, conversation) {
  const { id, parent, role, content } = given ?? {};
  if (!isText(id) || known.has(id) || !known.has(parent) || !ROLES.has(role) || !isText(content))
    throw new Error(`The conversation ${conversation} has a turn that can't be read.`);
  known.add(id);
  const others = Object.entries(OPTIONAL).filter(([name, check]) => check(given[name]));
  return { id, parent, role, content, ...Object.fromEntries(others.map(([name]) => [name, given[name]])) };
}

function fromMessages(messages, newConversation) {
  if (!listOf(isObject)(messages))
    throw new Error("The file has neither conversations of this page nor a list of messages.");
  const tree = new Tree();
  let parent = null;
  let system = "";
  for (const { role, content } of messages) {
    const text = textOf(content);
    const pictures = picturesIn(content);
    if (role === "system" || role === "developer") system = text;
    else if (role === "user" && pictures.length) parent = tree.add({ parent, role, content: text, pictures }).id;
    else if (role === "user" || role === "assistant") parent = tree.add({ parent, role, content: text }).id;
  }
  return { ...newConversation(system), turns: [...tree.turns.values()], picked: tree.picked };
}

/** Those that are data URLs. */
function picturesIn(content) {
  const urls = (Array.isArray(content) ? content : []).map((part) => part?.image_url?.url).filter(isPicture);
  return urls.map((url, at) => ({ id: newId(), name: `picture ${at + 1}`, url }));
}

/** A message's text: itself, or that of its parts. */
function textOf(content) {
  if (isText(content)) return content;
  const parts = Array.isArray(content) ? content : [];
  return parts.map((part) => (isText(part?.text) ? part.text : "")).join("");
}
