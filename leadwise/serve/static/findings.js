/** Findings of one ECG: scores of a task and of the user's own words, each explained on the tracing by a press. */

import { call } from "./api.js";
import { announce, answerIn, button, choice, el, listed, newId, number } from "./dom.js";
import { table } from "./table.js";

const FEW_ROWS = 6; // the rest is one press away
const LONGEST = 300; // characters of the user's words

const percent = (share) => (share < 0.01 ? "< 1 %" : share > 0.99 ? "> 99 %" : `${Math.round(share * 100)} %`);
const ordinal = (n) => {
  const tail = n % 100 > 10 && n % 100 < 14 ? "th" : (["th", "st", "nd", "rd"][n % 10] ?? "th");
  return `${n}${tail}`;
};

/** Return the finding of a row in words. */
const nameOf = (row) => row.name ?? row.class ?? row.text;

/** Return the score of a row as a share of the bar and as text: probability, else percentile, else neither. */
function score(row) {
  if (row.probability !== null && row.probability !== undefined)
    return { share: row.probability, text: percent(row.probability) };
  if (row.percentile === null || row.percentile === undefined) return { share: null, text: number(row.cosine, 2) };
  const rank = Math.min(99, Math.max(1, Math.round(row.percentile)));
  return { share: row.percentile / 100, text: ordinal(rank), unit: "percentile" };
}

/** Return the range of the agreement over the wordings in words, and why the dot can be outside of it; '' for one wording. */
function wordingsOf({ cosine, low, high }) {
  if (low === null || low === undefined || low === high) return "";
  const range = `${number(low, 2)} to ${number(high, 2)}`;
  if (cosine >= low && cosine <= high) return ` (single wordings: ${range})`;
  const beyond = cosine > high ? "above" : "below";
  return ` (single wordings: ${range}; the dot is ${beyond} that line: it is the agreement with the mean of all wordings)`;
}

