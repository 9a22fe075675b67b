/** The view of one ECG: files, doubts, tracing, measurements, what was repaired, findings, nearest recordings. */

import { call } from "./api.js";
import { announce, button, el, listed, newId, number, showProblem } from "./dom.js";
import { fromBytes, recordings } from "./files.js";
import { Findings } from "./findings.js";
import { Neighbours } from "./neighbours.js";
import { leadRemark } from "./paper.js";
import { describe, withSamples } from "./samples.js";
import { table } from "./table.js";
import { Tracing } from "./tracing.js";

// key, title, unit, digits, usual range in adults at rest as [low, high]
const MEASURES = [
  ["heart_rate_bpm", "Rate", "bpm", 0, [50, 100]],
  ["pr_ms", "PR", "ms", 0, [120, 200]],
  ["qrs_ms", "QRS", "ms", 0, [null, 120]],
  ["qt_ms", "QT", "ms", 0, null],
  ["qtc_ms", "QTc", "ms", 0, [350, 460]],
  ["axis_deg", "Axis", "°", 0, [-30, 90]],
];

const range = ([low, high], unit) =>
  low === null ? `below ${high} ${unit}` : `${low} to ${high} ${unit}`.replaceAll("-", "−").replace(" °", "°");
const outside = (value, bounds) =>
  bounds && value !== null && value !== undefined && ((bounds[0] !== null && value < bounds[0]) || value > bounds[1]);

/** Return whether a remark on a lead names the leads that it was computed from; the sentence on all of them has them. */
const isSource = (remark) => remark.startsWith("derived from ");

/** Read one recording at the server. source: {file, query, signal}. Samples come back in millivolts as `mv`. */
export async function read(source) {
  const ecg = await call("/api/read", source);
  return withSamples(ecg);
}

/** Return a button that opens the file dialog, with its input. onfiles(files) is given the chosen files. */
export function fileButton(title, onfiles, properties = {}) {
  const input = el("input", { type: "file", multiple: true, class: "hidden", tabindex: "-1", "aria-label": title });
  input.addEventListener("change", () => {
    if (input.files.length) onfiles([...input.files]);
    input.value = "";
  });
  return el(
    "span",
    {},
    button(title, () => input.click(), properties),
    input,
  );
}

export class Reading {
  constructor(host, server, { onneighbours, onopen }) {
    this.host = host;
    this.server = server;
    this.onopen = onopen;
    this.files = [];
    this.controller = new AbortController();
    this.build(onneighbours);
  }

  build(onneighbours) {
    const { server } = this;
    this.intro = el("div", { class: "drop card" });
    const formats = listed(server.formats.map((format) => format.name));
    const examples = el("div", { class: "examples", role: "group", "aria-label": "Simulated examples" });
    for (const example of server.examples) examples.append(button(example.title, () => this.openExample(example)));
    this.intro.append(
      el("p", { class: "big", text: "Drop an ECG file here" }),
      el(
        "p",
        {},
        fileButton("Choose files", (files) => this.open(files), { class: "primary" }),
      ),
      el("p", {
        class: "soft",
        text: "Several files at once are fine; a WFDB header (.hea) goes together with its signal file (.dat).",
      }),
      el("h2", { text: "Or a simulated example" }),
      examples,
      el("details", { class: "soft" }, el("summary", { text: "Which formats?" }), el("p", { text: formats })),
    );

    this.list = el("div", { class: "filelist", role: "group", "aria-label": "Open files" });
    const again = el("select", { "aria-label": "Open a simulated example" }, el("option", { value: "", text: "Examples" }));
    for (const example of server.examples) again.append(el("option", { value: example.name, text: example.title }));
    again.addEventListener("change", () => {
      const example = server.examples.find((each) => each.name === again.value);
      again.value = "";
      if (example) this.openExample(example);
    });
    this.settings = this.fileSettings();
    const files = el(
      "div",
      { class: "files" },
      fileButton("Open files", (chosen) => this.open(chosen), { class: "primary" }),
      again,
      this.list,
      this.settings,
    );

    this.title = el("h2", { id: "ecg-title", tabindex: "-1" });
    this.facts = el("p", { class: "soft facts" });
    this.doubts = el("div", { class: "doubts" });
    this.measures = el("dl", { class: "measures", "aria-label": "Measurements" });
    const tracing = el("div", { id: "tracing" });
    this.leads = el("ul", { class: "leads", "aria-label": "Leads" });
    this.words = el("div", { class: "words-of-file" });
    this.right = el("aside", { class: "card findings", "aria-label": "Findings" });
    this.below = el("section", { class: "card below-tracing", "aria-label": "Nearest recordings" });
    const head = el("div", { class: "head" }, this.title, this.facts);
    const article = el(
      "article",
      { class: "card", "aria-labelledby": "ecg-title" },
      head,
      this.measures,
      tracing,
      this.leads,
      this.words,
    );
    this.reading = el(
      "div",
      { class: "reading", hidden: true },
      files,
      this.doubts,
      el("div", { class: "columns" }, article, this.right, this.below),
    );
    this.host.append(this.intro, this.reading);
    this.tracing = new Tracing(tracing, "ECG tracing");
    this.findings = new Findings(this.right, server, (map) => this.tracing.setOcclusion(map));
    this.neighbours = new Neighbours(this.below, server, onneighbours);
    this.below.hidden = !server.cohort;
    this.fillList();
  }

