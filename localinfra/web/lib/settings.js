// What the browser remembers of the page itself, and the API key.

import { Signal } from "./signal.js";

const PREFIX = "localinfra.";
const KEY = PREFIX + "key";

/**
 * A value kept in localStorage; private windows may refuse, then it lasts as long as the page.
 * @template T
 * @param {T} initial what is kept and of another kind is as good as nothing
 * @returns {Signal<T>}
 */
export function remembered(name, initial) {
  const found = read("localStorage", PREFIX + name);
  const signal = new Signal(isLike(found, initial) ? found : initial);
  let isFirst = true;
  signal.watch((value) => {
    if (!isFirst) write("localStorage", PREFIX + name, value);
    isFirst = false;
  });
  return signal;
}

const isLike = (value, other) =>
  value !== null && typeof value === typeof other && Array.isArray(value) === Array.isArray(other);

export const theme = remembered("theme", "system"); // "light", "dark"

/** The API key: for this tab only, unless the user asked to keep it. */
export const apiKey = new Signal(read("sessionStorage", KEY) ?? read("localStorage", KEY) ?? "");

/** What a header can hold, as the pattern of an input. The browser itself refuses to send any other key, and then
 * no server can say that it is wrong. */
export const SENDABLE = "[ -~]*";

export function keepKey(key, isForGood) {
  write("sessionStorage", KEY, key);
  write("localStorage", KEY, isForGood ? key : null);
  apiKey.set(key);
}

/** A text that this tab remembers. */
export const inTab = (name) => read("sessionStorage", PREFIX + name) ?? "";
export const keepInTab = (name, text) => write("sessionStorage", PREFIX + name, text);

/** `storage`: its name, as asking for it throws where the browser forbids it. */
function read(storage, name) {
  try {
    return JSON.parse(window[storage].getItem(name));
  } catch {
    return null;
  }
}

function write(storage, name, value) {
  try {
    if (value === null || value === "") window[storage].removeItem(name);
    else window[storage].setItem(name, JSON.stringify(value));
  } catch {
    // the storage is full or forbidden
  }
}
