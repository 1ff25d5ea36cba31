// A line over the last minutes. One path is changed at each new value.

import { h, put, s } from "../lib/dom.js";

const WIDTH = 300;
const HEIGHT = 96;

export class Chart {
  /**
   * @param {string} title
   * @param {(value: number) => string} shown a value as text
   * @param {number} size how many values are kept
   * @param {number} [full] the scale's end, if it is known
   */
  constructor(title, shown, size, full = 0) {
    this.shown = shown;
    this.size = size;
    this.full = full;
    /** @type {(number | null)[]} */
    this.values = [];
    this.value = h("span", { class: "chart-value" }, "–");
    this.line = s("path", { class: "line" });
    this.area = s("path", { class: "area" });
    const ground = s("line", { class: "ground", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT });
    this.drawing = s(
      "svg",
      { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
      ground,
      this.area,
      this.line,
    );
    this.top = h("span", {});
    this.title = title;
    this.element = h(
      "article",
      { class: "card" },
      h("div", { class: "chart-head" }, h("h2", {}, title), this.value),
      this.drawing,
      h("div", { class: "chart-scale" }, h("span", {}, "5 min ago"), this.top, h("span", {}, "now")),
    );
  }

  /** @param {number | null} value null if it isn't known */
  add(value, full = this.full) {
    this.full = full;
    this.values.push(value);
    if (this.values.length > this.size) this.values.shift();
    put(this.value, value === null ? "–" : this.shown(value));
    this.draw();
  }

  draw() {
    const known = this.values.filter((value) => value !== null);
    const peak = Math.max(this.full, ...known, 1e-9);
    const step = WIDTH / (this.size - 1);
    const start = WIDTH - (this.values.length - 1) * step;
    const points = this.values
      .map((value, at) =>
        value === null
          ? null
          : `${(start + at * step).toFixed(1)} ${(HEIGHT - (value / peak) * (HEIGHT - 4)).toFixed(1)}`,
      )
      .filter(Boolean);
    this.line.setAttribute("d", points.length ? `M${points.join("L")}` : "");
    this.area.setAttribute(
      "d",
      points.length ? `M${points.join("L")}L${WIDTH} ${HEIGHT}L${points[0].split(" ")[0]} ${HEIGHT}Z` : "",
    );
    put(
      this.top,
      known.length ? `${this.full ? "of" : "peak"} ${this.shown(this.full || Math.max(...known))}` : "",
    );
    this.drawing.setAttribute(
      "aria-label",
      known.length
        ? `${this.title}: now ${this.shown(known.at(-1))}, peak ${this.shown(Math.max(...known))}`
        : `${this.title}: nothing yet`,
    );
  }
}
