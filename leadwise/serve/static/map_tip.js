/** The box beside a point of the map: its tracing and its values. */

import { el } from "./dom.js";
import { shortNumber } from "./map_legend.js";
import { smallPicture, smallTracings } from "./thumbs.js";

const WIDTH_PX = 276; // of the box and its distance from the point
const WAIT_MS = 40; // a pointer that passes by asks for nothing

export class Tip {
  constructor(points) {
    this.points = points;
    this.box = el("div", { class: "tip card", hidden: true });
    this.point = null;
  }

  hide() {
    clearTimeout(this.waiting);
    this.box.hidden = true;
    this.point = null;
  }

  /** Show a point beside a place of the stage. size: of the stage. */
  show(point, [px, py], { width, height }) {
    clearTimeout(this.waiting);
    this.point = point;
    const title = this.points.title(point);
    const picture = el("div", { class: "thumb waiting" });
    this.box.replaceChildren(el("strong", { text: title }), picture, this.facts(point));
    this.box.hidden = false;
    const left = px > width / 2 ? px - WIDTH_PX : Math.min(px + 16, width - WIDTH_PX);
    this.box.style.left = `${Math.max(0, left)}px`;
    this.box.style.top = py > height / 2 ? "auto" : `${py + 12}px`;
    this.box.style.bottom = py > height / 2 ? `${height - py + 12}px` : "auto";
    this.waiting = setTimeout(() => this.draw(point, title, picture), WAIT_MS);
  }

  facts(point) {
    const values = this.points.columns
      .map((column) => [
        column.title,
        column.kind === "category" ? column.names[column.codes[point]] : shortNumber(column.values[point]),
      ])
      .filter(([, value]) => value !== undefined && value !== "–");
    const lines = values.map(([title, value]) => [el("dt", { text: title }), el("dd", { text: value })]);
    return el("dl", { class: "facts small" }, lines);
  }

  async draw(point, title, picture) {
    const row = this.points.rows[point];
    try {
      const pictures = await smallTracings([row]);
      if (this.point === point) picture.replaceWith(smallPicture(pictures.get(row), 56, `lead II of ${title}`));
    } catch (error) {
      picture.textContent = error.message;
    }
  }
}
