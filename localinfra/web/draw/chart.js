// A line over the last minutes. One path is changed at each new value.

import { h, put, s } from "../lib/dom.js";

const WIDTH = 300;
const HEIGHT = 96;
const TOP = 4; // above the highest value

export class Chart {
  /**
   * @param {string} title
   * @param {(value: number) => string} shown a value as text, with its unit
   * @param {number} spanS seconds that are shown
   * @param {string} hint what the values are
   */
  constructor(title, shown, spanS, hint) {
    this.title = title;
    this.shown = shown;
    this.spanS = spanS;
    this.full = 0; // the scale's end, if it is known
    /** @type {{atS: number, value: number | null}[]} */
    this.points = [];
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
    this.element = h(
      "article",
      { class: "card", title: hint },
      h("div", { class: "chart-head" }, h("h2", {}, title), this.value),
      this.drawing,
      h("div", { class: "chart-scale" }, h("span", {}, `${spanS / 60} min ago`), this.top, h("span", {}, "now")),
    );
  }

  /** @param {number} atS seconds @param {number | null} value null if there is none just now */
  add(atS, value, full = 0) {
    this.full = full;
    this.points.push({ atS, value });
    while (this.points[0].atS < atS - this.spanS) this.points.shift();
  }

  /** Starts the line anew: nobody has looked for a while. */
  interrupt() {
    const last = this.points.at(-1);
    if (last) this.points.push({ atS: last.atS, value: null });
  }

  draw() {
    const known = this.points.flatMap(({ value }) => (value === null ? [] : [value]));
    if (!known.length) return this.drawing.setAttribute("aria-label", `${this.title}: nothing yet`);
    const [least, most, now] = [Math.min(...known), Math.max(...known), this.shown(known.at(-1))];
    const parts = this.parts(Math.max(this.full, most, 1e-9));
    this.line.setAttribute("d", parts.map((part) => `M${part.join("L")}h0`).join(""));
    this.area.setAttribute("d", parts.map(areaBelow).join(""));
    put(this.value, now);
    this.value.classList.toggle("past", this.points.at(-1).value === null);
    put(this.top, this.full ? `of ${this.shown(this.full)}` : `peak ${this.shown(most)}`);
    this.drawing.setAttribute(
      "aria-label",
      `${this.title}: now ${now}, lowest ${this.shown(least)}, highest ${this.shown(most)} in ${this.spanS / 60} minutes` +
        (this.full ? `, of ${this.shown(this.full)}` : ""),
    );
  }

  /** The pieces of the line between gaps. @returns {string[][]} "x y" of each point */
  parts(top) {
    const end = this.points.at(-1).atS;
    const parts = [[]];
    for (const { atS, value } of this.points) {
      if (value === null) {
        if (parts.at(-1).length) parts.push([]);
        continue;
      }
      const x = WIDTH * (1 - (end - atS) / this.spanS);
      parts.at(-1).push(`${x.toFixed(1)} ${(HEIGHT - (value / top) * (HEIGHT - TOP)).toFixed(1)}`);
    }
    return parts.filter((part) => part.length);
  }
}

function areaBelow(part) {
  const [from, to] = [part[0], part.at(-1)].map((point) => point.split(" ")[0]);
  return `M${part.join("L")}L${to} ${HEIGHT}L${from} ${HEIGHT}Z`;
}
