// Pictures that go with a message: shown small, and each can be removed. What reads and draws them is fetched
// with the first picture.

import { h, put } from "../lib/dom.js";
import { part } from "../lib/api.js";
import { announce, notify } from "../lib/dialog.js";
import { plain } from "../lib/format.js";

/** @typedef {{id: string, name: string, url: string}} Picture with a data URL */

/** @returns {Promise<typeof import("./pictures.js")>} */
export const loadPictures = () => part(import("./pictures.js"));

/** Shows pictures in an element. @param {Picture[]} pictures */
export async function showPictures(element, pictures, remove = null) {
  try {
    put(element, pictures.length ? (await loadPictures()).thumbnails(pictures, remove) : null);
  } catch (error) {
    notify(error.message, "error");
  }
}

export class Tray {
  /** @param {Picture[]} pictures @param {HTMLElement} area of the text that they go with @param {() => void} onChange */
  constructor(pictures, area, onChange) {
    this.area = area;
    this.onChange = onChange;
    this.pictures = pictures;
    this.element = h("div", { class: "tray", role: "group", "aria-label": "Pictures to send" });
    this.draw();
  }

  set(pictures) {
    this.pictures = pictures;
    this.onChange();
    return this.draw();
  }

  draw() {
    this.element.hidden = !this.pictures.length;
    return showPictures(this.element, this.pictures, (picture) => this.remove(picture));
  }

  async remove(picture) {
    const at = this.pictures.indexOf(picture);
    await this.set(this.pictures.filter((other) => other !== picture));
    announce(`${plain(picture.name)} was removed.`);
    const buttons = [...this.element.querySelectorAll(".remove")];
    (buttons[at] ?? buttons.at(-1) ?? this.area).focus();
  }
}
