// The page: the document's operations by tag, a search, the key and the colours.

import { folded, h, inline, prose } from "./dom.js";
import { fieldNames, readSchemas, schemaView, typeText } from "./schema.js";
import { useKey } from "./server.js";
import { keep, kept } from "./storage.js";
import { Trying } from "./trying.js";

const METHODS = ["get", "post", "put", "delete"];
const byId = (id) => document.getElementById(id);

/** An operation with its place. */
class Operation {
  constructor(path, method, about, openapi) {
    const { responses } = openapi.components;
    this.openapi = openapi;
    this.path = path;
    this.method = method;
    this.about = about;
    this.responses = Object.entries(about.responses).map(([status, response]) => [
      status,
      response.$ref ? responses[response.$ref.split("/").pop()] : response,
    ]);
    this.link = h(
      "a",
      { href: `#${about.operationId}`, title: about.summary },
      h("span", { class: `method ${method}` }, method),
      h("span", {}, path),
    );
    this.item = h("li", {}, this.link);
    this.section = h("section", { id: about.operationId, "aria-label": `${method} ${path}` }, this.head());
    this.text = this.searchText();
  }

  /** What the search looks at. */
  searchText() {
    const bodies = [this.about.requestBody, ...this.responses.map(([, response]) => response)];
    const schemas = bodies.flatMap((body) => Object.values(body?.content ?? {})).map((content) => content.schema);
    const errors = this.responses.map(([status, response]) => `${status} ${response.description}`);
    const { summary, description, tags, parameters } = this.about;
    const names = [...schemas.flatMap(fieldNames), ...(parameters ?? []).map((one) => one.name)];
    const also = this.about["x-also-at"] ?? [];
    return [this.method, this.path, ...also, summary, description, tags, names, errors].flat().join(" ").toLowerCase();
  }

  head() {
    const { summary, description, deprecated } = this.about;
    return h(
      "header",
      {},
      h("h3", {}, h("span", { class: `method ${this.method}` }, this.method), " ", h("code", {}, this.path)),
      h("p", { class: "summary" }, inline(`${summary}.`), deprecated && h("span", { class: "old" }, " For old clients.")),
      description && prose(description),
    );
  }

  /** Builds the rest, once the section comes near the screen. */
  fill() {
    if (this.section.childElementCount > 1) return;
    const trying = new Trying(this.path, this.method, this.about, this.openapi["x-example-models"]);
    this.section.append(h("div", { class: "columns" }, h("div", {}, this.details()), trying.element));
  }

  details() {
    const { parameters, requestBody } = this.about;
    const also = this.about["x-also-at"];
    const forms = requestBody?.content["multipart/form-data"];
    return [
      also && h("p", { class: "type" }, "Also at ", also.flatMap((path, at) => [at ? ", " : "", h("code", {}, path)])),
      parameters && [h("h4", {}, "Parameters"), h("ul", { class: "fields" }, parameters.map(parameterView))],
      requestBody && h("h4", {}, "Body", forms && h("span", { class: "type" }, " as JSON or as a form")),
      requestBody && schemaView(requestBody.content["application/json"].schema, false),
      h("h4", {}, "Answers"),
      this.responses.map(([status, response]) => folded(answerTitle(status, response), () => answerView(response))),
    ];
  }
}

function parameterView({ name, in: place, description, required, schema }) {
  return h(
    "li",
    {},
    h("code", { class: "field" }, name),
    required && h("span", { class: "required" }, " required"),
    h("span", { class: "type" }, ` ${typeText(schema)}, in the ${place}`),
    h("p", {}, inline(description)),
  );
}

function answerTitle(status, response) {
  const codes = [...response.description.matchAll(/^- `(\w+)`/gm)].map((match) => match[1]);
  return [h("strong", {}, status), ` ${codes.join(", ") || Object.keys(response.content).join(", ") || "empty"}`];
}

function answerView(response) {
  const headers = Object.keys(response.headers ?? {}).flatMap((name, at) => [at ? ", " : "", h("code", {}, name)]);
  return [
    ...prose(response.description),
    h("p", { class: "type" }, "Headers: ", headers),
    ...Object.entries(response.content).flatMap(([type, { schema }]) => [
      h("h5", {}, type),
      ...[schemaView(schema, true)].flat(Infinity).filter(Boolean),
    ]),
  ];
}

