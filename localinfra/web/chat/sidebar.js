// The list of conversations: search, new, import, export.

import { h, icon, put } from "../lib/dom.js";
import { asked, chooseFiles, confirmed, download, menuButton, notify } from "../lib/dialog.js";
import { plain, when } from "../lib/format.js";
import * as library from "./library.js";

const SEARCH_AFTER_MS = 200;

/**
 * @param {{open: (id: string) => void, startNew: () => void, forget: (id: string) => void, forgetAll: () => void,
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
      timer = setTimeout(load, SEARCH_AFTER_MS);
    },
  });
  const load = () => showing(() => library.loadHeads(search.value));
  const show = (heads) => {
    const current = actions.current()?.conversation.id;
    const empty = search.value
      ? "No conversation has these words."
      : "No conversations yet. Start one below.";
    const had = document.activeElement?.dataset?.conversation;
    put(
      list,
      heads.length
        ? heads.map((head) => row(head, head.id === current, actions))
        : h("li", { class: "empty-list" }, empty),
      library.hasMore.value
        ? h("li", {}, h("button", { type: "button", class: "button quiet grow", onclick: loadMore }, "Show more"))
        : null,
    );
    if (had) list.querySelector(`[data-conversation="${CSS.escape(had)}"]`)?.focus();
  };
  library.heads.watch(show);
  const foot = h("div", { class: "kept" });
  const showFoot = () => put(foot, keptText(), strayText());
  library.place.watch(showFoot);
  library.numStray.watch(showFoot);
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
        ["Export all", () => showing(exportAll)],
        ["This one as Markdown", () => exportOne(actions.current(), "md")],
        ["This one as messages", () => exportOne(actions.current(), "json")],
        ["Delete all…", () => showing(() => removeAll(actions))],
      ]),
    ),
    search,
    list,
    foot,
  );
  return { element, load, refresh: () => show(library.heads.value), focusSearch: () => search.focus() };
}

/** Shows what goes wrong. */
async function showing(work) {
  try {
    await work();
  } catch (error) {
    notify(error.message, "error");
  }
}

const loadMore = () => showing(library.loadMoreHeads);

const keptText = () => h("p", { class: "hint" }, library.place.value ? `${library.place.value.sign}.` : null);

/** What is in this browser although the server keeps conversations now. */
function strayText() {
  const number = library.numStray.value;
  if (!number) return null;
  const text = h("p", { role: "status" }, `${conversations(number)} from before ${number === 1 ? "is" : "are"} in this browser only.`);
  const button = h("button", { type: "button", class: "button" }, "Move to the server");
  button.addEventListener("click", () =>
    showing(async () => {
      button.disabled = true;
      try {
        const moved = await library.moveToServer((done) => put(text, `Moving: ${done} of ${number}`));
        notify(`${conversations(moved)} moved to the server.`);
      } finally {
        button.disabled = false;
      }
    }),
  );
  return [text, button];
}

const conversations = (number) => (number === 1 ? "One conversation" : `${number} conversations`);

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
        data: { conversation: head.id },
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
  if (title) await showing(() => actions.rename(head.id, library.titleOf(title)));
}

async function removeOne(head, actions) {
  if (!(await confirmed(`Delete “${plain(head.title || "Untitled")}”? It can't be brought back.`, "Delete")))
    return;
  actions.forget(head.id);
  await showing(() => library.remove(head.id));
}

async function removeAll(actions) {
  if (!(await confirmed("Delete all conversations? They can't be brought back.", "Delete all"))) return;
  actions.forgetAll();
  await library.removeAll();
}

const exportAll = async () => download("localinfra-conversations.json", await library.exported());

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