  fileSettings() {
    const field = (name, title, hint) => {
      const id = newId(name);
      const input = el("input", { id, name, placeholder: hint, autocomplete: "off", size: "12" });
      return el("div", {}, el("label", { for: id, text: title }), input);
    };
    const form = el(
      "form",
      { class: "sheet", onsubmit: (event) => (event.preventDefault(), this.reopen()) },
      el("p", { class: "soft", text: "Only for files that do not state these themselves (CSV, NumPy)." }),
      field("rate_hz", "Sampling rate in Hz", "500"),
      field("leads", "Leads, in order", "I,II,V1,V2"),
      field("units", "Unit", "mV or uV"),
      el("button", { type: "submit", text: "Read again" }),
    );
    return el("details", { class: "more" }, el("summary", { text: "File settings" }), form);
  }

  query() {
    const values = [...this.settings.querySelectorAll("input")].map((input) => [input.name, input.value.trim()]);
    return Object.fromEntries(values.filter(([, value]) => value));
  }

  // ---- files

  /** Open chosen or dropped files; the first is read at once, the others on a press. */
  async open(files) {
    const grouped = await recordings(files);
    if (!grouped.length) return;
    this.files = grouped;
    await this.select(grouped[0]);
  }

  async openExample(example) {
    showProblem("");
    try {
      const answer = await call(`/api/examples/${encodeURIComponent(example.name)}`);
      const opened = fromBytes(answer, example.title);
      this.files = [opened];
      await this.select(opened);
    } catch (error) {
      showProblem(error.message);
    }
  }

  reopen() {
    if (this.latest) this.select(this.latest);
  }

  fillList() {
    this.list.replaceChildren();
    if (this.files.length < 2) return;
    for (const file of this.files) {
      const press = button(file.title, () => this.select(file), {
        class: "file",
        "aria-pressed": String(file === this.current),
      });
      this.list.append(press);
    }
  }

  /** Read a recording, draw it, then ask for its findings and its nearest recordings. */
  async select(recording) {
    this.controller.abort(); // of the requests about the file before
    this.controller = new AbortController();
    this.current = recording;
    this.latest = recording; // also if it is refused: "Read again" tries it with other settings
    this.fillList();
    showProblem("");
    this.host.setAttribute("aria-busy", "true");
    const limit = this.server.limits.upload_bytes;
    const source = { file: recording, query: this.query(), signal: this.controller.signal };
    let ecg;
    try {
      if (recording.body.size > limit) {
        throw new Error(
          `${recording.title} has ${number(recording.body.size / 1e6, 1)} MB of at most ${number(limit / 1e6)} MB; ` +
            "cut it into parts first.",
        );
      }
      ecg = await read(source);
    } catch (error) {
      if (error.name !== "AbortError") this.refuse(error);
      return;
    } finally {
      if (!source.signal.aborted) this.host.removeAttribute("aria-busy");
    }
    this.ecg = ecg;
    this.intro.hidden = true;
    this.reading.hidden = false;
    this.fill(recording, ecg);
    this.onopen(recording, ecg);
    await Promise.all([this.findings.show(source, ecg), this.neighbours.show(source, ecg)]);
  }

