// The Image panel: a prompt becomes a picture before one's eyes; pictures are kept in this browser,
// and can be repainted where a brush marks them.

import { field, h, icon, iconButton, put } from "../lib/dom.js";
import { stream } from "../lib/api.js";
import * as db from "../lib/db.js";
import { announce, confirmed, notify } from "../lib/dialog.js";
import { dollars, plain, seconds } from "../lib/format.js";
import { newId } from "../lib/id.js";
import { adviceWithout, modelPicker, models, ofKind, refreshModels } from "../lib/models.js";
import { remembered } from "../lib/settings.js";
import { showRequest } from "../lib/snippets.js";
import { Mask } from "./mask.js";

const GENERATE = "/v1/images/generations";
const EDIT = "/v1/images/edits";
const STORE = "pictures";
const SIZES = ["auto", "512x512", "768x768", "1024x1024", "1024x768", "768x1024", "1344x768", "768x1344"];

export default class ImagePanel {
  constructor() {
    this.model = remembered("image-model", "");
    this.prompt = h("textarea", {
      rows: 4,
      "aria-label": "Prompt",
      placeholder: "A lighthouse in a storm, oil on canvas",
    });
    this.size = h(
      "select",
      {},
      SIZES.map((size) => h("option", { value: size }, size.replace("x", " × "))),
    );
    this.steps = h("input", { type: "number", min: 1, max: 50, placeholder: "model's" });
    this.seed = h("input", { type: "number", min: 0, placeholder: "random" });
    this.number = h("input", { type: "number", min: 1, max: 10, value: 1 });
    this.strength = h("input", { type: "range", min: 0.05, max: 1, step: 0.05, value: 0.8 });
    this.strengthField = field("How much may change", this.strength);
    this.button = h("button", { type: "submit", class: "button primary" });
    this.stage = h("div", { class: "easel" });
    this.gallery = h("div", { class: "gallery", role: "group", "aria-label": "Pictures" });
    this.pictures = [];
    this.chosen = null;
    this.mask = null;
    this.element = this.layout();
    this.setEditing(null);
    models.watch(() => this.chosen || this.control || this.showEmpty());
    this.load();
  }

