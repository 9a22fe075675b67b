/** The nearest recordings of the cohort, drawn small, with their labels. */

import { call } from "./api.js";
import { announce, answerIn, button, el, number, problem } from "./dom.js";
import { describe, withSamples } from "./samples.js";
import { table } from "./table.js";
import { smallPicture, smallTracings } from "./thumbs.js";
import { Tracing } from "./tracing.js";

/** Return the classes of all tasks as one list of names. */
export const labelNames = (labels) => [...new Set(Object.values(labels ?? {}).flat())];

/** Open a recording of the cohort in a window of its own above the page. */
export async function openRecording(row, title) {
  const place = el("div", { id: "opened-tracing" });
  const facts = el("p", { class: "soft" });
  const report = el("p", { class: "report" });
  const dialog = el("dialog", { "aria-label": title });
  const close = button("Close", () => dialog.close(), {});
  dialog.append(el("div", { class: "head" }, el("h2", { text: title }), close), facts, place, report);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  try {
    const ecg = withSamples(await call(`/api/ecg/${row}`));
    const tracing = new Tracing(place, title, { compact: true });
    tracing.show(ecg);
    tracing.canvas.setAttribute("aria-label", describe(ecg));
    facts.textContent = [
      labelNames(ecg.labels).join(", "),
      ecg.measurements?.heart_rate_bpm ? `${number(ecg.measurements.heart_rate_bpm)} bpm` : "",
    ]
      .filter(Boolean)
      .join(" · ");
    if (ecg.report) report.textContent = `Report: ${ecg.report}`;
  } catch (error) {
    place.append(problem(error.message));
  }
}

export class Neighbours {
  /** onrows(rows): is given the rows of the nearest recordings, so that the map can mark them. */
  constructor(host, server, onrows) {
    this.server = server;
    this.onrows = onrows;
    this.place = el("div", { class: "answer" });
    host.append(el("div", { class: "head" }, el("h2", { text: "Nearest recordings" })), this.place);
    if (!server.cohort) {
      const text =
        "No cohort is open. Start `leadwise serve --cohort FOLDER` to compare this ECG with recordings of your own.";
      this.place.append(el("p", { class: "soft", text }));
    }
  }

  async show(source, ecg) {
    this.onrows([]);
    if (!this.server.cohort) return;
    if (!ecg.interpretable) {
      this.place.replaceChildren(el("p", { class: "soft", text: "An ECG that is not interpretable has no neighbours." }));
      return;
    }
    const answer = await answerIn(this.place, async () => {
      const nearest = await call("/api/neighbours", { ...source, query: { ...source.query, top: 6 } });
      const rows = nearest.rows.map((row) => row.row);
      return { nearest, pictures: await smallTracings(rows, source.signal) };
    });
    if (answer && !source.signal.aborted) this.fill(answer.nearest, answer.pictures);
  }

  fill(answer, pictures) {
    const cards = answer.rows.map((row, i) => {
      const names = labelNames(row.labels);
      const title = `${i + 1}. ${row.record}`;
      const open = el("button", {
        type: "button",
        class: "card neighbour",
        "aria-label": `Open ${title}: ${names.join(", ") || "no labels"}`,
      });
      open.append(
        el(
          "span",
          { class: "line" },
          el("strong", { text: title }),
          el("span", { class: "soft", text: `similarity ${number(row.cosine, 2)}` }),
        ),
        smallPicture(pictures.get(row.row), 64, `lead ${pictures.get(row.row)?.lead ?? "II"} of ${row.record}`),
        el(
          "span",
          { class: "chips" },
          names.map((name) => el("span", { class: "chip", text: name })),
        ),
      );
      if (row.report) open.append(el("span", { class: "small soft report", text: row.report }));
      open.addEventListener("click", () => openRecording(row.row, row.record));
      return el("li", {}, open);
    });
    const rows = answer.rows.map((row) => ({ ...row, labels: labelNames(row.labels).join("; ") }));
    const columns = [
      { key: "record", title: "Recording" },
      { key: "cosine", title: "Similarity", digits: 3 },
      { key: "split", title: "Split" },
      { key: "labels", title: "Labels" },
    ];
    if (rows.some((row) => row.report)) columns.push({ key: "report", title: "Report" });
    const fold = el(
      "details",
      {},
      el("summary", { text: "As a table" }),
      table({ caption: "Nearest recordings", columns, rows, file: "neighbours.csv" }),
    );
    const text = `Of ${answer.n} recordings of ${answer.cohort}, by their embeddings. Near does not mean the same finding.`;
    this.place.replaceChildren(el("ol", { class: "cards" }, cards), el("p", { class: "soft small", text }), fold);
    this.onrows(answer.rows.map((row) => row.row));
    announce(`${answer.rows.length} nearest recordings of ${answer.cohort}`);
  }
}