export class Findings {
  /** server: the answer of /api/state. onexplain(map or null): draws the occlusion map of the chosen finding. */
  constructor(host, server, onexplain) {
    this.server = server;
    this.onexplain = onexplain;
    // probabilities say more than ranks, and few classes give the overview
    const byClasses = [...server.tasks].sort((a, b) => a.classes.length - b.classes.length);
    this.task = (byClasses.find((task) => task.calibrated) ?? server.tasks[0])?.name;
    const tasks = choice(
      "Task",
      server.tasks.map((task) => [task.name, task.title]),
      this.task,
      (value) => {
        this.task = value;
        this.askTask();
      },
    );
    this.answer = el("div", { class: "answer" });
    this.own = el("div", { class: "answer" });
    const id = newId("words");
    this.words = el("textarea", {
      id,
      rows: "2",
      maxlength: String(LONGEST),
      placeholder: "one description a line, e.g. left bundle branch block",
    });
    this.words.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        this.askWords();
      }
    });
    const form = el(
      "form",
      { class: "words", onsubmit: (event) => (event.preventDefault(), this.askWords()) },
      el("label", { for: id, text: "Your own words" }),
      el("div", { class: "row" }, this.words, el("button", { type: "submit", text: "Ask" })),
    );
    const hasText = server.run.embeds_text;
    const noText = el("p", {
      class: "soft",
      text: `The run ${server.run.name} has no text encoder, so it scores no findings.`,
    });
    host.append(
      el("div", { class: "head" }, el("h2", { text: "Findings" }), hasText && server.tasks.length > 1 ? tasks.label : null),
    );
    host.append(...(hasText ? [this.answer, form, this.own] : [noText]));
    this.enabled = hasText;
  }

  /** Ask about a new recording. source: {file, query, signal} of the requests. */
  async show(source, ecg) {
    this.source = source;
    this.ecg = ecg;
    this.chosen = null;
    this.own.replaceChildren();
    if (this.enabled) await this.askTask();
  }

  async askTask() {
    if (!this.source) return;
    this.explainNothing();
    const task = this.server.tasks.find((each) => each.name === this.task);
    await this.fill(this.answer, { task: this.task }, task.title, this.task);
  }

  async askWords() {
    const words = this.words.value
      .split(/\n|;/)
      .map((line) => line.trim())
      .filter(Boolean);
    if (!words.length || !this.source) return;
    await this.fill(this.own, { words }, "Your words", "words");
  }

  /** Return the answer to a question about the open ECG, or null; an error is written into `place`. */
  ask(place, path, query) {
    const { source } = this;
    return answerIn(place, () => call(path, { ...source, query: { ...source.query, ...query } }));
  }

  async fill(place, query, title, name) {
    const { source } = this;
    const answer = await this.ask(place, "/api/zeroshot", query);
    if (!answer || source !== this.source) return; // another file came in between
    if (!answer.interpretable) {
      const reason = answer.refusal.replace(/^not interpretable: /, "");
      place.replaceChildren(
        el("div", { class: "note bad refused" }, el("h3", { text: "Not interpretable" }), el("p", { text: reason })),
      );
      announce(`Not interpretable: ${reason}`);
      return;
    }
    place.replaceChildren(...this.list(answer, query, title, name));
    const top = answer.rows
      .slice(0, 3)
      .map((row) => `${nameOf(row)} ${score(row).text}${score(row).unit ? ` ${score(row).unit}` : ""}`);
    announce(`${title}: ${listed(top)}`);
  }

  list(answer, query, title, name) {
    const { rows } = answer;
    const low = Math.min(...rows.map((row) => Math.min(row.low ?? row.cosine, row.cosine)));
    const high = Math.max(...rows.map((row) => Math.max(row.high ?? row.cosine, row.cosine)));
    const span = Math.max(high - low, 0.05);
    const place = (cosine) => ((cosine - low) / span) * 100;
    const list = el("ul", { class: "scores", "aria-label": title });
    const items = rows.map((row) => this.item(row, query, place));
    list.append(...items.slice(0, FEW_ROWS));
    const parts = [list];
    if (items.length > FEW_ROWS) {
      const all = button(
        `Show all ${items.length}`,
        () => {
          list.append(...items.slice(FEW_ROWS));
          all.remove();
          items[FEW_ROWS].querySelector("button").focus();
        },
        { class: "quiet" },
      );
      parts.push(all);
    }
    const calibrated = rows.some((row) => row.probability !== null && row.probability !== undefined);
    const ranked = rows.some((row) => row.percentile !== null && row.percentile !== undefined);
    const notes = [];
    if (answer.calibration) notes.push(answer.calibration.sentence);
    if (calibrated)
      notes.push("The mark on a bar is how common the finding was in that data: a probability near it says little.");
    else if (ranked && answer.reference) {
      notes.push(`Rank among the ${answer.reference.n} recordings of ${answer.reference.name}: not a probability.`);
    } else notes.push("Agreement of ECG and words (cosine): not a probability, and not comparable between findings.");
    if (query.task)
      notes.push(
        "Thin line: agreement with each of several wordings; dot: with their mean.",
        "Press a finding to see on the tracing what it depends on.",
      );
    parts.push(el("p", { class: "soft small", text: notes.join(" ") }), this.asTable(rows, title, name));
    return parts;
  }

  item(row, query, place) {
    const { share, text, unit } = score(row);
    const bar = el("span", { class: "track", "aria-hidden": "true" });
    if (share !== null) {
      const fill = el("span", { class: "fill" });
      fill.style.width = `${Math.max(0.5, share * 100)}%`;
      bar.append(fill);
      if (row.share !== null && row.share !== undefined) {
        const mark = el("span", { class: "usual" });
        mark.style.left = `${row.share * 100}%`;
        bar.append(mark);
      }
    }
    const whisker = el("span", { class: "whisker", "aria-hidden": "true" });
    const range = el("span", { class: "range" });
    range.style.left = `${place(row.low ?? row.cosine)}%`;
    range.style.width = `${place(row.high ?? row.cosine) - place(row.low ?? row.cosine)}%`;
    const dot = el("span", { class: "dot" });
    dot.style.left = `${place(row.cosine)}%`;
    whisker.append(range, dot);
    const wordings = wordingsOf(row);
    const title = nameOf(row);
    const press = el(
      "button",
      { type: "button", class: "score", "aria-pressed": "false", title: "Show on the tracing what this depends on" },
      el("span", { class: "name", text: title }),
      el("span", { class: "value" }, el("strong", { text }), unit ? el("span", { class: "unit", text: ` ${unit}` }) : null),
      share === null ? null : bar,
      whisker,
      el(
        "span",
        { class: "soft small wording" },
        row.text && row.text !== title ? `“${row.text}” · ` : "",
        `agreement ${number(row.cosine, 2)}${wordings}`,
      ),
    );
    const item = el("li", {}, press);
    press.addEventListener("click", () =>
      this.explain(item, press, query.task ? { task: query.task, class: row.class } : { words: row.text }),
    );
    const unknown = row.unknown_words ?? [];
    if (unknown.length && query.task) {
      press.append(el("span", { class: "warned small wording", text: `unknown to the model: ${listed(unknown)}` }));
    } else if (unknown.length) {
      const names = listed(unknown.map((word) => `“${word}”`));
      item.append(
        el("p", { class: "note warn", text: `These words are unknown to the model: ${names}. The score ignores them.` }),
      );
    }
    return item;
  }

  asTable(rows, title, name) {
    const columns = [
      { key: "class", title: "Class" },
      { key: "name", title: "Finding" },
      { key: "text", title: "Wording" },
      { key: "probability", title: "Probability", digits: 3 },
      { key: "share", title: "Share in the data", digits: 3 },
      { key: "percentile", title: "Percentile", digits: 1 },
      { key: "cosine", title: "Agreement", digits: 3 },
      { key: "low", title: "Lowest", digits: 3 },
      { key: "high", title: "Highest", digits: 3 },
    ].filter(({ key }) => rows.some((row) => row[key] !== null && row[key] !== undefined));
    const fold = el("details", {}, el("summary", { text: "As a table" }));
    fold.append(table({ caption: title, columns, rows, file: `findings-${name}.csv` }));
    return fold;
  }

  explainNothing() {
    this.chosen?.press.setAttribute("aria-pressed", "false");
    this.chosen?.item.querySelector(".explained")?.remove();
    this.chosen = null;
    this.onexplain(null);
  }

  async explain(item, press, query) {
    const again = this.chosen?.press === press;
    this.explainNothing();
    if (again) return;
    this.chosen = { item, press };
    press.setAttribute("aria-pressed", "true");
    const place = el(
      "div",
      { class: "explained" },
      el("p", { class: "soft", text: "Hiding parts of the ECG, one after the other …" }),
    );
    item.append(place);
    const map = await this.ask(place, "/api/explain", query);
    if (!map || this.chosen?.press !== press) return;
    this.onexplain(map);
    const leads = [...map.leads].sort((a, b) => b.drop - a.drop);
    const most = leads
      .filter((lead) => lead.drop > 0)
      .slice(0, 3)
      .map((lead) => lead.name);
    const doubt = map.is_reliable === false ? " The map is not reliable here: the score barely depends on any part." : "";
    const text = most.length
      ? `The score depends most on ${listed(most)}. The coloured parts of the tracing change it when they are hidden.${doubt}`
      : "No single lead raises this score.";
    place.replaceChildren(
      el("p", { text }),
      el(
        "details",
        {},
        el("summary", { text: "Leads as a table" }),
        table({
          caption: `Change of the agreement when a lead is hidden: ${map.text}`,
          columns: [
            { key: "name", title: "Lead" },
            { key: "drop", title: "Fall", digits: 4 },
          ],
          rows: leads,
          file: "occlusion.csv",
        }),
      ),
    );
    announce(text);
  }
}
