"""Builder for an HTML page in one file that needs no network: headings, paragraphs, tables and figures."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure

from leadwise.files import replacing

IMAGE_WIDTH_PX = 1600  # at most; a page of ten figures stays well below 3 MB
IMAGE_DPI = 127  # five pixels per millimetre, so that the lines of ECG paper fall on whole pixels
WIDE_IN = 9.5  # wider figures have the whole width of the page
LEAST_PX_PER_IN = 64  # a figure in a narrow window scrolls sideways, so that its text stays readable
LONG_TEXT = 60  # characters of a cell; its column stays wide in a narrow window
MANY_COLUMNS = 8  # a table with so many uses the whole width of the window, and its first column stays in view

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

# Titles of columns that sort, and a CSV of each table. The page is whole without it: a printed page has no buttons.
SCRIPT = r"""
for (const [number, table] of [...document.querySelectorAll("table")].entries()) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const text = (cell) => (cell ? cell.innerText.trim() : "");
  const value = (written) => {
    const match = /^[-+\u2212]?\.?\d[\d,]*\.?\d*(e[-+]?\d+)?(?![\w-])/.exec(written);
    return match ? Number(match[0].replace("\u2212", "-").replaceAll(",", "")) : NaN;
  };
  const compared = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (!Number.isNaN(x) && !Number.isNaN(y)) return x - y;
    return a.localeCompare(b, undefined, { numeric: true });
  };
  const empty = (written) => written === "" || written === "\u2013";
  const titles = heads.map(text);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = titles[column];
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const rows = [...body.rows].map((row) => [text(row.cells[column]), row]);
      rows.sort(([a], [b]) => empty(a) - empty(b) || (empty(a) ? 0 : sign * compared(a, b)));
      body.append(...rows.map(([, row]) => row));
    });
    head.replaceChildren(button);
  });
  const quoted = (written) => {
    const safe = /^[=+@\t]/.test(written) || (written[0] === "-" && Number.isNaN(value(written))) ? "'" + written : written;
    return /[",\n]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
  };
  const save = document.createElement("button");
  save.type = "button";
  save.className = "csv";
  save.textContent = "Download CSV";
  save.setAttribute("aria-label", "Download CSV: " + (table.caption ? text(table.caption) : "table " + (number + 1)));
  save.addEventListener("click", () => {
    const lines = [titles, ...[...body.rows].map((row) => [...row.cells].map(text))];
    const content = lines.map((line) => line.map(quoted).join(",")).join("\r\n") + "\r\n";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type: "text/csv" }));
    link.download = "table-" + (number + 1) + ".csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
  table.parentElement.after(save);
}
"""
_SCRIPT_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
SCRIPT_POLICY = f"{POLICY}; script-src 'sha256-{_SCRIPT_HASH}'"  # this script and no other

STYLE = """
:root { color-scheme: light dark; --ink: #16191d; --paper: #ffffff; --soft: #55606c; --rule: #d9dfe6; --band: #f4f7fa;
  --bad: #a3261f; --poor: #7d4a00; --plain: #1c5d99; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5eaf0; --paper: #171c22; --soft: #9eabb8; --rule: #2c343d; --band: #1c222a;
    --bad: #ff9c92; --poor: #ffcb7d; --plain: #7cb8f2; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1rem 3rem; max-width: 68rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .6rem 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
pre { margin: .4rem 0 1rem; padding: .6rem .8rem; overflow-x: auto; background: var(--band); border-radius: 6px;
  font: .82rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }
p { max-width: 44rem; margin: .6rem 0; overflow-wrap: anywhere; }
figure { margin: 1.4rem 0; }
figcaption, caption { color: var(--soft); font-size: .9rem; text-align: left; padding: .4rem 0; }
.scroll { overflow-x: auto; }
.scroll.many { width: max-content; min-width: 100%; max-width: calc(100vw - 2rem);
  position: relative; left: 50%; transform: translateX(-50%); }
.many th { white-space: normal; min-width: 4rem; vertical-align: bottom; }
.many th:first-child, .many td:first-child { position: sticky; left: 0; background: var(--paper); }
.many tbody tr:nth-child(even) td:first-child { background: var(--band); }
.bad, .poor, .plain { font-weight: 600; }
.bad { color: var(--bad); } .poor { color: var(--poor); } .plain { color: var(--plain); }
p.bad { border-left: .3rem solid var(--bad); padding-left: .7rem; }
details { margin: .8rem 0; } summary { cursor: pointer; font-weight: 600; padding: .3rem 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
img.wide { width: 100%; max-width: none; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .8rem .32rem 0; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top; }
th { font-weight: 600; white-space: nowrap; }
th button { font: inherit; color: inherit; text-align: inherit; padding: 0; border: 0; background: none; cursor: pointer; }
th button::after { content: " ↕"; color: var(--soft); }
[aria-sort="ascending"] button::after { content: " ↑"; } [aria-sort="descending"] button::after { content: " ↓"; }
.csv { font: inherit; font-size: .85rem; margin: .3rem 0 1rem; padding: .2rem .6rem; border: 1px solid var(--rule);
  border-radius: 6px; background: none; color: var(--plain); cursor: pointer; }
:focus-visible { outline: 2px solid var(--plain); outline-offset: 2px; }
td span { font-weight: 400; }
.n { text-align: right; white-space: nowrap; }
tbody tr:nth-child(even) { background: var(--band); }
footer { margin-top: 3rem; padding-top: .8rem; border-top: 1px solid var(--rule);
  color: var(--soft); font-size: .85rem; }
@media (max-width: 600px) { th button, .csv { min-height: 2.2rem; } .long { min-width: 15rem; } }
@media print { img { min-width: 0 !important; } .csv, th button::after { display: none; } }
"""


Tone = Literal["bad", "poor", "plain"]  # colours of words: an error, a warning, a note


@dataclass(frozen=True)
class Words:
    """A part of a table cell with its own colour. A cell is a value, or a tuple of these, each on a line of its own."""

    text: str
    tone: Tone | None = None


# a number, and then the end or something that is no part of a word: a hash or an identifier is text
_NUMBER = re.compile(r"[-+−–]?\.?\d[\d.,]*(e[-+]?\d+)?(?![\w])")


class Page:
    """An HTML page that is built from top to bottom and then written to a file.

    The pictures of a section come before its tables, in whatever order they are added.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str] = []
        self._first_table: int | None = None  # of the section: its place in the parts

    def heading(self, text: str, level: Literal[2, 3] = 2) -> None:
        """Add the heading of a section, or with level 3 of a part of one."""
        self._parts.append(f"<h{level}>{html.escape(text)}</h{level}>")
        self._first_table = None

    def text(self, paragraph: str, tone: Tone | None = None) -> None:
        """Add a paragraph of plain text, in the colour of `tone` if it is given."""
        self._parts.append(f"<p{_css_class(tone)}>{html.escape(paragraph)}</p>")

    @contextmanager
    def folded(self, summary: str) -> Iterator[None]:
        """What is added within the context is folded under the line `summary`, until a reader opens it."""
        before = len(self._parts) if self._first_table is None else self._first_table
        self._parts.append(f"<details><summary>{html.escape(summary)}</summary>")
        self._first_table = None
        try:
            yield
        finally:
            self._parts.append("</details>")
            self._first_table = before  # a later picture of the section is not folded

    def table(
        self,
        rows: Sequence[Mapping[str, Any]],
        caption: str = "",
        tones: Mapping[str, Mapping[Any, Tone]] | None = None,
    ) -> None:
        """Add a table with one column per key, in the order of first appearance. Missing cells are empty.

        Args:
            rows: the rows; a cell that is a tuple of Words has a line for each of them.
            caption: the line above the table.
            tones: for a column, the tone of each value that is coloured.
        """
        columns = list(dict.fromkeys(key for row in rows for key in row))
        number = {column: _is_numeric([row.get(column) for row in rows]) for column in columns}
        long = {column: any(_length(row.get(column)) > LONG_TEXT for row in rows) for column in columns}

        def cell(tag: str, column: str, text: str) -> str:
            tone = (tones or {}).get(column, {}).get(text) if tag == "td" else None
            classes = _css_class("n" if number[column] else "long" if long[column] else None, tone)
            return f"<{tag}{classes}>{html.escape(text)}</{tag}>"

        def body_cell(column: str, value: Any) -> str:
            if not _is_words(value):
                return cell("td", column, _formatted(value))
            parts = (f"<span{_css_class(part.tone)}>{html.escape(part.text)}</span>" for part in value)
            return f"<td{_css_class('long' if long[column] else None)}>{'<br>'.join(parts)}</td>"

        head = "".join(cell("th", column, str(column)) for column in columns)
        body = "\n".join(
            "<tr>" + "".join(body_cell(column, row.get(column, "")) for column in columns) + "</tr>" for row in rows
        )
        box = _css_class("scroll", "many" if len(columns) >= MANY_COLUMNS else None)
        above = f"<caption>{html.escape(caption)}</caption>" if caption else ""
        if self._first_table is None:
            self._first_table = len(self._parts)
        self._parts.append(
            f"<div{box}><table>{above}\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
        )

    def figure(self, figure: Figure, caption: str = "", alt: str = "") -> None:
        """Add a figure as an embedded PNG above the tables of the section, without a caption if it is empty.

        `alt` describes the figure for readers who cannot view it.
        """
        width_in = figure.get_figwidth()
        buffer = io.BytesIO()
        dpi = min(IMAGE_DPI, IMAGE_WIDTH_PX / width_in)
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None}, bbox_inches=None)
        data = base64.b64encode(buffer.getvalue()).decode("ascii")
        wide = _css_class("wide" if width_in > WIDE_IN else None)
        least_px = round(LEAST_PX_PER_IN * width_in)
        below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
        picture = (
            f'<figure><div class="scroll"><img{wide} style="min-width: {least_px}px" alt="{html.escape(alt or caption)}" '
            f'src="data:image/png;base64,{data}"></div>\n{below}</figure>'
        )
        if self._first_table is None:
            self._parts.append(picture)
        else:
            self._parts.insert(self._first_table, picture)
            self._first_table += 1

    def preformatted(self, text: str) -> None:
        """Add text with its own line breaks, such as a config."""
        self._parts.append(f'<pre tabindex="0">{html.escape(text.rstrip())}</pre>')

    def html(self) -> str:
        """Return the page as HTML text."""
        title, parts = html.escape(self.title), "\n".join(self._parts)
        has_table = "<table>" in parts
        policy = SCRIPT_POLICY if has_table else POLICY
        script = f"<script>{SCRIPT}</script>\n" if has_table else ""
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{parts}\n"
            "</main>\n<footer>leadwise · research use only, not a medical device</footer>\n"
            f"{script}</body>\n</html>\n"
        )

    def write(self, path: Path) -> None:
        """Write the page as one self-contained file, atomically."""
        with replacing(path) as part:
            part.write_text(self.html(), encoding="utf-8")


def _css_class(*names: str | None) -> str:
    """Return a class attribute with those names that are given, or ''."""
    given = " ".join(filter(None, names))
    return f' class="{given}"' if given else ""


def _is_numeric(values: Sequence[Any]) -> bool:
    """Return whether a column contains numbers, or text that begins with one, such as "0.81 (0.79–0.83)"."""
    if any(map(_is_words, values)):
        return False
    texts = [_formatted(value) for value in values if value is not None and value != ""]
    return bool(texts) and all(text == "–" or _NUMBER.match(text) for text in texts)


def _is_words(value: Any) -> bool:
    """Return whether a cell consists of Words."""
    return isinstance(value, tuple) and all(isinstance(part, Words) for part in value)


def _length(value: Any) -> int:
    """Return the number of characters of the longest line of a cell."""
    return max((len(part.text) for part in value), default=0) if _is_words(value) else len(_formatted(value))


def _formatted(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return "–" if math.isnan(value) else str(value)
    return f"{value:.3f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.3g}"
