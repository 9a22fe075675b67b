/** The tracing: an ECG on paper that zooms, moves and is measured with calipers. */

import { Calipers } from "./calipers.js";
import { announce, download, el, onceAFrame, pixelRatio, sized } from "./dom.js";
import { LAYOUTS, LEFT_MM, arrange, drawPage, measureLeads, paperColours } from "./paper.js";
import { settingsBar } from "./tracing_bar.js";

const LEAST_PX_PER_MM = 2.2; // below this a tracing is not readable: the paper is wider than the window and moves
const MOST_PX_PER_MM = 6; // of the whole page in a wide window
const ZOOM = { least: 1, most: 12, step: 1.25 };
const NARROW_PX = 600;
const PAGE_MM = LEFT_MM + 250 + 2; // ten seconds at 25 mm/s

const HELP =
  "Keys: plus and minus zoom, 0 shows the whole page, arrows move, C is for calipers. With calipers: arrows move the " +
  "active line, Shift makes larger steps, Enter changes the active line, Escape ends.";

export class Tracing {
  /** host: the element to fill. title: its name for a screen reader. compact: fewer controls, for pictures side by side. */
  constructor(host, title, { compact = false, layout } = {}) {
    this.host = host;
    this.title = title;
    this.ecg = null;
    this.zoom = 1;
    this.settings = {
      layout: layout ?? (window.innerWidth < NARROW_PX ? "12x1" : "3x4"),
      lead: "II",
      speed: 25,
      gain: 10,
      start: 0,
    };
    this.extras = { windows: null, largest: 0, beats: false };
    this.draw = onceAFrame(() => this.drawNow());
    this.build(compact);
    new ResizeObserver(() => this.resize()).observe(this.viewport);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", this.draw);
    document.addEventListener("themechange", this.draw);
    window.addEventListener("beforeprint", () => this.printPicture());
    window.addEventListener("afterprint", () => this.printed.replaceChildren());
  }

  build(compact) {
    const bar = settingsBar(this);
    this.leadChoice = bar.lead;
    this.startChoice = bar.start;
    this.canvas = el("canvas", { role: "img", "aria-label": this.title });
    this.space = el("div", { class: "space" }, this.canvas);
    const help = el("p", { class: "hidden", id: `${this.host.id}-help`, text: HELP });
    this.viewport = el(
      "div",
      {
        class: "viewport",
        tabindex: "0",
        role: "application",
        "aria-roledescription": "ECG tracing",
        "aria-label": this.title,
        "aria-describedby": help.id,
      },
      this.space,
    );
    this.calipers = new Calipers(this, bar.calipers);
    this.legend = el("div", { class: "legend" });
    this.printed = el("div", { class: "printed" });
    this.host.classList.add("tracing");
    const under = el("div", { class: "under" }, this.calipers.readout, this.legend);
    this.host.append(bar.element, this.viewport, help, under, this.printed);
    if (compact) this.host.classList.add("compact");
    this.listen();
  }

