// What the browser keeps. Where it forbids that, even asking for the storage throws.

/** A text by its name, "" if there is none. @param {"localStorage" | "sessionStorage"} storage */
export function kept(storage, name) {
  try {
    return window[storage].getItem(name) ?? "";
  } catch {
    return "";
  }
}

export function keep(storage, name, text) {
  try {
    window[storage].setItem(name, text);
  } catch {
    // it lasts as long as the page
  }
}
