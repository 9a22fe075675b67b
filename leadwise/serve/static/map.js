/** The map of the cohort: every recording as a point, coloured by a column, chosen with a lasso or by class. */

import { call, decoded } from "./api.js";
import { CATEGORIES, OTHER, rampSteps, variable } from "./colours.js";
import { announce, button, choice, el, newId, number, onceAFrame, pixelRatio, sized } from "./dom.js";
import { openRecording, smallPicture, smallTracings } from "./neighbours.js";
import { table } from "./table.js";

const CELLS = 96; // the plane is cut into CELLS x CELLS for the search of the nearest point
const RAMP_STEPS = 24;
const REACH_PX = 10; // a point is under the pointer within this distance
const ZOOM = { least: 0.8, most: 60, step: 1.4 };
const NO_CODE = 255;

/** Return whether a place is inside a polygon [[x, y], ...]: the number of sides to its right is odd. */
export function inside(polygon, x, y) {
  let odd = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i, i += 1) {
    const [xi, yi] = polygon[i];
    const [xj, yj] = polygon[j];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) odd = !odd;
  }
  return odd;
}

const shortNumber = (value) => number(value, Number.isInteger(value) ? 0 : 1);

/** Return the columns of the server as arrays with a title: {key, title, kind, names, codes} or {key, title, kind, values}. */
function columnsOf(answer) {
  return Object.entries(answer.columns).map(([key, column]) => {
    const title = key[0].toUpperCase() + key.slice(1).replaceAll("_", " ");
    if (column.kind === "category")
      return { key, title, kind: "category", names: column.names, codes: new Uint8Array(decoded(column.codes)) };
    return { key, title, kind: "number", values: new Float32Array(decoded(column.values)) };
  });
}

/** Put the points between 0 and 1, with equal scales on both axes and y upwards. */
function placed(x, y) {
  const bounds = (values) =>
    values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);
  const [xLow, xHigh] = bounds(x);
  const [yLow, yHigh] = bounds(y);
  const span = Math.max(xHigh - xLow, yHigh - yLow, 1e-9);
  const [xPad, yPad] = [(span - (xHigh - xLow)) / 2, (span - (yHigh - yLow)) / 2];
  return { x: x.map((v) => (v - xLow + xPad) / span), y: y.map((v) => 1 - (v - yLow + yPad) / span) };
}

export class CohortMap {
  constructor(host, server) {
    this.host = host;
    this.server = server;
    this.near = [];
    this.selected = null; // Uint8Array, or null where nothing is selected
    this.view = { zoom: 1, x: 0.5, y: 0.5 };
    this.hidden = new Set(); // codes that the legend switched off
    this.limits = null; // [low, high] of a numeric column
    this.mode = "move";
    this.draw = onceAFrame(() => this.drawNow());
    if (!server.cohort?.map) {
      const text = server.cohort
        ? "This cohort has no map: its recordings are not embedded yet."
        : "No cohort is open. Start `leadwise serve --cohort FOLDER` to see all its recordings as a map.";
      host.append(el("div", { class: "card" }, el("h2", { text: "Cohort map" }), el("p", { class: "soft", text })));
    }
  }

  /** Load the points at the first visit. */
  async open() {
    if (!this.server.cohort?.map || this.loading) return;
    this.loading = true;
    this.host.setAttribute("aria-busy", "true");
    this.host.replaceChildren(el("p", { class: "soft", text: "Loading the map …" }));
    try {
      const answer = await call("/api/map");
      this.n = answer.n;
      this.rows = new Int32Array(decoded(answer.rows));
      Object.assign(this, placed(new Float32Array(decoded(answer.x)), new Float32Array(decoded(answer.y))));
      this.columns = columnsOf(answer);
      this.records = answer.records ?? null;
      this.column = this.columns[0];
      this.index();
      this.build(answer);
      this.colourBy(this.column);
      announce(`Map of ${this.n} recordings of ${this.server.cohort.name}`);
    } catch (error) {
      this.loading = false; // the next visit tries again
      this.host.replaceChildren(el("p", { class: "note bad", role: "alert", text: error.message }));
    } finally {
      this.host.removeAttribute("aria-busy");
    }
  }