  listen() {
    this.viewport.addEventListener("scroll", this.draw);
    this.viewport.addEventListener("keydown", (event) => this.key(event));
    this.viewport.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && !event.metaKey) return; // the plain wheel scrolls the page
        event.preventDefault();
        this.zoomBy(Math.exp(-event.deltaY * 0.004), this.place(event));
      },
      { passive: false },
    );
    this.viewport.addEventListener("pointerdown", (event) => this.press(event));
    this.viewport.addEventListener("touchstart", (event) => this.pinchStart(event), { passive: false });
    this.viewport.addEventListener("touchmove", (event) => this.pinchMove(event), { passive: false });
  }

  /** Draw an ECG: an answer of the server whose leads have samples as `mv`. */
  show(ecg) {
    this.ecg = ecg;
    measureLeads(ecg);
    this.calipers.toggle(false);
    this.settings.start = 0;
    this.extras.windows = null;
    this.legend.replaceChildren();
    const names = ecg.leads.map((lead) => lead.name);
    if (!names.includes(this.settings.lead)) this.settings.lead = names[0];
    this.leadChoice.select.replaceChildren(
      ...names.map((name) => el("option", { value: name, text: name, selected: name === this.settings.lead })),
    );
    const pages = Math.max(1, Math.ceil((ecg.drawn_s - 0.5) / 10));
    this.startChoice.select.replaceChildren(
      ...Array.from({ length: pages }, (_, i) => el("option", { value: String(i * 10), text: `${i * 10} s` })),
    );
    this.zoomTo(1);
  }

  /** Draw the windows of an occlusion map, or remove them with null. */
  setOcclusion(map) {
    this.extras.windows = map?.windows ?? null;
    this.extras.largest = map?.largest ?? 0;
    this.legend.replaceChildren();
    if (map) {
      this.legend.append(
        el("span", { class: "swatch support" }),
        "hidden here, the score falls",
        el("span", { class: "swatch oppose" }),
        "hidden here, it rises",
      );
    }
    this.draw();
  }

  refresh() {
    const { layout } = this.settings;
    const pageWise = LAYOUTS[layout].columns > 1;
    this.leadChoice.label.hidden = layout !== "one";
    this.startChoice.label.hidden = !pageWise || !this.ecg || this.ecg.drawn_s < 10.5;
    if (!this.ecg) return;
    this.page = arrange(this.ecg, this.settings);
    this.calipers.say(); // speed and gain change what they measure
    this.resize();
  }

  /** Return CSS pixels per millimetre at zoom 1. */
  fitScale() {
    return Math.min(MOST_PX_PER_MM, Math.max(LEAST_PX_PER_MM, this.viewport.clientWidth / PAGE_MM));
  }

  resize() {
    if (!this.page || !this.viewport.clientWidth) return;
    const scale = this.fitScale();
    this.viewport.style.height = `${Math.round(this.page.height * scale)}px`;
    this.scale = scale * this.zoom;
    this.space.style.width = `${Math.floor(Math.max(this.page.width * this.scale, this.viewport.clientWidth))}px`;
    this.space.style.height = `${Math.floor(this.page.height * this.scale)}px`;
    this.draw();
  }

  drawNow() {
    if (!this.page || !this.viewport.clientWidth) return;
    const [width, height] = [this.viewport.clientWidth, this.viewport.clientHeight];
    const context = sized(this.canvas, width, height);
    const view = {
      x: this.viewport.scrollLeft / this.scale,
      y: this.viewport.scrollTop / this.scale,
      k: this.scale * pixelRatio(),
    };
    const extras = { ...this.extras, calipers: this.calipers.drawn };
    drawPage(context, this.ecg, this.page, paperColours(this.host), view, this.canvas.width, this.canvas.height, extras);
    this.host.dataset.drawn = String(Number(this.host.dataset.drawn ?? 0) + 1);
  }

  /** Set the zoom and hold the place (in CSS pixels of the viewport) where it is. */
  zoomTo(zoom, place) {
    const at = place ?? { x: this.viewport.clientWidth / 2, y: this.viewport.clientHeight / 2 };
    const before = this.scale;
    const mm = before
      ? { x: (this.viewport.scrollLeft + at.x) / before, y: (this.viewport.scrollTop + at.y) / before }
      : null;
    this.zoom = Math.min(ZOOM.most, Math.max(ZOOM.least, zoom));
    this.refresh();
    if (mm && this.zoom > 1) this.viewport.scrollTo(mm.x * this.scale - at.x, mm.y * this.scale - at.y);
    else if (this.zoom === 1) this.viewport.scrollTo(0, 0);
    this.draw();
  }

  zoomBy(factor, place) {
    this.zoomTo(this.zoom * factor, place);
    announce(`zoom ${Math.round(this.zoom * 100)} %`);
  }

  zoomIn() {
    this.zoomBy(ZOOM.step);
  }

  zoomOut() {
    this.zoomBy(1 / ZOOM.step);
  }

  place(event) {
    const box = this.viewport.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  /** Return a place of the viewport in millimetres of paper. */
  millimetres({ x, y }) {
    return { x: (this.viewport.scrollLeft + x) / this.scale, y: (this.viewport.scrollTop + y) / this.scale };
  }

  /** Return the middle of what is in view, in millimetres of paper. */
  middle() {
    return this.millimetres({ x: this.viewport.clientWidth / 2, y: this.viewport.clientHeight / 2 });
  }

  // ---- pointer, fingers and keys

  press(event) {
    if (event.button !== 0 || !event.isPrimary || !this.page) return;
    if (this.calipers.isOn) {
      const point = this.calipers.take(this.millimetres(this.place(event)), event);
      const onmove = (move) => this.calipers.move(point, this.millimetres(this.place(move)));
      this.drag(event, onmove, () => this.calipers.say(true));
      return;
    }
    if (event.pointerType !== "mouse") return; // a finger scrolls by itself
    const from = { x: event.clientX + this.viewport.scrollLeft, y: event.clientY + this.viewport.scrollTop };
    this.drag(event, (move) => this.viewport.scrollTo(from.x - move.clientX, from.y - move.clientY));
  }

  drag(event, onmove, onend = () => {}) {
    event.preventDefault();
    this.viewport.focus({ preventScroll: true });
    this.viewport.setPointerCapture(event.pointerId);
    const end = () => {
      this.viewport.removeEventListener("pointermove", onmove);
      onend();
    };
    this.viewport.addEventListener("pointermove", onmove);
    this.viewport.addEventListener("lostpointercapture", end, { once: true });
  }

  spread(event) {
    const [p, q] = event.touches;
    const middle = this.place({ clientX: (p.clientX + q.clientX) / 2, clientY: (p.clientY + q.clientY) / 2 });
    return { middle, distance: Math.hypot(p.clientX - q.clientX, p.clientY - q.clientY) };
  }

  pinchStart(event) {
    if (event.touches.length === 1 && this.calipers.isOn) event.preventDefault();
    if (event.touches.length !== 2) return;
    event.preventDefault();
    this.pinch = { zoom: this.zoom, ...this.spread(event) };
  }

  pinchMove(event) {
    if (event.touches.length !== 2 || !this.pinch) return;
    event.preventDefault();
    const { middle, distance } = this.spread(event);
    this.zoomTo((this.pinch.zoom * distance) / this.pinch.distance, middle);
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const { key } = event;
    if (key === "+" || key === "=") this.zoomIn();
    else if (key === "-") this.zoomOut();
    else if (key === "0") this.zoomTo(1);
    else if (key === "c" || key === "C") this.calipers.toggle();
    else if (!this.calipers.isOn || !this.calipers.key(event)) return; // arrows without calipers scroll
    event.preventDefault();
  }

  // ---- pictures

  /** Return a canvas with the whole page at `k` pixels per millimetre. */
  picture(k) {
    const canvas = el("canvas");
    [canvas.width, canvas.height] = [Math.round(this.page.width * k), Math.round(this.page.height * k)];
    const extras = { ...this.extras, calipers: this.calipers.drawn };
    drawPage(
      canvas.getContext("2d"),
      this.ecg,
      this.page,
      paperColours(this.host),
      { x: 0, y: 0, k },
      canvas.width,
      canvas.height,
      extras,
    );
    return canvas;
  }

  savePicture() {
    if (this.page) this.picture(8).toBlob((blob) => download("ecg.png", blob));
  }

  /** Put a picture of the whole page into the document that prints to scale: one millimetre is one millimetre. */
  printPicture() {
    if (!this.page || !this.host.offsetParent) return;
    const canvas = this.picture(8);
    canvas.style.width = `${this.page.width}mm`;
    this.printed.replaceChildren(
      canvas,
      el("p", { text: `${this.settings.speed} mm/s, ${this.settings.gain} mm/mV, printed at 100 %.` }),
    );
  }
}
