/** The tracing: an ECG on paper that zooms, moves and is measured with calipers. */

import { millivolts } from "./api.js";
import { announce, button, check, choice, download, el, number, onceAFrame, pixelRatio, sized } from "./dom.js";
import {
  GAINS,
  LAYOUTS,
  LEFT_MM,
  SPEEDS,
  arrange,
  drawPage,
  leadRemark,
  measureLeads,
  paperColours,
  tracePath,
} from "./paper.js";

const LEAST_PX_PER_MM = 2.2; // below this a tracing is not readable: the paper is wider than the window and moves
const MOST_PX_PER_MM = 6; // of the whole page in a wide window
const ZOOM = { least: 1, most: 12, step: 1.25 };
const NARROW_PX = 600;
const PAGE_MM = LEFT_MM + 250 + 2; // ten seconds at 25 mm/s
const NEAR_PX = 12; // a caliper line is taken hold of within this distance

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
    this.calipers = null;
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
    const set =
      (name, parse = (value) => value) =>
      (value) => {
        this.settings[name] = parse(value);
        this.refresh();
      };
    const layouts = Object.entries(LAYOUTS).map(([key, { title }]) => [key, title]);
    const layout = choice("Layout", layouts, this.settings.layout, set("layout"));
    this.leadChoice = choice("Lead", [["II", "II"]], "II", set("lead"));
    const speed = choice(
      "Speed",
      SPEEDS.map((v) => [String(v), `${v} mm/s`]),
      "25",
      set("speed", Number),
    );
    const gain = choice(
      "Gain",
      GAINS.map((v) => [String(v), `${v} mm/mV`]),
      "10",
      set("gain", Number),
    );
    this.startChoice = choice("From", [["0", "0 s"]], "0", set("start", Number));
    this.layoutSelect = layout.select;
    const zoomOut = button("−", () => this.zoomBy(1 / ZOOM.step), { "aria-label": "Zoom out", class: "small" });
    const zoomIn = button("+", () => this.zoomBy(ZOOM.step), { "aria-label": "Zoom in", class: "small" });
    const whole = button("Fit", () => this.zoomTo(1), { "aria-label": "Show the whole page", class: "small" });
    this.caliperButton = button("Calipers", () => this.toggleCalipers(), { "aria-pressed": "false" });
    const zooms = el("div", { class: "joined", role: "group", "aria-label": "Zoom" }, zoomOut, whole, zoomIn);
    const paper = choice(
      "Paper",
      [
        ["auto", "as the page"],
        ["pink", "pink"],
        ["dark", "dark"],
        ["plain", "black on white"],
      ],
      "auto",
      (v) => {
        this.host.dataset.paper = v;
        this.draw();
      },
    );
    const march = check("Calipers march", false, (on) => {
      this.march = on;
      if (this.calipers) this.calipers.march = on;
      this.draw();
    });
    const beats = check("Mark beats", false, (on) => {
      this.extras.beats = on;
      this.draw();
    });
    const more = el(
      "details",
      { class: "more" },
      el("summary", { text: "More" }),
      el(
        "div",
        { class: "sheet" },
        paper.label,
        beats,
        march,
        button("Save picture (PNG)", () => this.savePicture()),
        button("Print to scale", () => window.print()),
      ),
    );
    const bar = el(
      "div",
      { class: "bar", role: "group", "aria-label": `Settings: ${this.title}` },
      layout.label,
      this.leadChoice.label,
      this.startChoice.label,
      speed.label,
      gain.label,
      zooms,
      this.caliperButton,
      more,
    );

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
    this.readout = el("p", { class: "readout" });
    this.legend = el("div", { class: "legend" });
    this.printed = el("div", { class: "printed" });
    this.host.classList.add("tracing");
    this.host.append(bar, this.viewport, help, el("div", { class: "under" }, this.readout, this.legend), this.printed);
    if (compact) this.host.classList.add("compact");
    this.listen();
    this.say();
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
    this.calipers = null;
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
    this.say();
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
    const extras = { ...this.extras, calipers: this.calipers };
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

  place(event) {
    const box = this.viewport.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  /** Return a place of the viewport in millimetres of paper. */
  millimetres({ x, y }) {
    return { x: (this.viewport.scrollLeft + x) / this.scale, y: (this.viewport.scrollTop + y) / this.scale };
  }

  // ---- calipers

  toggleCalipers(on = !this.calipers) {
    if (on && this.page) {
      const middle = this.millimetres({ x: this.viewport.clientWidth / 2, y: this.viewport.clientHeight / 2 });
      const [a, b] = [{ ...middle }, { x: middle.x + this.settings.speed * 0.8, y: middle.y - this.settings.gain }];
      this.calipers = { a, b, active: b, march: this.march ?? false };
    } else this.calipers = null;
    this.say(true);
    this.draw();
  }

  /** Show what the calipers measure, and read it out if `aloud`. */
  say(aloud = false) {
    this.caliperButton.setAttribute("aria-pressed", String(this.calipers !== null));
    this.viewport.classList.toggle("measuring", this.calipers !== null);
    if (!this.calipers) {
      const hint = matchMedia("(pointer: coarse)").matches
        ? "Zoom: two fingers."
        : "Zoom: Ctrl + wheel, or + and −. Drag to move.";
      this.readout.replaceChildren(el("span", { class: "soft", text: `${hint} C: calipers.` }));
      return;
    }
    const { a, b } = this.calipers;
    const ms = (Math.abs(b.x - a.x) / this.settings.speed) * 1000;
    const mv = (a.y - b.y) / this.settings.gain;
    const bpm = ms > 0 ? 60_000 / ms : NaN;
    const texts = [`${number(ms)} ms`, `${number(bpm)} bpm`, `${number(mv, 2)} mV`];
    this.readout.replaceChildren(
      el("span", { class: "name", text: "Calipers" }),
      ...texts.map((text) => el("strong", { text })),
    );
    if (aloud) announce(`Calipers: ${texts.join(", ")}`);
  }

  press(event) {
    if (event.button !== 0 || !this.page) return;
    if (!this.calipers) {
      if (event.pointerType !== "mouse") return; // a finger scrolls by itself
      const from = { x: event.clientX + this.viewport.scrollLeft, y: event.clientY + this.viewport.scrollTop };
      this.drag(event, (move) => this.viewport.scrollTo(from.x - move.clientX, from.y - move.clientY));
      return;
    }
    const place = this.place(event);
    const mm = this.millimetres(place);
    const distance = (point) => Math.abs(point.x - mm.x) * this.scale;
    const near = [this.calipers.a, this.calipers.b].sort((p, q) => distance(p) - distance(q))[0];
    let point = near;
    if (distance(near) > NEAR_PX) {
      Object.assign(this.calipers.a, mm);
      Object.assign(this.calipers.b, mm);
      point = this.calipers.b;
    }
    this.calipers.active = point;
    this.drag(
      event,
      (move) => {
        Object.assign(point, this.millimetres(this.place(move)));
        this.say();
        this.draw();
      },
      () => this.say(true),
    );
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
    if (event.touches.length === 1 && this.calipers) event.preventDefault();
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
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const key = event.key;
    if (key === "+" || key === "=") this.zoomBy(ZOOM.step);
    else if (key === "-") this.zoomBy(1 / ZOOM.step);
    else if (key === "0") this.zoomTo(1);
    else if (key === "c" || key === "C") this.toggleCalipers();
    else if (key === "Escape" && this.calipers) this.toggleCalipers(false);
    else if (key === "Enter" && this.calipers) {
      this.calipers.active = this.calipers.active === this.calipers.a ? this.calipers.b : this.calipers.a;
      this.draw();
    } else if (key in arrows && this.calipers) {
      const step = event.shiftKey ? 2.5 : 0.25; // 100 and 10 ms at 25 mm/s
      this.calipers.active.x += arrows[key][0] * step;
      this.calipers.active.y += arrows[key][1] * step;
      this.say(true);
      this.draw();
    } else return; // arrows without calipers scroll
    event.preventDefault();
  }

  // ---- pictures

  /** Return a canvas with the whole page at `k` pixels per millimetre. */
  picture(k) {
    const canvas = el("canvas");
    [canvas.width, canvas.height] = [Math.round(this.page.width * k), Math.round(this.page.height * k)];
    const extras = { ...this.extras, calipers: this.calipers };
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

/** Return an answer of the server with the samples of each lead in millivolts as `mv`. */
export function withSamples(ecg) {
  for (const lead of ecg.leads) lead.mv = millivolts(lead.samples);
  const n = Math.max(0, ...ecg.leads.map((lead) => lead.mv?.length ?? 0));
  ecg.drawn_s = n ? n / ecg.rate_hz : ecg.duration_s; // of a long recording only a part is sent
  return ecg;
}

/** Return a description of an ECG for readers who cannot see the tracing. */
export function describe(ecg) {
  const usual = ecg.leads.filter((lead) => leadRemark(lead) === "").map((lead) => lead.name);
  const rest = ecg.leads.filter((lead) => leadRemark(lead) !== "").map((lead) => `${lead.name}: ${leadRemark(lead)}`);
  const rate = ecg.measurements?.heart_rate_bpm;
  const parts = [`ECG of ${number(ecg.duration_s, 1)} s at ${number(ecg.rate_hz)} Hz`];
  if (rate) parts.push(`heart rate ${number(rate)} per minute`);
  parts.push(
    usual.length === ecg.leads.length
      ? "all twelve leads recorded, signal good"
      : `recorded and good: ${usual.join(", ") || "none"}`,
  );
  return `${parts.join("; ")}. ${rest.join("; ")}`;
}

/** Draw one lead small, without paper: a tracing for lists. samples: mV. */
export function drawSmall(canvas, samples, rate, width, height, colour) {
  const context = sized(canvas, width, height);
  context.clearRect(0, 0, canvas.width, canvas.height);
  const values = samples.filter((value) => !Number.isNaN(value)).sort();
  if (!values.length) return;
  const low = values[Math.floor(values.length * 0.002)];
  const high = Math.max(values[Math.ceil(values.length * 0.998) - 1], low + 0.5);
  const pad = 2 * pixelRatio();
  const x = (i) => (i / samples.length) * canvas.width;
  const y = (mv) => pad + ((high - mv) / (high - low)) * (canvas.height - 2 * pad);
  context.lineWidth = pixelRatio();
  context.lineJoin = "round";
  context.strokeStyle = colour;
  tracePath(context, samples, 0, samples.length, x, y);
  context.stroke();
}
