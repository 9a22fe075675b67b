/** Two ECGs of a person side by side: both tracings, the changes of the measurements, and the median beats over each other. */

import { call, millivolts } from "./api.js";
import { announce, button, el, listed, number, pixelRatio, showProblem, sized } from "./dom.js";
import { fromBytes, pair, recordings } from "./files.js";
import { drawGrid, paperColours, tracePath } from "./paper.js";
import { fileButton } from "./reading.js";
import { describe, withSamples } from "./samples.js";
import { table } from "./table.js";
import { Tracing } from "./tracing.js";

const BEAT_MM_PER_S = 50;
const BEAT_MM_PER_MV = 10;
const BEAT_PX_PER_MM = 4;
const NOTABLE_UV = 100; // a root mean square difference of median beats that is marked
const FIRST = "-first"; // how the names of two examples of one person end
const secondOf = (name) => name.replace(/-first$/, "-second");
const NAMES = {
  heart_rate_bpm: ["Heart rate", "bpm"],
  pr_ms: ["PR", "ms"],
  qrs_ms: ["QRS", "ms"],
  qt_ms: ["QT", "ms"],
  qtc_ms: ["QTc", "ms"],
  axis_deg: ["Axis", "°"],
};

export class Compare {
  /** opened(): the recording that is open in the view of one ECG, or null. */
  constructor(host, server, opened) {
    this.server = server;
    this.opened = opened;
    this.slots = [null, null];
    this.places = ["First", "Second"].map((title, i) => {
      const name = el("p", { class: "big", text: "No ECG yet" });
      const own = button("Use the open ECG", () => this.set(i, this.opened()), { class: "own" });
      const box = el(
        "section",
        { class: "card drop small", "aria-label": `${title} ECG`, "data-slot": String(i) },
        el("h2", { text: title }),
        name,
        el(
          "div",
          { class: "row" },
          fileButton(`Choose the ${title.toLowerCase()} file`, (files) => this.openFiles(i, files), { class: "primary" }),
          own,
        ),
      );
      return { box, name, own };
    });
    const examples = el("div", { class: "examples", role: "group", "aria-label": "Simulated examples" });
    const pairs = server.examples.filter(
      ({ name }) => name.endsWith(FIRST) && server.examples.some((other) => other.name === secondOf(name)),
    );
    for (const { name } of pairs)
      examples.append(button("Example: one simulated person, two ECGs", () => this.openPair([name, secondOf(name)])));
    this.answer = el("div", { class: "answer" });
    host.append(
      el(
        "div",
        { class: "slots" },
        this.places.map((place) => place.box),
      ),
      pairs.length ? examples : "",
      this.answer,
    );
    this.refresh();
  }

  /** Update what depends on the other view. */
  refresh() {
    const recording = this.opened();
    for (const { own } of this.places) {
      own.hidden = !recording;
      own.textContent = recording ? `Use ${recording.title}` : "";
    }
  }

  /** Open dropped files: one for a slot, two for both. */
  async openFiles(slot, files) {
    const grouped = await recordings(files);
    if (grouped.length > 1) this.slots = grouped.slice(0, 2);
    else this.slots[slot ?? (this.slots[0] ? 1 : 0)] = grouped[0];
    await this.compare();
  }

  async openPair(names) {
    try {
      const both = await Promise.all(names.map((name) => call(`/api/examples/${encodeURIComponent(name)}`)));
      this.slots = both.map((answer, i) =>
        fromBytes(answer, this.server.examples.find(({ name }) => name === names[i]).title),
      );
      await this.compare();
    } catch (error) {
      showProblem(error.message);
    }
  }

  async set(slot, recording) {
    this.slots[slot] = recording;
    await this.compare();
  }

  async compare() {
    showProblem("");
    this.places.forEach(({ name }, i) => (name.textContent = this.slots[i]?.title ?? "No ECG yet"));
    if (!this.slots[0] || !this.slots[1]) return;
    this.controller?.abort();
    this.controller = new AbortController();
    this.answer.setAttribute("aria-busy", "true");
    try {
      const answer = await call("/api/compare", { file: await pair(...this.slots), signal: this.controller.signal });
      this.fill(answer);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.answer.replaceChildren();
      showProblem(error.message);
    } finally {
      this.answer.removeAttribute("aria-busy");
    }
  }

  fill(answer) {
    const titles = this.slots.map((slot) => slot.title);
    this.answer.replaceChildren();
    const tracings = el("div", { class: "pair" });
    this.answer.append(this.differences(answer, titles), tracings);
    for (const [i, ecg] of [answer.first, answer.second].map(withSamples).entries()) {
      const place = el("div", { id: `compared-${i}` });
      const title = `${i ? "Second" : "First"}: ${titles[i]}`;
      const notes = [
        ...ecg.doubts.map((doubt) => `${doubt.text} ${doubt.remedy}`),
        ...(ecg.interpretable ? [] : [`Not interpretable: ${ecg.refusal}`]),
      ];
      const boxes = notes.map((text) => el("p", { class: "note warn", text }));
      tracings.append(el("article", { class: "card" }, el("h3", { text: title }), boxes, place));
      const tracing = new Tracing(place, title, { compact: true, layout: window.innerWidth < 1100 ? "12x1" : "6x2" });
      tracing.show(ecg);
      tracing.canvas.setAttribute("aria-label", `${title}. ${describe(ecg)}`);
    }
    this.answer.append(this.beats(answer));
  }