  build(answer) {
    this.canvas = el("canvas", { role: "img", "aria-label": `Map of ${this.n} recordings` });
    const help = el("p", {
      class: "hidden",
      id: newId("map-help"),
      text: "Keys: plus and minus zoom, 0 shows all, arrows move, Enter selects what is in view. The form selects by class.",
    });
    this.stage = el(
      "div",
      {
        class: "stage",
        tabindex: "0",
        role: "application",
        "aria-roledescription": "map of recordings",
        "aria-label": "Cohort map",
        "aria-describedby": help.id,
      },
      this.canvas,
    );
    this.tip = el("div", { class: "tip card", hidden: true });
    const modes = ["move", "lasso"].map((mode) =>
      button(mode === "move" ? "Move" : "Lasso", () => this.setMode(mode), {
        "aria-pressed": String(mode === this.mode),
        "data-mode": mode,
      }),
    );
    this.modes = modes;
    const coarse = matchMedia("(pointer: coarse)").matches;
    const bar = el(
      "div",
      { class: "bar", role: "group", "aria-label": "Map tools" },
      el("div", { class: "joined", role: "group", "aria-label": "Dragging" }, modes),
      el(
        "div",
        { class: "joined", role: "group", "aria-label": "Zoom" },
        button("−", () => this.zoomBy(1 / ZOOM.step), { "aria-label": "Zoom out", class: "small" }),
        button("Fit", () => this.fit(), { "aria-label": "Show all points", class: "small" }),
        button("+", () => this.zoomBy(ZOOM.step), { "aria-label": "Zoom in", class: "small" }),
      ),
      el("span", {
        class: "soft small",
        text: coarse ? "Touch a point: tracing." : "Hover: tracing. Wheel: zoom. Shift + drag: lasso.",
      }),
    );
    const method = `${this.n} recordings of ${this.server.cohort.name}, ${answer.method} of embeddings. ${answer.remark ?? ""}`;
    const left = el(
      "div",
      { class: "card" },
      el("div", { class: "head" }, el("h2", { text: "Cohort map" })),
      bar,
      el("div", { class: "stagebox" }, this.stage, this.tip),
      help,
      el("p", { class: "soft small", text: method.trim() }),
    );
    const colours = choice(
      "Colour by",
      this.columns.map((column) => [column.key, column.title]),
      this.column.key,
      (key) => this.colourBy(this.columns.find((column) => column.key === key)),
    );
    this.legend = el("div", { class: "maplegend" });
    this.picker = el("div", { class: "picker" });
    const right = el(
      "aside",
      { class: "card", "aria-label": "Legend and selection" },
      colours.label,
      this.legend,
      this.picker,
    );
    this.chosen = el("section", { class: "card chosen", hidden: true, "aria-label": "Selected recordings" });
    this.host.replaceChildren(el("div", { class: "columns map" }, left, right), this.chosen);
    this.listen();
    new ResizeObserver(this.draw).observe(this.stage);
    document.addEventListener("themechange", this.draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", this.draw);
  }

  // ---- colours and legend

  colourBy(column) {
    this.column = column;
    this.hidden.clear();
    this.limits = null;
    if (column.kind === "category") this.groupByCode(column);
    else this.groupByNumber(column);
    this.fillLegend();
    this.fillPicker();
    this.draw();
  }

  /** Groups of points of one colour, the most frequent classes first, so that rare ones are drawn above them. */
  groupByCode({ names, codes }) {
    const counts = new Map();
    for (const code of codes) counts.set(code, (counts.get(code) ?? 0) + 1);
    const order = [...counts.keys()].sort((a, b) => (a === NO_CODE) - (b === NO_CODE) || counts.get(b) - counts.get(a));
    this.groups = order.map((code, i) => ({
      code,
      name: names[code] ?? "none",
      n: counts.get(code),
      colour: code === NO_CODE || i >= CATEGORIES.length ? OTHER : CATEGORIES[i],
      points: [],
    }));
    const place = new Map(this.groups.map((group) => [group.code, group]));
    codes.forEach((code, i) => place.get(code).points.push(i));
    this.groupOf = (i) => place.get(codes[i]);
  }

  groupByNumber({ values }) {
    const present = values.filter((v) => !Number.isNaN(v)).sort();
    const at = (share) => present[Math.floor(share * (present.length - 1))] ?? 0;
    this.range = [at(0.01), at(0.99)]; // single extreme values do not take the colours
    this.extent = [at(0), at(1)];
    const steps = rampSteps(RAMP_STEPS);
    this.groups = [{ colour: OTHER, points: [] }, ...steps.map((colour) => ({ colour, points: [] }))];
    const span = Math.max(this.range[1] - this.range[0], 1e-9);
    this.groupOf = (i) => {
      if (Number.isNaN(values[i])) return this.groups[0];
      const share = Math.min(1, Math.max(0, (values[i] - this.range[0]) / span));
      return this.groups[1 + Math.min(RAMP_STEPS - 1, Math.floor(share * RAMP_STEPS))];
    };
    values.forEach((_, i) => this.groupOf(i).points.push(i));
  }

  visible(i) {
    if (this.column.kind === "category") return !this.hidden.has(this.column.codes[i]);
    if (!this.limits) return true;
    const value = this.column.values[i];
    return value >= this.limits[0] && value <= this.limits[1];
  }

  fillLegend() {
    this.legend.replaceChildren();
    if (this.column.kind === "number") {
      const strip = el("canvas", {
        class: "strip",
        role: "img",
        "aria-label": `from ${shortNumber(this.range[0])} (dark) to ${shortNumber(this.range[1])} (light)`,
      });
      [strip.width, strip.height] = [RAMP_STEPS, 1];
      rampSteps(RAMP_STEPS).forEach((colour, i) => {
        const context = strip.getContext("2d");
        context.fillStyle = colour;
        context.fillRect(i, 0, 1, 1);
      });
      this.legend.append(
        strip,
        el(
          "p",
          { class: "line small" },
          el("span", { text: shortNumber(this.range[0]) }),
          el("span", { text: shortNumber(this.range[1]) }),
        ),
      );
      return;
    }
    const list = el("ul", { class: "keys", "aria-label": `Classes of ${this.column.title}: press to hide or show` });
    const presses = this.groups.map((group) => {
      const swatch = el("span", { class: "swatch", "aria-hidden": "true" });
      swatch.style.background = group.colour;
      const press = el(
        "button",
        { type: "button", "aria-pressed": "true" },
        swatch,
        el("span", { class: "name", text: group.name }),
        el("span", { class: "soft", text: String(group.n) }),
      );
      press.addEventListener("click", () => {
        const on = this.hidden.has(group.code);
        if (on) this.hidden.delete(group.code);
        else this.hidden.add(group.code);
        press.setAttribute("aria-pressed", String(on));
        this.draw();
      });
      list.append(el("li", {}, press));
      return press;
    });
    const all = (on) => {
      this.hidden.clear();
      if (!on) for (const group of this.groups) this.hidden.add(group.code);
      for (const press of presses) press.setAttribute("aria-pressed", String(on));
      this.draw();
    };
    this.legend.append(
      list,
      el(
        "p",
        { class: "joined" },
        button("All", () => all(true), { class: "small" }),
        button("None", () => all(false), { class: "small" }),
      ),
    );
  }

  /** The way to a selection without a pointer: by class, by a range of numbers, or what is in view. */
  fillPicker() {
    const { column } = this;
    const inView = button("Select what is in view", () => this.selectView());
    const parts = [el("h3", { text: "Select" })];
    if (column.kind === "category") {
      const classes = choice(
        column.title,
        this.groups.map((group) => [String(group.code), `${group.name} (${group.n})`]),
        String(this.groups[0]?.code),
        () => {},
      );
      const take = () => this.select((i) => column.codes[i] === Number(classes.select.value));
      parts.push(el("div", { class: "row" }, classes.label, button("Select class", take)));
    } else {
      const [low, high] = [0, 1].map((side) => {
        const id = newId("limit");
        const input = el("input", {
          id,
          type: "number",
          step: "any",
          value: String(Math.round(this.extent[side] * 100) / 100),
        });
        return {
          input,
          label: el(
            "label",
            { class: "field", for: id },
            el("span", { text: side ? "to" : `${column.title} from` }),
            input,
          ),
        };
      });
      const bounds = () => [Number(low.input.value), Number(high.input.value)];
      const show = () => {
        this.limits = bounds();
        this.draw();
      };
      const take = () => this.select((i) => column.values[i] >= bounds()[0] && column.values[i] <= bounds()[1]);
      parts.push(
        el("div", { class: "row" }, low.label, high.label),
        el("div", { class: "row" }, button("Show only these", show), button("Select these", take)),
      );
    }
    parts.push(
      el(
        "div",
        { class: "row" },
        inView,
        button("Clear selection", () => this.select(null)),
      ),
    );
    this.picker.replaceChildren(...parts);
  }

  // ---- selection

  /** Select the visible points for which `test(i)` holds; null selects none. */
  select(test) {
    this.selected = null;
    this.lassoed = null; // the outline of the last lasso
    const chosen = [];
    if (test) {
      for (let i = 0; i < this.n; i += 1) if (this.visible(i) && test(i)) chosen.push(i);
      if (chosen.length) {
        this.selected = new Uint8Array(this.n);
        for (const i of chosen) this.selected[i] = 1;
      }
    }
    this.fillChosen(chosen, test !== null);
    this.draw();
  }

  selectView() {
    const { width, height } = this.size();
    this.select((i) => {
      const [x, y] = this.toScreen(this.x[i], this.y[i]);
      return x >= 0 && y >= 0 && x <= width && y <= height;
    });
  }

  fillChosen(chosen, wanted) {
    this.chosen.hidden = !wanted;
    if (!wanted) {
      announce("Selection cleared");
      return;
    }
    const rows = chosen.map((i) => {
      const row = { row: this.rows[i] };
      if (this.records) row.record = this.records[i];
      for (const column of this.columns) {
        row[column.key] =
          column.kind === "category"
            ? (column.names[column.codes[i]] ?? "")
            : Number.isNaN(column.values[i])
              ? null
              : Number(column.values[i].toPrecision(6));
      }
      return row;
    });
    const open = (row) =>
      button("Open", () => openRecording(row.row, row.record ?? `recording ${row.row}`), {
        class: "quiet",
        "aria-label": `Open recording ${row.record ?? row.row}`,
      });
    const columns = [
      { title: "Tracing", node: open },
      ...(this.records ? [{ key: "record", title: "Recording" }] : []),
      { key: "row", title: "Row" },
      ...this.columns.map(({ key, title }) => ({ key, title })),
    ];
    const caption = `${rows.length} selected recordings`;
    this.chosen.replaceChildren(
      el("h2", { text: caption, tabindex: "-1" }),
      table({ caption, columns, rows, file: "selected.csv" }),
    );
    announce(caption);
  }

  // ---- geometry

  size() {
    return { width: this.stage.clientWidth, height: this.stage.clientHeight };
  }

  scale() {
    const { width, height } = this.size();
    return Math.min(width, height) * 0.96 * this.view.zoom;
  }

  toScreen(x, y) {
    const { width, height } = this.size();
    const k = this.scale();
    return [(x - this.view.x) * k + width / 2, (y - this.view.y) * k + height / 2];
  }

  toPlane(px, py) {
    const { width, height } = this.size();
    const k = this.scale();
    return [(px - width / 2) / k + this.view.x, (py - height / 2) / k + this.view.y];
  }

  /** Sort the points into cells, so that the nearest one is found without looking at all. */
  index() {
    this.cells = new Map();
    for (let i = 0; i < this.n; i += 1) {
      const key = Math.floor(this.x[i] * CELLS) * 1000 + Math.floor(this.y[i] * CELLS);
      if (!this.cells.has(key)) this.cells.set(key, []);
      this.cells.get(key).push(i);
    }
  }

  nearest(px, py) {
    const [x, y] = this.toPlane(px, py);
    const reach = REACH_PX / this.scale();
    let [best, distance] = [null, reach];
    for (let cx = Math.floor((x - reach) * CELLS); cx <= Math.floor((x + reach) * CELLS); cx += 1) {
      for (let cy = Math.floor((y - reach) * CELLS); cy <= Math.floor((y + reach) * CELLS); cy += 1) {
        for (const i of this.cells.get(cx * 1000 + cy) ?? []) {
          const d = Math.hypot(this.x[i] - x, this.y[i] - y);
          if (d < distance && this.visible(i)) [best, distance] = [i, d];
        }
      }
    }
    return best;
  }

  fit() {
    this.view = { zoom: 1, x: 0.5, y: 0.5 };
    this.draw();
  }

  /** Zoom, holding a place (CSS pixels) where it is. */
  zoomBy(factor, place) {
    const { width, height } = this.size();
    const [px, py] = place ?? [width / 2, height / 2];
    const [x, y] = this.toPlane(px, py);
    this.view.zoom = Math.min(ZOOM.most, Math.max(ZOOM.least, this.view.zoom * factor));
    const k = this.scale();
    this.view.x = x - (px - width / 2) / k;
    this.view.y = y - (py - height / 2) / k;
    this.draw();
  }

  // ---- pointer and keys

  setMode(mode) {
    this.mode = mode;
    for (const press of this.modes) press.setAttribute("aria-pressed", String(press.dataset.mode === mode));
    this.stage.classList.toggle("lasso", mode === "lasso");
  }

  listen() {
    const { stage } = this;
    const at = (event) => {
      const box = stage.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    const held = new Map(); // pointers that are down, for two fingers
    let last = null;
    stage.addEventListener(
      "wheel",
      (event) => (event.preventDefault(), this.zoomBy(Math.exp(-event.deltaY * 0.002), at(event))),
      { passive: false },
    );
    stage.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      held.set(event.pointerId, at(event));
      stage.setPointerCapture(event.pointerId);
      last = at(event);
      this.path = (this.mode === "lasso" || event.shiftKey) && held.size === 1 ? [last] : null;
      if (event.pointerType !== "mouse") this.hover(...last);
    });
    stage.addEventListener("pointermove", (event) => {
      const place = at(event);
      if (!held.has(event.pointerId)) {
        this.hover(...place);
        return;
      }
      if (held.size === 2) {
        const spread = () => Math.hypot(...[0, 1].map((axis) => [...held.values()][0][axis] - [...held.values()][1][axis]));
        const before = spread();
        held.set(event.pointerId, place);
        if (before > 0) this.zoomBy(spread() / before, place);
        return;
      }
      held.set(event.pointerId, place);
      if (this.path) this.path.push(place);
      else {
        const k = this.scale();
        this.view.x -= (place[0] - last[0]) / k;
        this.view.y -= (place[1] - last[1]) / k;
        this.tip.hidden = true;
      }
      last = place;
      this.draw();
    });
    const end = (event) => {
      held.delete(event.pointerId);
      if (!this.path) return;
      const polygon = this.path.map(([px, py]) => this.toPlane(px, py));
      this.path = null;
      if (polygon.length > 2) {
        this.select((i) => inside(polygon, this.x[i], this.y[i]));
        this.lassoed = polygon;
      }
      this.draw();
    };
    stage.addEventListener("pointerup", end);
    stage.addEventListener("pointercancel", end);
    stage.addEventListener("pointerleave", () => (this.tip.hidden = true));
    stage.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "+" || event.key === "=") this.zoomBy(ZOOM.step);
    else if (event.key === "-") this.zoomBy(1 / ZOOM.step);
    else if (event.key === "0") this.fit();
    else if (event.key === "Enter") this.selectView();
    else if (event.key in arrows) {
      this.view.x += (arrows[event.key][0] * 60) / this.scale();
      this.view.y += (arrows[event.key][1] * 60) / this.scale();
      this.draw();
    } else return;
    event.preventDefault();
  }

  /** Show the tracing and the values of the point under the pointer. */
  hover(px, py) {
    const point = this.nearest(px, py);
    if (point === this.pointed && !this.tip.hidden) return;
    this.pointed = point;
    this.draw();
    clearTimeout(this.hoverDelay);
    if (point === null) {
      this.tip.hidden = true;
      return;
    }
    const values = this.columns
      .map((column) => [
        column.title,
        column.kind === "category" ? column.names[column.codes[point]] : shortNumber(column.values[point]),
      ])
      .filter(([, value]) => value !== undefined && value !== "–");
    const facts = el(
      "dl",
      { class: "facts small" },
      values.map(([title, value]) => [el("dt", { text: title }), el("dd", { text: value })]),
    );
    const picture = el("div", { class: "thumb waiting" });
    const title = this.records?.[point] ?? `recording ${this.rows[point]}`;
    this.tip.replaceChildren(el("strong", { text: title }), picture, facts);
    this.tip.hidden = false;
    const { width, height } = this.size();
    this.tip.style.left = `${px > width / 2 ? Math.max(0, px - 276) : px + 16}px`;
    this.tip.style.top = py > height / 2 ? "auto" : `${py + 12}px`;
    this.tip.style.bottom = py > height / 2 ? `${height - py + 12}px` : "auto";
    const row = this.rows[point];
    this.hoverDelay = setTimeout(async () => {
      try {
        const pictures = await smallTracings([row]);
        if (this.pointed === point) picture.replaceWith(smallPicture(pictures.get(row), 56, `lead II of ${title}`));
      } catch (error) {
        picture.textContent = error.message;
      }
    }, 40);
  }

  /** Mark the nearest recordings of the open ECG. */
  mark(rows) {
    this.near = rows;
    if (this.canvas) this.draw();
  }

  // ---- drawing

  drawNow() {
    const { width, height } = this.size();
    if (!width) return;
    const context = sized(this.canvas, width, height);
    const ratio = pixelRatio();
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const k = this.scale() * ratio;
    const [left, top] = [(width / 2) * ratio - this.view.x * k, (height / 2) * ratio - this.view.y * k];
    const [w, h] = [this.canvas.width, this.canvas.height];
    const base = this.n > 8000 ? 1.7 : this.n > 1500 ? 2.6 : 4.5;
    const side = Math.min(9, base * Math.sqrt(this.view.zoom) ** 0.8) * ratio;
    const half = side / 2;
    const { selected } = this;
    const paint = (points, wanted) => {
      for (const i of points) {
        if (selected && selected[i] !== wanted) continue;
        if (this.limits && !this.visible(i)) continue;
        const x = this.x[i] * k + left;
        const y = this.y[i] * k + top;
        if (x < -side || y < -side || x > w + side || y > h + side) continue;
        context.fillRect(x - half, y - half, side, side);
      }
    };
    for (const wanted of selected ? [0, 1] : [1]) {
      context.globalAlpha = selected && !wanted ? 0.16 : 0.85;
      for (const group of this.groups) {
        if (this.hidden.has(group.code)) continue;
        context.fillStyle = group.colour;
        paint(group.points, wanted);
      }
    }
    context.globalAlpha = 1;
    this.drawMarks(context, k, left, top, side, ratio);
  }

  drawMarks(context, k, left, top, side, ratio) {
    context.strokeStyle = variable(this.stage, "--ink");
    context.lineWidth = 2 * ratio;
    const ring = (i, radius) => {
      context.beginPath();
      context.arc(this.x[i] * k + left, this.y[i] * k + top, radius, 0, 2 * Math.PI);
      context.stroke();
    };
    if (this.near.length) {
      const rows = new Set(this.near);
      this.rows.forEach((row, i) => rows.has(row) && ring(i, side / 2 + 5 * ratio));
    }
    if (this.pointed !== null && this.pointed !== undefined) ring(this.pointed, side / 2 + 3 * ratio);
    const outline = this.path ?? this.lassoed?.map(([x, y]) => this.toScreen(x, y));
    if (!outline) return;
    context.lineWidth = 1.5 * ratio;
    context.setLineDash([5 * ratio, 4 * ratio]);
    context.beginPath();
    outline.forEach(([px, py], i) => (i ? context.lineTo(px * ratio, py * ratio) : context.moveTo(px * ratio, py * ratio)));
    context.closePath();
    context.stroke();
    context.setLineDash([]);
  }
}
