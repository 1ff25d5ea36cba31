// IndexedDB as promises.

// Their stores, all by `id`. A later store has a database of its own: a new version of one would wait for all
// windows that have the old one open.
const DATABASES = { localinfra: ["conversations", "pictures"], "localinfra-attached": ["attached"] };

const opened = new Map(); // database's name → its promise

function open(store) {
  const [name, stores] = Object.entries(DATABASES).find(([, names]) => names.includes(store));
  if (!opened.has(name)) opened.set(name, opening(name, stores));
  return opened.get(name);
}

function opening(name, stores) {
  return new Promise((resolve, reject) => {
    const asked = indexedDB.open(name, 1);
    asked.onupgradeneeded = () => {
      for (const store of stores) asked.result.createObjectStore(store, { keyPath: "id" });
    };
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  }).catch((error) => {
    opened.delete(name); // it may be allowed later
    throw error;
  });
}

async function run(store, mode, act) {
  const transaction = (await open(store)).transaction(store, mode);
  const asked = act(transaction.objectStore(store));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(asked.result);
    transaction.onerror = transaction.onabort = () =>
      reject(transaction.error ?? new Error("The browser's storage refused."));
  });
}

export const getAll = (store) => run(store, "readonly", (at) => at.getAll());
export const get = (store, id) => run(store, "readonly", (at) => at.get(id));
export const save = (store, value) => run(store, "readwrite", (at) => at.put(value));
export const remove = (store, id) => run(store, "readwrite", (at) => at.delete(id));
export const ids = (store) => run(store, "readonly", (at) => at.getAllKeys());
export const clear = (store) => run(store, "readwrite", (at) => at.clear());

/** Values, or their ids, whose ids begin so. */
const below = (prefix) => IDBKeyRange.bound(prefix, `${prefix}\uffff`);
export const getBelow = (store, prefix) => run(store, "readonly", (at) => at.getAll(below(prefix)));
export const idsBelow = (store, prefix) => run(store, "readonly", (at) => at.getAllKeys(below(prefix)));
export const removeBelow = (store, prefix) => run(store, "readwrite", (at) => at.delete(below(prefix)));

/** Saves what `next` makes of the value that is there, or nothing if that is null. No other window can come
 * between. */
export function change(store, id, next) {
  return run(store, "readwrite", (at) => {
    const asked = at.get(id);
    asked.onsuccess = () => {
      const value = next(asked.result);
      if (value) at.put(value);
    };
    return asked;
  });
}

/** Calls `look` with one value after the other, so that they need not be in memory together. */
export function each(store, look) {
  return run(store, "readonly", (at) => {
    const asked = at.openCursor();
    asked.onsuccess = () => {
      if (!asked.result) return;
      look(asked.result.value);
      asked.result.continue();
    };
    return asked;
  });
}
