/** Recordings that are selected on the map: the form that selects without a pointer, and the table of the selected. */

import { announce, button, choice, el, newId } from "./dom.js";
import { openRecording } from "./neighbours.js";
import { table } from "./table.js";

/**
 * Fill the form: by value, by a range of numbers, or what is in view.
 *
 * select(test or null), selectView(), onlimits([low, high]): what its buttons do.
 */
export function fillPicker(place, colouring, { select, selectView, onlimits }) {
  const parts =
    colouring.column.kind === "category" ? byValue(colouring, select) : byRange(colouring, select, onlimits);
  place.replaceChildren(
    el("h3", { text: "Select" }),
    ...parts,
    el(
      "div",
      { class: "row" },
      button("Select what is in view", selectView),
      button("Clear selection", () => select(null)),
    ),
  );
}

function byValue({ column, byCount }, select) {
  const values = choice(
    column.title,
    byCount.map((group) => [String(group.code), `${group.name} (${group.n})`]),
    String(byCount[0]?.code),
    () => {},
  );
  const take = () => select((i) => column.codes[i] === Number(values.select.value));
  return [el("div", { class: "row" }, values.label, button("Select class", take))];
}

function byRange({ column, extent }, select, onlimits) {
  const [low, high] = extent.map((value, side) => {
    const id = newId("limit");
    const input = el("input", { id, type: "number", step: "any", value: String(Math.round(value * 100) / 100) });
    const title = el("span", { text: side ? "to" : `${column.title} from` });
    return { input, label: el("label", { class: "field", for: id }, title, input) };
  });
  const bounds = () => [Number(low.input.value), Number(high.input.value)];
  const take = () => {
    const [from, to] = bounds();
    select((i) => column.values[i] >= from && column.values[i] <= to);
  };
  return [
    el("div", { class: "row" }, low.label, high.label),
    el(
      "div",
      { class: "row" },
      button("Show only these", () => onlimits(bounds())),
      button("Select these", take),
    ),
  ];
}

const cellOf = (column, i) => {
  if (column.kind === "category") return column.names[column.codes[i]] ?? "";
  return Number.isNaN(column.values[i]) ? null : Number(column.values[i].toPrecision(6));
};

/** Fill the table of the chosen points; null: there is no selection. */
export function fillSelected(place, points, chosen) {
  place.hidden = chosen === null;
  if (chosen === null) {
    announce("Selection cleared");
    return;
  }
  const rows = chosen.map((i) => ({
    row: points.rows[i],
    record: points.records?.[i],
    ...Object.fromEntries(points.columns.map((column) => [column.key, cellOf(column, i)])),
  }));
  const open = (row) =>
    button("Open", () => openRecording(row.row, row.record ?? `recording ${row.row}`), {
      class: "quiet",
      "aria-label": `Open recording ${row.record ?? row.row}`,
    });
  const columns = [
    { title: "Tracing", node: open },
    ...(points.records ? [{ key: "record", title: "Recording" }] : []),
    { key: "row", title: "Row" },
    ...points.columns.map(({ key, title }) => ({ key, title })),
  ];
  const caption = `${rows.length} selected recordings`;
  place.replaceChildren(
    el("h2", { text: caption, tabindex: "-1" }),
    table({ caption, columns, rows, file: "selected.csv" }),
  );
  announce(caption);
}
