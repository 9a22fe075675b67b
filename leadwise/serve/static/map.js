/** The map of the cohort: every recording as a point, coloured by a column, chosen with a lasso or by class. */

import { call } from "./api.js";
import { announce, answerIn, button, choice, el, hint, newId, onceAFrame } from "./dom.js";
import { Colouring } from "./map_colouring.js";
import { drawMap } from "./map_drawing.js";
import { ZOOM_STEP, listen } from "./map_gestures.js";
import { fillLegend } from "./map_legend.js";
import { Points, inside } from "./map_points.js";
import { fillPicker, fillSelected } from "./map_selection.js";
import { Tip } from "./map_tip.js";
import { View } from "./map_view.js";

const REACH_PX = { mouse: 10, finger: 18 }; // a point is under the pointer within this distance
const HELP =
  "Keys: plus and minus zoom, 0 shows all, arrows move, Enter selects what is in view. The form selects by class.";

export class CohortMap {
  constructor(host, server) {
    this.host = host;
    this.server = server;
    this.near = []; // rows of the nearest recordings of the open ECG
    this.selected = null; // Uint8Array, or null where nothing is selected
    this.lassoed = null; // the outline of the last lasso, in the plane
    this.path = null; // the outline of a lasso that is being drawn, on the screen
    this.mode = "move";
    this.colourings = new Map(); // key of a column -> Colouring
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
    this.host.replaceChildren(el("p", { class: "soft", text: "Loading the map …" }));
    const answer = await answerIn(this.host, () => call("/api/map"));
    this.loading = answer !== null; // without an answer the next visit tries again
    if (!answer) return;
    this.points = new Points(answer);
    this.build(answer);
    this.colourBy(this.points.columns[0]);
    announce(`Map of ${this.points.n} recordings of ${this.server.cohort.name}`);
  }

  build(answer) {
    const { points } = this;
    this.canvas = el("canvas", { role: "img", "aria-label": `Map of ${points.n} recordings` });
    const help = el("p", { class: "hidden", id: newId("map-help"), text: HELP });
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
    this.view = new View(this.stage);
    this.tip = new Tip(points);
    const method = `${points.n} recordings of ${this.server.cohort.name}, ${answer.method} of embeddings. ${answer.remark ?? ""}`;
    const left = el(
      "div",
      { class: "card" },
      el("div", { class: "head" }, el("h2", { text: "Cohort map" })),
      this.bar(),
      el("div", { class: "stagebox" }, this.stage, this.tip.box),
      help,
      el("p", { class: "soft small", text: method.trim() }),
    );
    const colours = choice(
      "Colour by",
      points.columns.map((column) => [column.key, column.title]),
      points.columns[0].key,
      (key) => this.colourBy(points.columns.find((column) => column.key === key)),
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
    listen(this.stage, this.gestures());
    new ResizeObserver(this.draw).observe(this.stage);
    document.addEventListener("themechange", this.draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", this.draw);
  }

  bar() {
    this.modes = [
      ["move", "Move"],
      ["lasso", "Lasso"],
    ].map(([mode, title]) =>
      button(title, () => this.setMode(mode), { "aria-pressed": String(mode === this.mode), "data-mode": mode }),
    );
    const zoom = (factor) => () => (this.view.zoomBy(factor), this.draw());
    const fit = () => (this.view.fit(), this.draw());
    return el(
      "div",
      { class: "bar", role: "group", "aria-label": "Map tools" },
      el("div", { class: "joined", role: "group", "aria-label": "Dragging" }, this.modes),
      el(
        "div",
        { class: "joined", role: "group", "aria-label": "Zoom" },
        button("−", zoom(1 / ZOOM_STEP), { "aria-label": "Zoom out", class: "small" }),
        button("Fit", fit, { "aria-label": "Show all points", class: "small" }),
        button("+", zoom(ZOOM_STEP), { "aria-label": "Zoom in", class: "small" }),
      ),
      hint({
        mouse: "Hover: tracing. Wheel: zoom. Shift + drag: lasso.",
        touch: "Tap: tracing. Pinch: zoom. Lasso, then drag: select.",
      }),
    );
  }

  gestures() {
    return {
      view: this.view,
      isLasso: () => this.mode === "lasso",
      changed: this.draw,
      point: (place) => this.point(place),
      unpoint: () => this.unpoint(),
      outline: (path) => ((this.path = path), this.draw()),
      lasso: (path) => this.lasso(path),
      selectView: () => this.selectView(),
    };
  }

  setMode(mode) {
    this.mode = mode;
    for (const press of this.modes) press.setAttribute("aria-pressed", String(press.dataset.mode === mode));
    this.stage.classList.toggle("lasso", mode === "lasso");
  }

  colourBy(column) {
    if (!this.colourings.has(column.key)) this.colourings.set(column.key, new Colouring(column));
    this.colouring = this.colourings.get(column.key);
    this.colouring.reset();
    fillLegend(this.legend, this.colouring, this.draw);
    fillPicker(this.picker, this.colouring, {
      select: (test) => this.select(test),
      selectView: () => this.selectView(),
      onlimits: (limits) => ((this.colouring.limits = limits), this.draw()),
    });
    this.draw();
  }

  // ---- selection

  /** Select the visible points for which `test(i)` holds; null selects none. */
  select(test) {
    this.selected = null;
    this.lassoed = null;
    const chosen = [];
    if (test) {
      for (let i = 0; i < this.points.n; i += 1) if (this.colouring.visible(i) && test(i)) chosen.push(i);
      if (chosen.length) {
        this.selected = new Uint8Array(this.points.n);
        for (const i of chosen) this.selected[i] = 1;
      }
    }
    fillSelected(this.chosen, this.points, test && chosen);
    this.draw();
  }

  selectView() {
    const { width, height } = this.view.size();
    this.select((i) => {
      const [x, y] = this.view.toScreen(this.points.x[i], this.points.y[i]);
      return x >= 0 && y >= 0 && x <= width && y <= height;
    });
  }

  lasso(path) {
    const polygon = path.map(([px, py]) => this.view.toPlane(px, py));
    this.select((i) => inside(polygon, this.points.x[i], this.points.y[i]));
    this.lassoed = polygon;
  }

  // ---- the point under the pointer

  point(place) {
    const reach = REACH_PX[matchMedia("(pointer: coarse)").matches ? "finger" : "mouse"] / this.view.scale();
    const point = this.points.nearest(...this.view.toPlane(...place), reach, (i) => this.colouring.visible(i));
    if (point === null) this.unpoint();
    else if (point !== this.tip.point) {
      this.tip.show(point, place, this.view.size());
      this.draw();
    }
  }

  unpoint() {
    if (this.tip.point === null) return;
    this.tip.hide();
    this.draw();
  }

  /** Mark the nearest recordings of the open ECG. */
  mark(rows) {
    this.near = rows;
    if (this.canvas) this.draw();
  }

  drawNow() {
    drawMap(this.stage, this.canvas, this.view, {
      points: this.points,
      colouring: this.colouring,
      selected: this.selected,
      near: this.near,
      pointed: this.tip.point,
      outline: this.path ?? this.lassoed?.map(([x, y]) => this.view.toScreen(x, y)) ?? null,
    });
  }
}
