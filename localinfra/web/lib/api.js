// Requests to the server, with the key, and its event streams.

import { apiKey } from "./settings.js";

const NEEDS_KEY = "This server needs an API key.";

/** What went wrong, in the server's words. */
export class ApiError extends Error {
  constructor(message, status = 0, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The connection failed: whether the server has the request, or goes on with it, is not known. */
export class Unreachable extends ApiError {}

const LOST_PART = "This part of the page could not be loaded. If the server was updated, reload the page.";

/**
 * A module that is fetched when it is needed. @template T @param {Promise<T>} imported
 * @throws {ApiError} in words for the user
 */
export const part = (imported) =>
  imported.catch(() => {
    throw new ApiError(LOST_PART);
  });

/** @type {(refused: string) => Promise<boolean>} asks for a key; set by the frame */
let askForKey = async () => false;

export function onMissingKey(ask) {
  askForKey = ask;
}

let lacksKey = false; // the last request was refused for want of one

/**
 * A response with status 2xx. Asks for a key where one is missing, and tries again; not if `isQuiet`, for what
 * the page does by itself: who has sent the question away must not be asked again and again.
 * @param {string} path
 * @param {{method?: string, body?: any, signal?: AbortSignal, isQuiet?: boolean, id?: string}} [options] `body`
 *   becomes JSON; `id`: the request's, of letters and digits
 * @throws {ApiError} or an AbortError
 */
export async function request(path, { method, body, signal, isQuiet = false, id } = {}) {
  for (;;) {
    if (isQuiet && lacksKey) throw new ApiError(NEEDS_KEY, 401);
    const headers = {};
    if (apiKey.value) headers.authorization = `Bearer ${apiKey.value}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    if (id) headers["x-request-id"] = id;
    const sent = { method: method ?? (body === undefined ? "GET" : "POST"), headers, signal };
    if (body !== undefined) sent.body = JSON.stringify(body);
    const reply = await fetch(path, sent).catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new Unreachable("The server can't be reached. Is it still running?");
    });
    lacksKey = reply.status === 401;
    if (reply.ok) return reply;
    const error = await errorOf(reply);
    if (!lacksKey) throw error;
    if (isQuiet || !(await askForKey(error.message))) throw new ApiError(NEEDS_KEY, 401);
  }
}

export async function json(path, options) {
  return (await request(path, options)).json();
}

async function errorOf(reply) {
  const body = await reply.json().catch(() => null);
  const message = body?.error?.message ?? `The server answered ${reply.status}.`;
  return new ApiError(message, reply.status, body?.error?.code);
}

/**
 * The objects of an event stream. Leaving the loop closes the connection, and the server stops.
 * @param {Response} reply
 */
export async function* events(reply) {
  for await (const data of eventData(reply.body)) {
    if (data === "[DONE]") continue; // the end follows; leaving before would look like an abort
    const value = JSON.parse(data);
    if (value.error) throw new ApiError(value.error.message, 0, value.error.code);
    yield value;
  }
}

/**
 * The data of each event: lines may be cut anywhere between two reads.
 * @throws {Unreachable} if the connection breaks off
 */
async function* eventData(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        if (error.name === "AbortError") throw error;
        throw new Unreachable("The connection to the server broke off.");
      });
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** POSTs a body with `stream: true` and yields the events. */
export async function* stream(path, body, signal) {
  yield* events(await request(path, { body: { ...body, stream: true }, signal }));
}
