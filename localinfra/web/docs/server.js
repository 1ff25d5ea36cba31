// Requests to the server, with the key, and the models that it has.

import { keep, kept } from "./storage.js";

const STORED = "localinfra.docs.key";

let key = kept("sessionStorage", STORED);

export const hasKey = () => key !== "";

export function useKey(value) {
  key = value;
  keep("sessionStorage", STORED, value);
  models = null;
}

/** @param {{method?: string, body?: string, signal?: AbortSignal}} options */
export function send(path, { method = "GET", body, signal } = {}) {
  const headers = {};
  if (key) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  return fetch(path, { method, headers, body, signal });
}

let models = null;

async function listed() {
  const reply = await send("/v1/models").catch(() => null);
  return reply?.ok ? (await reply.json()).data : [];
}

/** An example's model, or one of its kind that this server has in its place. */
export async function standIn(name, kind) {
  if (!kind) return name;
  models ??= listed();
  const found = (await models).filter((model) => model.kind === kind);
  const isServed = found.some((model) => model.id === name || model.aliases.includes(name));
  return isServed || !found.length ? name : found[0].id;
}
