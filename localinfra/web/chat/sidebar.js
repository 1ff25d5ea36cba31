// The list of conversations: search, new, import, export.

import { h, icon, put } from "../lib/dom.js";
import { asked, chooseFiles, confirmed, download, menuButton, notify } from "../lib/dialog.js";
import { plain, when } from "../lib/format.js";
import * as library from "./library.js";

const SEARCH_AFTER_MS = 200;

/**
 * @param {{open: (id: string) => void, startNew: () => void, forget: (id: string) => void,
 *   rename: (id: string, title: string) => Promise<void>,
 *   current: () => import("./session.js").Session}} actions
 */
export function sidebar(actions) {
  const list = h("ul", { class: "conversations" });
  let timer = 0;
  const search = h("input", {
    type: "search",
    placeholder: "Search conversations",
    "aria-label": "Search conversations",
    oninput: () => {
      clearTimeout(timer);
      timer = setTimeout(() => library.loadHeads(search.value), SEARCH_AFTER_MS);
    },
  });
  const show = (heads) => {
    const current = actions.current()?.conversation.id;
    const empty = search.value
      ? "No conversation has these words."
      : "Your conversations stay in this browser. Start one below.";
    put(
      list,
      heads.length
        ? heads.map((head) => row(head, head.id === current, actions))
        : h("li", { class: "empty-list" }, empty),
    );
  };
  library.heads.watch(show);
  const element = h(
    "aside",
    { class: "sidebar", "aria-label": "Conversations" },
    h(
      "div",
      { class: "row" },
      h(
        "button",
        { type: "button", class: "button grow", onclick: actions.startNew },
        icon("plus"),
        "New chat",
      ),
      menuButton("more", "Import and export", [
        ["Import…", importFiles],
        ["Export all", async () => download("localinfra-conversations.json", await library.exported())],
        ["This one as Markdown", () => exportOne(actions.current(), "md")],
        ["This one as messages", () => exportOne(actions.current(), "json")],
      ]),
    ),
    search,
    list,
  );
  return { element, refresh: () => show(library.heads.value), focusSearch: () => search.focus() };
}

function row(head, isCurrent, actions) {
  const title = plain(head.title || "Untitled");
  return h(
    "li",
    { class: isCurrent ? "current" : null },
    h(
      "button",
      {
        type: "button",
        class: "conversation",
        "aria-current": isCurrent ? "true" : null,
        onclick: () => actions.open(head.id),
        dir: "auto",
      },
      h("span", { class: "conversation-title" }, title),
      h("span", { class: "hint" }, when(head.updatedAt)),
    ),
    menuButton("more", `More on ${title}`, [
      ["Rename…", () => rename(head, actions)],
      ["Delete…", () => removeOne(head, actions)],
    ]),
  );
}

async function rename(head, actions) {
  const title = await asked("Name of the conversation", head.title, "Rename");
  if (title) await actions.rename(head.id, library.titleOf(title));
}

async function removeOne(head, actions) {
  if (!(await confirmed(`Delete “${plain(head.title || "Untitled")}”? It can't be brought back.`, "Delete")))
    return;
  actions.forget(head.id);
  await library.remove(head.id);
}

async function importFiles() {
  for (const file of await chooseFiles("application/json,.json")) {
    try {
      const number = await library.imported(await file.text());
      notify(number === 1 ? "One conversation came in." : `${number} conversations came in.`);
    } catch (error) {
      notify(`${file.name}: ${error.message}`, "error");
    }
  }
}

function exportOne({ conversation }, type) {
  const name =
    (conversation.title || "conversation").replace(/[^\p{L}\p{N} _-]+/gu, "").trim() || "conversation";
  if (type === "md") return download(`${name}.md`, library.asMarkdown(conversation), "text/markdown");
  download(`${name}.json`, JSON.stringify({ messages: library.asMessages(conversation) }, null, 2));
}