function listed(openapi) {
  return Object.entries(openapi.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => method in item).map((method) => new Operation(path, method, item[method], openapi)),
  );
}

/** Shows the operations, each group below its tag. Returns what the search filters. */
function show(openapi) {
  const operations = listed(openapi);
  const groups = openapi.tags.map(({ name, description }) => {
    const own = operations.filter((operation) => operation.about.tags.includes(name));
    const list = h("div", {}, h("h2", {}, name), h("ul", {}, own.map((one) => one.item)));
    const chapter = h(
      "div",
      { class: "chapter" },
      h("h2", {}, name),
      h("p", {}, description),
      own.map((one) => one.section),
    );
    return { list, chapter, own };
  });
  byId("version").textContent = openapi.info.version;
  byId("contents").replaceChildren(...groups.map((group) => group.list));
  byId("operations").replaceChildren(
    h("div", { class: "intro" }, h("h1", {}, "API"), prose(openapi.info.description)),
    ...groups.map((group) => group.chapter),
  );
  return groups;
}

function search(groups, words) {
  let number = 0;
  for (const { list, chapter, own } of groups) {
    for (const one of own) {
      const isFound = words.every((word) => one.text.includes(word));
      one.item.hidden = one.section.hidden = !isFound;
      number += isFound;
    }
    list.hidden = chapter.hidden = own.every((one) => one.section.hidden);
  }
  byId("operations").querySelector(".intro").hidden = words.length > 0;
  byId("found").textContent = words.length ? `${number || "nothing"} found` : "";
}

/** Fills sections that come near, and marks the one that is read in the list. */
function watch(operations) {
  const of = new Map(operations.map((operation) => [operation.section, operation]));
  const near = new IntersectionObserver(
    (entries) => entries.filter((one) => one.isIntersecting).forEach((one) => of.get(one.target).fill()),
    { rootMargin: "800px" },
  );
  const read = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) of.get(target).link.setAttribute("aria-current", "true");
        else of.get(target).link.removeAttribute("aria-current");
      }
    },
    { rootMargin: "-20% 0px -79% 0px" },
  );
  for (const section of of.keys()) {
    near.observe(section);
    read.observe(section);
  }
}

function goToHash(operations) {
  const found = operations.find((one) => one.about.operationId === location.hash.slice(1));
  found?.fill();
  found?.section.scrollIntoView();
}

function followKeys() {
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.matches("input, textarea, select");
    if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      byId("search").focus();
    }
  });
}

function offerKey() {
  const dialog = byId("key-dialog");
  byId("key").addEventListener("click", () => {
    dialog.returnValue = "";
    dialog.showModal();
  });
  dialog.addEventListener("close", () => {
    if (dialog.returnValue !== "use") return;
    useKey(byId("key-value").value.trim());
    byId("key").textContent = byId("key-value").value ? "API key is set" : "API key";
  });
}

/** Colours are the system's until the button has been used. */
function offerTheme() {
  const root = document.documentElement;
  const name = "localinfra.docs.theme";
  root.dataset.theme = kept("localStorage", name);
  byId("theme").addEventListener("click", () => {
    const isDark = getComputedStyle(root).getPropertyValue("--is-dark") === "1";
    root.dataset.theme = isDark ? "light" : "dark";
    keep("localStorage", name, root.dataset.theme);
  });
}

async function start() {
  offerTheme();
  offerKey();
  followKeys();
  const reply = await fetch("/openapi.json").catch(() => null);
  if (!reply?.ok) {
    byId("operations").replaceChildren(h("p", { class: "bad" }, "The server can't be reached. Is it still running?"));
    return;
  }
  const openapi = await reply.json();
  readSchemas(openapi);
  const groups = show(openapi);
  const operations = groups.flatMap((group) => group.own);
  watch(operations);
  byId("search").addEventListener("input", (event) =>
    search(groups, event.target.value.toLowerCase().split(/\s+/).filter(Boolean)),
  );
  addEventListener("hashchange", () => goToHash(operations));
  goToHash(operations);
}

start();