  differences({ differences, cosine }, titles) {
    const rows = differences.map((row) => {
      const [name, unit] = NAMES[row.name] ?? [row.name, row.unit];
      return { ...row, name, unit };
    });
    const notable = rows.filter((row) => row.text);
    const sentence = notable.length
      ? `${listed(notable.map((row) => row.text))}.`
      : "No measurement changed by more than repeated measurements scatter.";
    const text = sentence[0].toUpperCase() + sentence.slice(1);
    const columns = [
      { key: "name", title: "Measure" },
      { key: "first", title: "First", digits: 0 },
      { key: "second", title: "Second", digits: 0 },
      { key: "change", title: "Change", digits: 0 },
      { key: "unit", title: "Unit" },
      { key: "text", title: "Remark" },
    ];
    const alike =
      cosine === null || cosine === undefined ? "" : `Similarity of the two embeddings: ${number(cosine, 2)} (1 is equal).`;
    announce(text);
    return el(
      "section",
      { class: "card", "aria-label": "Differences" },
      el("h2", { text: "Differences" }),
      el("p", { class: "verdict", text }),
      table({
        caption: `Measurements of ${titles[0]} and ${titles[1]}`,
        columns,
        rows,
        file: "differences.csv",
        marked: (row) => Boolean(row.text),
      }),
      alike ? el("p", { class: "soft", text: alike }) : "",
    );
  }

  beats({ leads }) {
    const largest = Math.max(...leads.map((lead) => lead.rms_uv ?? 0));
    const marked = (lead) => lead.rms_uv !== null && lead.rms_uv >= NOTABLE_UV && lead.rms_uv >= largest / 2;
    const figures = leads.map((lead) => {
      const text = lead.rms_uv === null ? "not in both" : `${number(lead.rms_uv)} µV`;
      const canvas = el("canvas", { role: "img", "aria-label": `Median beats of lead ${lead.name}: differ by ${text}` });
      const holder = el("div", { class: "beat" }, canvas);
      const figure = el(
        "figure",
        { class: marked(lead) ? "marked" : null },
        el("figcaption", { class: "line" }, el("strong", { text: lead.name }), el("span", { text })),
        holder,
      );
      const draw = () => holder.clientWidth && drawBeats(canvas, holder, lead, leads);
      new ResizeObserver(draw).observe(holder);
      document.addEventListener("themechange", draw);
      return figure;
    });
    const rows = leads.map(({ name, rms_uv }) => ({ name, rms_uv }));
    const columns = [
      { key: "name", title: "Lead" },
      { key: "rms_uv", title: "Difference, µV", digits: 0 },
    ];
    const key = el(
      "p",
      { class: "legend" },
      el("span", { class: "swatch first" }),
      "first",
      el("span", { class: "swatch second" }),
      "second",
      el("span", { class: "soft", text: "50 mm/s, 10 mm/mV; root mean square of the difference; the largest are framed" }),
    );
    return el(
      "section",
      { class: "card", "aria-label": "Median beats" },
      el("h2", { text: "Median beats" }),
      key,
      el("div", { class: "beats" }, figures),
      el(
        "details",
        {},
        el("summary", { text: "As a table" }),
        table({
          caption: "Difference of the median beats",
          columns,
          rows,
          file: "median-beats.csv",
          marked: (row) => marked(row),
        }),
      ),
    );
  }
}

/** Draw the median beats of one lead over each other on paper, with the area between them filled. */
function drawBeats(canvas, holder, lead, leads) {
  const { first, second, rate_hz: rate } = lead.median_beat;
  const [a, b] = [millivolts(first), millivolts(second)];
  const all = leads
    .flatMap((each) => [each.median_beat.first, each.median_beat.second])
    .filter(Boolean)
    .map(millivolts);
  const high = Math.min(4, Math.max(0.5, ...all.map((beat) => beat.reduce((m, v) => (v > m ? v : m), 0))));
  const low = Math.max(-4, Math.min(-0.3, ...all.map((beat) => beat.reduce((m, v) => (v < m ? v : m), 0))));
  const n = Math.max(a?.length ?? 0, b?.length ?? 0);
  const k = Math.min(BEAT_PX_PER_MM, holder.clientWidth / ((n / rate) * BEAT_MM_PER_S || 50));
  const height = ((high - low) * BEAT_MM_PER_MV + 4) * k;
  const context = sized(canvas, holder.clientWidth, height);
  const ratio = pixelRatio();
  const colours = paperColours(holder);
  drawGrid(context, colours, { x: 0, y: 0, k: k * ratio }, canvas.width, canvas.height);
  if (!n) return;
  const x = (i) => (i / rate) * BEAT_MM_PER_S * k * ratio;
  const y = (mv) => ((high - mv) * BEAT_MM_PER_MV + 2) * k * ratio;
  if (a && b) {
    context.fillStyle = colours.oppose;
    context.globalAlpha = 0.35;
    for (let i = 0; i + 1 < Math.min(a.length, b.length); i += 1) {
      if (Number.isNaN(a[i] + b[i] + a[i + 1] + b[i + 1])) continue;
      context.beginPath();
      context.moveTo(x(i), y(a[i]));
      context.lineTo(x(i + 1), y(a[i + 1]));
      context.lineTo(x(i + 1), y(b[i + 1]));
      context.lineTo(x(i), y(b[i]));
      context.fill();
    }
    context.globalAlpha = 1;
  }
  context.lineJoin = "round";
  context.lineWidth = 1.5 * ratio;
  for (const [beat, colour] of [
    [a, colours.first],
    [b, colours.second],
  ]) {
    if (!beat) continue;
    context.strokeStyle = colour;
    tracePath(context, beat, 0, beat.length, x, y);
    context.stroke();
  }
}
