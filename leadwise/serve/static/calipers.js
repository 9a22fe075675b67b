/** Calipers on a tracing: two lines of time and two of voltage, moved by the pointer or by keys. */

import { announce, el, hint, number } from "./dom.js";

const NEAR_PX = 12; // a line is taken hold of within this distance
const NEAR_TOUCH_PX = 24;
const STEP_MM = { small: 0.25, large: 2.5 }; // of a key: 10 and 100 ms at 25 mm/s
const FIRST_MS = 800; // between the lines at first

export class Calipers {
  /** tracing: its settings, viewport, geometry and `draw`. press: the button that switches the calipers on. */
  constructor(tracing, press) {
    this.tracing = tracing;
    this.press = press;
    this.march = false; // whether the interval is repeated over the page
    this.lines = null; // {a, b, active}: two places in mm of paper, and the one that keys move
    this.readout = el("p", { class: "readout" });
    this.hint = hint({
      mouse: "Zoom: Ctrl + wheel, or + and −. Drag to move. C: calipers.",
      touch: "Zoom: two fingers. Drag to move. Calipers: by their button, then drag.",
    });
    this.say();
  }

  get isOn() {
    return this.lines !== null;
  }

  /** Return what the paper draws, or null. */
  get drawn() {
    return this.lines && { ...this.lines, march: this.march };
  }

  toggle(on = !this.isOn) {
    const { tracing } = this;
    if (on && tracing.page) {
      const middle = tracing.middle();
      const { speed, gain } = tracing.settings;
      const second = { x: middle.x + (speed * FIRST_MS) / 1000, y: middle.y - gain };
      this.lines = { a: middle, b: second, active: second };
    } else this.lines = null;
    this.say(true);
    tracing.draw();
  }

  /** Show what the calipers measure, and read it out if `aloud`. */
  say(aloud = false) {
    this.press.setAttribute("aria-pressed", String(this.isOn));
    this.tracing.viewport.classList.toggle("measuring", this.isOn);
    if (!this.isOn) {
      this.readout.replaceChildren(this.hint);
      return;
    }
    const { a, b } = this.lines;
    const { speed, gain } = this.tracing.settings;
    const ms = (Math.abs(b.x - a.x) / speed) * 1000;
    const bpm = ms > 0 ? 60_000 / ms : NaN;
    const texts = [`${number(ms)} ms`, `${number(bpm)} bpm`, `${number((a.y - b.y) / gain, 2)} mV`];
    this.readout.replaceChildren(
      el("span", { class: "name", text: "Calipers" }),
      ...texts.map((text) => el("strong", { text })),
    );
    if (aloud) announce(`Calipers: ${texts.join(", ")}`);
  }

  /** Take hold of the line under the pointer, or draw new ones from there. Return the line that follows the pointer. */
  take(mm, event) {
    const distance = (point) => Math.abs(point.x - mm.x) * this.tracing.scale;
    const { a, b } = this.lines;
    let point = distance(a) < distance(b) ? a : b;
    if (distance(point) > (event.pointerType === "mouse" ? NEAR_PX : NEAR_TOUCH_PX)) {
      Object.assign(a, mm);
      Object.assign(b, mm);
      point = b;
    }
    this.lines.active = point;
    return point;
  }

  move(point, mm) {
    Object.assign(point, mm);
    this.say();
    this.tracing.draw();
  }

  /** Handle a key while the calipers are on. Return whether it was one of theirs. */
  key(event) {
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const { a, b, active } = this.lines;
    if (event.key === "Escape") this.toggle(false);
    else if (event.key === "Enter") this.lines.active = active === a ? b : a;
    else if (event.key in arrows) {
      const step = event.shiftKey ? STEP_MM.large : STEP_MM.small;
      const [right, down] = arrows[event.key];
      this.move(active, { x: active.x + right * step, y: active.y + down * step });
      this.say(true);
    } else return false;
    this.tracing.draw();
    return true;
  }
}
