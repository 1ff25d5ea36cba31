// What the browser remembers of the page itself, and the API key.

import { Signal } from "./signal.js";

const PREFIX = "localinfra.";
const KEY = PREFIX + "key";

/** A value kept in localStorage; private windows may refuse, then it lasts as long as the page. */
export function remembered(name, initial) {
  const signal = new Signal(read("localStorage", PREFIX + name) ?? initial);
  let isFirst = true;
  signal.watch((value) => {
    if (!isFirst) write("localStorage", PREFIX + name, value);
    isFirst = false;
  });
  return signal;
}

export const theme = remembered("theme", "system"); // "light", "dark"

/** The API key: for this tab only, unless the user asked to keep it. */
export const apiKey = new Signal(read("sessionStorage", KEY) ?? read("localStorage", KEY) ?? "");

export function keepKey(key, isForGood) {
  write("sessionStorage", KEY, key);
  write("localStorage", KEY, isForGood ? key : null);
  apiKey.set(key);
}

/** A text that this tab remembers. */
export const inTab = (name) => read("sessionStorage", PREFIX + name) ?? "";
export const keepInTab = (name, text) => write("sessionStorage", PREFIX + name, text);

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
