// A brush over a picture: what is painted may change.

import { h } from "../lib/dom.js";

const TINT = "rgb(98, 199, 183)";

export class Mask {
  /** @param {HTMLImageElement} picture loaded */
  constructor(picture) {
    this.picture = picture;
    this.width = picture.naturalWidth;
    this.height = picture.naturalHeight;
    this.brush = 0.08; // of the width
    this.isEmpty = true;
    this.canvas = h("canvas", {
      width: this.width,
      height: this.height,
      "aria-label": "Paint over what may change",
    });
    this.pen = this.canvas.getContext("2d");
    let last = null;
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      this.stroke((last = this.at(event)), last);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!this.canvas.hasPointerCapture(event.pointerId)) return;
      const next = this.at(event);
      this.stroke(last, next);
      last = next;
    });
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * this.width,
      ((event.clientY - box.top) / box.height) * this.height,
    ];
  }

  stroke([x0, y0], [x1, y1]) {
    this.isEmpty = false;
    Object.assign(this.pen, { lineCap: "round", lineWidth: this.brush * this.width, strokeStyle: TINT });
    this.pen.beginPath();
    this.pen.moveTo(x0, y0);
    this.pen.lineTo(x1, y1);
    this.pen.stroke();
  }

  clear() {
    this.pen.clearRect(0, 0, this.width, this.height);
    this.isEmpty = true;
  }

  /** What is painted over. */
  pictureUrl() {
    const made = h("canvas", { width: this.width, height: this.height });
    made.getContext("2d").drawImage(this.picture, 0, 0);
    return made.toDataURL("image/png");
  }

  /** As the API wants it: transparent where the picture may change. */
  dataUrl() {
    const made = h("canvas", { width: this.width, height: this.height });
    const pen = made.getContext("2d");
    pen.fillRect(0, 0, this.width, this.height);
    pen.globalCompositeOperation = "destination-out";
    pen.drawImage(this.canvas, 0, 0);
    return made.toDataURL("image/png");
  }
}