  /** Show why a file is not read; the ECG before stays on the page under its own name. */
  refuse(error) {
    showProblem(error.status ? `${this.current.title}: ${error.message}` : error.message);
    if (error.status === 422 && /\.(csv|txt|tsv|npy|npz)$/i.test(this.current.name)) {
      this.reading.hidden = false; // these formats need facts that the file does not state
      this.settings.open = true;
    }
    this.reading.classList.toggle("empty", !this.ecg);
    this.current = null;
    this.fillList();
  }

  // ---- what the page shows of the ECG

  fill(recording, ecg) {
    this.reading.classList.remove("empty");
    this.title.textContent = recording.title;
    const facts = [
      ecg.format.replaceAll("_", " "),
      `${number(ecg.duration_s, 1)} s`,
      `${number(ecg.file_rate_hz ?? ecg.rate_hz)} Hz`,
    ];
    this.facts.textContent = facts.filter(Boolean).join(" · ");
    this.fillDoubts(ecg);
    this.fillMeasures(ecg);
    this.tracing.show(ecg);
    this.tracing.canvas.setAttribute("aria-label", describe(ecg));
    this.fillLeads(ecg);
    this.fillWords(ecg);
    announce(describe(ecg));
  }

  fillDoubts(ecg) {
    const note = (title, text, remedy, tone) => {
      const box = el("div", { class: `note ${tone}` }, el("h3", { text: title }), el("p", { text }));
      if (remedy) box.append(el("p", { class: "remedy" }, el("strong", { text: "What to do: " }), remedy));
      return box;
    };
    const titles = { leads: "Leads in doubt", unit: "Unit in doubt", rate: "Sampling rate in doubt" };
    const doubts = ecg.doubts.filter((doubt) => !(ecg.lead_swap && doubt.kind === "leads")); // the swap says it better
    const boxes = doubts.map((doubt) => note(titles[doubt.kind] ?? "In doubt", doubt.text, doubt.remedy, "warn"));
    if (ecg.lead_swap) boxes.unshift(note("Electrodes exchanged?", ecg.lead_swap.text, ecg.lead_swap.proposal, "warn"));
    if (!ecg.interpretable) boxes.unshift(note("Not interpretable", ecg.refusal, "", "bad"));
    this.doubts.replaceChildren(...boxes);
  }

  fillMeasures(ecg) {
    this.measures.replaceChildren();
    for (const [key, title, unit, digits, usual] of MEASURES) {
      const value = ecg.measurements?.[key];
      const odd = outside(value, usual);
      const text = el(
        "dd",
        { class: odd ? "odd" : null },
        el("strong", { text: number(value, digits) }),
        value === null || value === undefined ? "" : unit === "°" ? unit : ` ${unit}`,
      );
      if (odd) text.append(el("span", { class: "small", text: ` (usual ${range(usual, unit)})` }));
      this.measures.append(el("div", {}, el("dt", { text: title }), text));
    }
  }

  fillLeads(ecg) {
    const items = ecg.leads.map((lead) => {
      const remark = leadRemark(lead);
      const tone =
        lead.origin === "missing"
          ? "missing"
          : lead.quality === "bad"
            ? "bad"
            : lead.quality === "poor"
              ? "poor"
              : lead.origin;
      const full = [remark || "good", ...(lead.remarks ?? [])].join(". ");
      return el(
        "li",
        { class: `lead ${tone}`, title: full },
        el("strong", { text: lead.name }),
        el("span", { text: remark || "good" }),
      );
    });
    this.leads.replaceChildren(...items);
  }

