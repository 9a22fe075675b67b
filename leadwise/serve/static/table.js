/** Tables that sort by a click on a column's title and that are saved as CSV. */

import { button, download, el, number } from "./dom.js";

const VISIBLE_ROWS = 25; // more are one press away; the CSV always has all

/** Return rows as CSV text. Text that a spreadsheet would run as a formula gets an apostrophe in front. */
export function csv(columns, rows) {
  const quote = (value) => {
    if (value === null || value === undefined) return "";
    let text = String(value);
    if (typeof value !== "number" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = rows.map((row) => columns.map((column) => quote(row[column.key])).join(","));
  return [columns.map((column) => quote(column.title)).join(","), ...lines].join("\r\n") + "\r\n";
}

/** Compare two cells: numbers by size, text by the alphabet, empty cells last in both directions. */
function compared(a, b, descending) {
  const empty = (value) => value === null || value === undefined || value === "" || Number.isNaN(value);
  if (empty(a) || empty(b)) return empty(a) - empty(b);
  const order =
    typeof a === "number" && typeof b === "number"
      ? a - b
      : String(a).localeCompare(String(b), undefined, { numeric: true });
  return descending ? -order : order;
}

/**
 * Return a table element with its CSV button.
 *
 * columns: [{key, title, digits, node}], `digits` for numbers, `node(row)` for a cell that is an element.
 * marked(row): whether a row is highlighted. file: name of the CSV.
 */
export function table({ caption, columns, rows, file, marked = () => false }) {
  const numeric = (column) => rows.some((row) => typeof row[column.key] === "number");
  const body = el("tbody");
  const more = el("p", { class: "soft" });
  let order = [...rows];
  let limit = VISIBLE_ROWS;

  const digitsOf = (column) =>
    column.digits ??
    (rows.every((row) => typeof row[column.key] !== "number" || Number.isInteger(row[column.key])) ? 0 : 2);
  const digits = new Map(columns.map((column) => [column, digitsOf(column)]));
  const cell = (column, row) => {
    const properties = { class: numeric(column) ? "n" : null };
    if (column.node) return el("td", properties, column.node(row));
    const value = row[column.key];
    const text = typeof value === "number" ? number(value, digits.get(column)) : (value ?? "–");
    return el("td", { ...properties, text: text === "" ? "–" : text });
  };
  const fill = () => {
    body.replaceChildren(
      ...order.slice(0, limit).map((row) => {
        const cells = columns.map((column) => cell(column, row));
        return el("tr", { class: marked(row) ? "marked" : null }, cells);
      }),
    );
    more.replaceChildren();
    if (order.length > limit) {
      more.append(
        `${limit} of ${order.length} rows. `,
        button("Show more", () => ((limit *= 4), fill()), { class: "quiet" }),
      );
    }
  };

  const heads = columns.map((column) => {
    const head = el("th", { scope: "col", class: numeric(column) ? "n" : null });
    if (column.node && column.key === undefined) {
      head.append(column.title);
      return head;
    }
    const sort = () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      order = [...rows].sort((a, b) => compared(a[column.key], b[column.key], descending));
      fill();
    };
    head.append(button(column.title, sort, { class: "sort" }));
    return head;
  });
  fill();

  const save = button(
    "Download CSV",
    () =>
      download(
        file,
        csv(
          columns.filter((column) => column.key !== undefined),
          rows,
        ),
      ),
    {
      class: "quiet",
      "aria-label": `Download CSV: ${caption}`,
    },
  );
  const grid = el("table", {}, el("caption", { text: caption }), el("thead", {}, el("tr", {}, heads)), body);
  const scroll = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, grid);
  return el("div", { class: "table" }, scroll, more, el("p", { class: "below" }, save));
}