  layout() {
    const form = h(
      "form",
      { class: "card stack", onsubmit: (event) => (event.preventDefault(), this.run()) },
      modelPicker(["image"], this.model),
      this.prompt,
      h(
        "div",
        { class: "fields-line" },
        field("Size", this.size),
        field("Steps", this.steps),
        field("Seed", this.seed),
        field("Pictures", this.number),
      ),
      this.strengthField,
      h(
        "div",
        { class: "row end" },
        iconButton("code", "The request as code", () => showRequest(...this.request(true))),
        this.button,
      ),
    );
    this.prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.run();
    });
    return h(
      "section",
      { class: "panel", "aria-label": "Image" },
      h("div", { class: "panel-title" }, h("h1", {}, "Image")),
      h("div", { class: "split" }, form, h("div", { class: "stack" }, this.stage, this.gallery)),
    );
  }

  async load() {
    const found = await db.getAll(STORE).catch(() => []); // keeping one says that there is no storage
    this.pictures = found.map(withUrl).sort((a, b) => b.createdAt - a.createdAt);
    this.showGallery();
    if (this.pictures.length) this.choose(this.pictures[0]);
  }

  showEmpty() {
    const hasModel = ofKind(["image"]).length > 0;
    put(
      this.stage,
      h(
        "div",
        { class: "empty" },
        hasModel
          ? "Describe a picture. It appears here while it is being made."
          : adviceWithout("image model"),
      ),
    );
  }

  /** The path and body. `isShort`: data URLs are only named, as people read them. */
  request(isShort = false) {
    const body = {
      model: this.model.value,
      prompt: this.prompt.value,
      size: this.size.value,
      n: this.number.valueAsNumber || 1,
      stream: true,
      partial_images: 3,
      progress: true,
    };
    if (this.steps.value) body.num_inference_steps = this.steps.valueAsNumber;
    if (this.seed.value) body.seed = this.seed.valueAsNumber;
    if (!this.mask) return [GENERATE, body];
    body.image = isShort ? "data:image/png;base64,…" : this.mask.pictureUrl();
    if (!this.mask.isEmpty) body.mask = isShort ? "data:image/png;base64,…" : this.mask.dataUrl();
    body.strength = this.strength.valueAsNumber;
    body.size = "auto";
    return [EDIT, body];
  }

  async run() {
    if (this.control) return this.control.abort();
    const [path, body] = this.request();
    this.control = new AbortController();
    put(this.button, icon("stop"), "Stop");
    const progress = h("progress", { max: 1, "aria-label": "Steps" });
    const text = h("span", { class: "hint", role: "status" }, "Waiting for the model…");
    const preview = h("div", { class: "canvas" });
    put(this.stage, preview, h("div", { class: "stack", style: { width: "100%" } }, progress, text));
    try {
      await this.follow(path, body, preview, progress, text);
    } catch (error) {
      if (error.name === "AbortError") this.chosen ? this.choose(this.chosen) : this.showEmpty();
      else
        put(this.stage, h("div", { class: "problem", role: "alert" }, icon("warning"), plain(error.message)));
    }
    this.control = null;
    this.setEditing(null);
    refreshModels().catch(() => {});
  }

  async follow(path, body, preview, progress, text) {
    const start = performance.now();
    for await (const event of stream(path, body, this.control.signal)) {
      if (event.type.endsWith(".progress")) {
        progress.value = event.step / event.steps;
        text.textContent = `Step ${event.step} of ${event.steps}${body.n > 1 ? `, picture ${event.index + 1} of ${body.n}` : ""}`;
        continue;
      }
      const url = `data:image/${event.output_format};base64,${event.b64_json}`;
      put(preview, h("img", { src: url, alt: `Preview of: ${plain(body.prompt)}` }));
      if (!event.type.endsWith(".completed")) continue;
      await this.keep({
        image: blobOf(event.b64_json, event.output_format),
        prompt: body.prompt,
        model: body.model,
        seed: event.seed,
        size: event.size,
        steps: body.num_inference_steps ?? null,
        cost: event.usage?.estimated_cost,
        tookS: (performance.now() - start) / 1000,
      });
    }
  }

  async keep(picture) {
    const made = { ...picture, id: newId(), createdAt: Date.now() };
    const kept = withUrl(made);
    this.pictures.unshift(kept);
    await db
      .save(STORE, made)
      .catch(() =>
        notify("The browser's storage is full: this picture is lost when the page closes.", "error"),
      );
    this.showGallery();
    this.choose(kept);
    announce("The picture is finished.");
  }

  showGallery() {
    put(
      this.gallery,
      this.pictures.map((picture) =>
        h(
          "button",
          {
            type: "button",
            class: "picture",
            "aria-pressed": String(picture === this.chosen),
            title: plain(picture.prompt),
            onclick: () => this.choose(picture),
          },
          h("img", { src: picture.url, alt: plain(picture.prompt), loading: "lazy" }),
        ),
      ),
    );
  }

  choose(picture) {
    this.chosen = picture;
    this.setEditing(null);
    this.showGallery();
    const image = h("img", { src: picture.url, alt: plain(picture.prompt) });
    const facts = [
      picture.size?.replace("x", " × "),
      `seed ${picture.seed}`,
      picture.tookS && seconds(picture.tookS),
      picture.cost && dollars(picture.cost),
      picture.model,
    ];
    put(
      this.stage,
      h("div", { class: "canvas" }, image),
      h("p", { dir: "auto" }, plain(picture.prompt)),
      h(
        "div",
        { class: "figures" },
        facts.filter(Boolean).map((fact) => h("span", {}, plain(String(fact)))),
      ),
      h(
        "div",
        { class: "row wrap" },
        h(
          "button",
          { type: "button", class: "button", onclick: () => this.setEditing(image) },
          icon("brush"),
          "Repaint a part",
        ),
        h(
          "button",
          { type: "button", class: "button", onclick: () => this.reuse(picture) },
          "Use its prompt and seed",
        ),
        h(
          "a",
          { class: "button", href: picture.url, download: `${picture.seed}.${picture.image?.type.split("/")[1] ?? "png"}` },
          icon("download"),
          "Save",
        ),
        iconButton("trash", "Delete this picture", () => this.remove(picture)),
      ),
    );
  }

  reuse({ prompt, seed, size }) {
    this.prompt.value = prompt;
    this.seed.value = seed;
    if (SIZES.includes(size)) this.size.value = size;
    this.prompt.focus();
  }

  async remove(picture) {
    if (!(await confirmed("Delete this picture? It can't be brought back.", "Delete"))) return;
    await db.remove(STORE, picture.id).catch((error) => notify(error.message, "error"));
    URL.revokeObjectURL(picture.url);
    this.pictures = this.pictures.filter((other) => other !== picture);
    this.chosen = null;
    this.showGallery();
    if (this.pictures.length) this.choose(this.pictures[0]);
    else this.showEmpty();
  }

  /** Lets the user paint over a picture; null ends it. @param {HTMLImageElement | null} image */
  setEditing(image) {
    this.mask?.canvas.remove();
    this.mask = image && new Mask(image);
    this.strengthField.hidden = !image;
    put(this.button, image ? "Repaint" : "Make the picture");
    if (!image) return;
    image.after(this.mask.canvas);
    const brush = h("input", {
      type: "range",
      min: 0.02,
      max: 0.25,
      step: 0.01,
      value: this.mask.brush,
      "aria-label": "Width of the brush",
      oninput: () => (this.mask.brush = brush.valueAsNumber),
    });
    put(
      this.stage.querySelector(".row"),
      h(
        "span",
        { class: "hint" },
        "Paint over what may change, or nothing for all of it, and say what shall be there.",
      ),
      field("Brush", brush),
      h("button", { type: "button", class: "button", onclick: () => this.mask.clear() }, "Clear"),
      h(
        "button",
        { type: "button", class: "button quiet", onclick: () => this.choose(this.chosen) },
        "Cancel",
      ),
    );
    this.prompt.focus();
  }
}

/** The bytes themselves: texts of all pictures would fill the memory. */
function blobOf(base64, format) {
  const bytes = Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0));
  return new Blob([bytes], { type: `image/${format}` });
}

/** With a URL for this page; older ones have it as a text. */
const withUrl = (picture) => (picture.image ? { ...picture, url: URL.createObjectURL(picture.image) } : picture);