  /** What was missing, computed, repaired or refused, in words; then the file's own statements, and everything as tables. */
  fillWords(ecg) {
    const named = (test) => ecg.leads.filter(test).map((lead) => lead.name);
    const derived = named((lead) => lead.origin === "derived");
    const missing = named((lead) => lead.origin === "missing");
    const sources = [...new Set(ecg.leads.flatMap((lead) => (lead.remarks ?? []).filter(isSource)))];
    const sentences = [];
    if (derived.length) {
      const from = sources.map((remark) => remark.replace("derived from ", ""));
      sentences.push(
        `${listed(derived)} ${derived.length > 1 ? "are" : "is"} not in the file: computed from ${listed(from) || "other leads"}.`,
      );
    }
    if (missing.length)
      sentences.push(`${listed(missing)} ${missing.length > 1 ? "are" : "is"} missing; the model works with the rest.`);
    sentences.push(...ecg.remarks.filter((remark) => !/^(not recorded|derived from the other limb leads): /.test(remark)));
    const remarked = new Map(); // the same remark on several leads is one sentence
    for (const lead of ecg.leads)
      for (const remark of (lead.remarks ?? []).filter((text) => !isSource(text) && text !== "not recorded"))
        remarked.set(remark, [...(remarked.get(remark) ?? []), lead.name]);
    for (const [remark, leads] of remarked)
      sentences.push(`${leads.length === ecg.leads.length ? "All leads" : listed(leads)}: ${remark}`);
    if (!sentences.length) sentences.push("All twelve leads are as recorded. Nothing was computed, repaired or left out.");
    const lines = [
      el("h3", { text: "What was done to the file" }),
      el(
        "ul",
        {},
        [...new Set(sentences)].map((text) => el("li", { text })),
      ),
    ];
    if (ecg.statements.length) {
      lines.push(
        el("h3", { text: "Statements in the file" }),
        el(
          "ul",
          {},
          ecg.statements.map((text) => el("li", { text })),
        ),
      );
    }
    const stated = Object.entries(ecg.stated ?? {});
    const measures = MEASURES.map(([key, title, unit, , usual]) => ({
      name: title,
      unit,
      value: ecg.measurements?.[key] ?? null,
      stated: typeof ecg.stated?.[key] === "number" ? ecg.stated[key] : null,
      usual: usual ? range(usual, unit) : "",
    }));
    const columns = [
      { key: "name", title: "Measure" },
      { key: "value", title: "Here", digits: 0 },
      { key: "stated", title: "Stated in the file", digits: 0 },
      { key: "unit", title: "Unit" },
      { key: "usual", title: "Usual in adults at rest" },
    ];
    const leads = ecg.leads.map(({ name, origin, quality, remarks, above, below, mv }) => ({
      name,
      origin,
      quality,
      above: mv ? above : null,
      below: mv ? -below : null,
      remarks: (remarks ?? []).join("; "),
    }));
    const leadColumns = [
      { key: "name", title: "Lead" },
      { key: "origin", title: "Origin" },
      { key: "quality", title: "Quality" },
      { key: "above", title: "Highest, mV", digits: 2 },
      { key: "below", title: "Lowest, mV", digits: 2 },
      { key: "remarks", title: "Remarks" },
    ];
    lines.push(
      el(
        "details",
        {},
        el("summary", { text: "Measurements as a table" }),
        table({ caption: "Measurements", columns, rows: measures, file: "measurements.csv" }),
      ),
      el(
        "details",
        {},
        el("summary", { text: "Leads as a table" }),
        table({ caption: "Leads", columns: leadColumns, rows: leads, file: "leads.csv" }),
      ),
    );
    const others = stated
      .filter(([key]) => !MEASURES.some(([name]) => name === key))
      .map(([name, value]) => ({ name, value }));
    if (others.length) {
      const more = [
        { key: "name", title: "Name" },
        { key: "value", title: "Value", digits: 1 },
      ];
      lines.push(
        el(
          "details",
          {},
          el("summary", { text: "Stated in the file" }),
          table({ caption: "Stated in the file", columns: more, rows: others, file: "stated.csv" }),
        ),
      );
    }
    this.words.replaceChildren(...lines);
  }
}
