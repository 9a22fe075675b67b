/** The colours of the points by one column, and which of them the legend switched off. */

import { CATEGORIES, OTHER, rampSteps } from "./colours.js";

export const RAMP_STEPS = 24;
export const MOST_COLOURED = CATEGORIES.length; // more colours could not be told apart

const NO_CODE = 255;
const LAST = ["none", "unknown", "other"]; // values that have no colour unless they are given one

export class Colouring {
  constructor(column) {
    this.column = column;
    this.hidden = new Set(); // codes that the legend switched off
    this.limits = null; // [low, high] of a numeric column
    if (column.kind === "category") this.groupByCode(column);
    else this.groupByNumber(column);
  }

  /** Switch everything on again. */
  reset() {
    this.hidden.clear();
    this.limits = null;
  }

  /** Groups of points with one value each. The most frequent values have colours at first. */
  groupByCode({ names, codes }) {
    const of = new Map();
    codes.forEach((code, i) => {
      if (!of.has(code)) of.set(code, { code, name: names[code] ?? "none", points: [] });
      of.get(code).points.push(i);
    });
    this.byCount = [...of.values()].sort((a, b) => b.points.length - a.points.length);
    for (const group of this.byCount) group.n = group.points.length;
    const usual = this.byCount.filter(({ code, name }) => code !== NO_CODE && !LAST.includes(name));
    this.slots = new Map(usual.slice(0, MOST_COLOURED).map(({ code }, slot) => [code, slot]));
    this.colour();
  }

  /** Groups of points of similar numbers, from low to high; the first is without a number. */
  groupByNumber({ values }) {
    const present = values.filter((v) => !Number.isNaN(v)).sort();
    const at = (share) => present[Math.floor(share * (present.length - 1))] ?? 0;
    this.range = [at(0.01), at(0.99)]; // single extreme values do not take the colours
    this.extent = [at(0), at(1)];
    const steps = rampSteps(RAMP_STEPS);
    this.groups = [{ colour: OTHER, points: [] }, ...steps.map((colour) => ({ colour, points: [] }))];
    const span = Math.max(this.range[1] - this.range[0], 1e-9);
    values.forEach((value, i) => {
      const share = Math.min(1, Math.max(0, (value - this.range[0]) / span));
      const step = Number.isNaN(value) ? 0 : 1 + Math.min(RAMP_STEPS - 1, Math.floor(share * RAMP_STEPS));
      this.groups[step].points.push(i);
    });
  }

  /** Give each group its colour. Grey ones are drawn first, rare ones last, so that they are above the others. */
  colour() {
    for (const group of this.byCount) group.colour = CATEGORIES[this.slots.get(group.code)] ?? OTHER;
    this.groups = [...this.grey, ...this.coloured];
  }

  get coloured() {
    return this.byCount.filter(({ code }) => this.slots.has(code));
  }

  get grey() {
    return this.byCount.filter(({ code }) => !this.slots.has(code));
  }

  /** Give a value a colour of its own, or take it away. Return false where no colour is left. */
  setColoured(code, on) {
    if (!on) this.slots.delete(code);
    else {
      const used = new Set(this.slots.values());
      const free = CATEGORIES.findIndex((_, slot) => !used.has(slot));
      if (free < 0) return false;
      this.slots.set(code, free);
    }
    this.colour();
    return true;
  }

  visible(i) {
    if (this.column.kind === "category") return !this.hidden.has(this.column.codes[i]);
    if (!this.limits) return true;
    const value = this.column.values[i];
    return value >= this.limits[0] && value <= this.limits[1];
  }

  /** Return how many points are visible. */
  nVisible() {
    if (this.column.kind === "category")
      return this.byCount.reduce((n, group) => n + (this.hidden.has(group.code) ? 0 : group.n), 0);
    if (!this.limits) return this.column.values.length;
    return this.column.values.reduce((n, _, i) => n + (this.visible(i) ? 1 : 0), 0);
  }
}
