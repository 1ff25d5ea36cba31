// What the browser remembers of the page itself, and the API key.

import { Signal } from "./signal.js";

const PREFIX = "localinfra.";
const KEY = PREFIX + "key";

const forGood = storage("localStorage");
export const inThisTab = storage("sessionStorage");

/**
 * A value kept in a storage. Where the browser keeps nothing, it lasts as long as the page.
 * @template T
 * @param {T} initial what is of another kind is as good as nothing
 * @returns {Signal<T>}
 */
export function remembered(name, initial, at = forGood) {
  const found = read(at, PREFIX + name);
  const signal = new Signal(isLike(found, initial) ? found : initial);
  let isFirst = true;
  signal.watch((value) => {
    if (!isFirst) write(at, PREFIX + name, value);
    isFirst = false;
  });
  return signal;
}

const isLike = (value, other) =>
  value !== null && typeof value === typeof other && Array.isArray(value) === Array.isArray(other);

export const theme = remembered("theme", "system"); // "light", "dark"

/** The API key: for this tab only, unless the user asked to keep it. */
export const apiKey = new Signal(read(inThisTab, KEY) ?? read(forGood, KEY) ?? "");

/** What a header can hold, as the pattern of an input. The browser itself refuses to send any other key, and then
 * no server can say that it is wrong. */
export const SENDABLE = "[ -~]*";

export function keepKey(key, isForGood) {
  write(inThisTab, KEY, key);
  write(forGood, KEY, isForGood ? key : null);
  apiKey.set(key);
}

/** One of the window's; null where the browser forbids it: then even asking for it throws. */
function storage(name) {
  try {
    return window[name];
  } catch {
    return null;
  }
}

function read(at, name) {
  try {
    return JSON.parse(at.getItem(name));
  } catch {
    return null; // nothing readable, or no storage
  }
}

function write(at, name, value) {
  try {
    if (value === null || value === "") at.removeItem(name);
    else at.setItem(name, JSON.stringify(value));
  } catch {
    // it is full or forbidden
  }
}
