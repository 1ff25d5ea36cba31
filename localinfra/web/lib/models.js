// The server's models, as every panel chooses among them.

import { h, put } from "./dom.js";
import { json } from "./api.js";
import { notify } from "./dialog.js";
import { Signal } from "./signal.js";

const UNKNOWN = [];

/** @type {Signal<any[]>} cards of GET /v1/models, those without files too */
export const models = new Signal(UNKNOWN);

/** @param {boolean} [isQuiet] whether not to ask for a key */
export async function refreshModels(isQuiet = true) {
  const { data } = await json("/v1/models?all=true", { isQuiet });
  // What stays the same is not drawn again: it may be in use.
  if (!areKnown() || JSON.stringify(data) !== JSON.stringify(models.value)) models.set(data);
}

export const areKnown = () => models.value !== UNKNOWN;

/** What to do where there is no model, as the content of a paragraph. @param {string} what "chat model" */
export function adviceWithout(what) {
  const again = () => refreshModels(false).catch((error) => notify(error.message, "error"));
  if (!areKnown())
    return [
      "What this server has is not known yet. ",
      h("button", { type: "button", class: "button", onclick: again }, "Ask it again"),
    ];
  return [
    `No ${what} is on this machine yet. `,
    h("a", { href: "#models" }, "Fetch one"),
    ", then come back.",
  ];
}

/** Whether a model reads pictures. @param {string} name */
export const sees = (name) => models.value.some((card) => card.id === name && card.vision === true);
export const seeingModels = () => ofKind(["text"]).filter(({ id }) => sees(id));

/** What to know before pictures go to these models; nothing if all see. @param {string[]} names */
export function whoIsBlind(names) {
  const blind = names.filter((name) => !sees(name));
  if (!blind.length) return "";
  const all = blind.join(" and ");
  if (blind.length < names.length) return `${all} takes text only, and will not see this.`;
  const others = seeingModels().slice(0, 3).map(({ id }) => id);
  const advice = others.length ? `choose a model that sees: ${others.join(", ")}` : "no model here sees";
  return `${all} ${blind.length > 1 ? "take" : "takes"} text only: ${advice}.`;
}

export const isPresent = (card) => !card.remedy;
export const ofKind = (kinds) => models.value.filter((card) => kinds.includes(card.kind) && isPresent(card));

const STATES = { loaded: "in memory", present: "on disk", "fetch needed": "not fetched" };
export const stateName = (card) => STATES[card.state] ?? card.state;

/**
 * A list to choose a model of some kinds from, which follows the server's catalogue, and a sign of
 * the chosen one's state.
 * @param {string[]} kinds
 * @param {Signal<string>} chosen the model's id; set to the first if it is none
 * @param {Signal<string> | null} [first] of which this picker's should differ at first
 */
export function modelPicker(kinds, chosen, label = "Model", first = null) {
  const select = h("select", {
    class: "picker",
    "aria-label": label,
    onchange: () => chosen.set(select.value),
  });
  const state = h("span", { class: "badge", role: "img" });
  const showState = () => {
    const card = models.value.find(({ id }) => id === chosen.value);
    state.className = `badge ${card?.state ?? ""}`;
    state.hidden = !card;
    state.title = card ? stateName(card) : "";
    state.setAttribute("aria-label", state.title);
  };
  const show = () => {
    const cards = ofKind(kinds);
    if (cards.length && !cards.some((card) => card.id === chosen.value))
      chosen.set(preferred(cards, first?.value).id);
    put(
      select,
      cards.map((card) =>
        h(
          "option",
          { value: card.id },
          `${card.id}${card.state === "present" ? "" : ` · ${stateName(card)}`}`,
        ),
      ),
      cards.length ? null : h("option", { value: "" }, areKnown() ? "no model of this kind" : "not known yet"),
    );
    select.disabled = !cards.length;
    select.value = chosen.value;
    showState();
  };
  models.watch(show);
  chosen.watch((id) => {
    select.value = id;
    showState();
  });
  return h("span", { class: "picker-box" }, state, select);
}

function preferred(cards, other) {
  const others = cards.filter((card) => card.id !== other);
  return others.find((card) => card.state === "loaded") ?? others[0] ?? cards[0];
}
