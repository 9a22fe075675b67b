"""Figure of an ECG on millimetre paper: 25 mm/s, 10 mm/mV, three rows of four leads and a rhythm strip.

All geometry is in millimetres of paper, so that a print at 100 % is to scale (it fits A4 and US Letter, landscape). The
columns are consecutive in time: I, II, III cover the first 2.5 s, aVR, aVL, aVF the next 2.5 s, and so on; the strip covers
10 s. Each lead is centred on its median, roughly as an electrocardiograph's high-pass filter does.

A recording shorter than 8 s has another layout, because a lead needs at least 2 s: up to 5 s, every lead is drawn over the
whole recording; from 5 to 8 s, six leads have the first half and six the second.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from leadwise.batch import LEADS
from leadwise.pictures import heat as heat_colours
from leadwise.pictures.ink import GREY, INK, blank

SPEED_MM_PER_S = 25.0
GAIN_MM_PER_MV = 10.0
DURATION_S = 10.0

PULSE_MM = 10.0  # space to the left of the traces for the calibration pulse
GRID_MM = (PULSE_MM + SPEED_MM_PER_S * DURATION_S, 160.0)
MARGIN_MM = 8.0  # left and right of the grid
FOOTER_MM = 14.0
TITLE_MM = 5.0  # a line of the title
NOTE_MM = 3.6  # a line of notes
LEGEND_MM = 5.0
MIN_ROW_MM = 12.0  # of a row above and below its zero line, whatever its neighbours need
OVERLAP_MM = 10.0  # how far a tall deflection may reach into the next row before it is cut off, as on a printed ECG
ARTEFACT_MV = 5.0  # larger samples are artefacts: they are cut off, and their row does not grow for them

PAPER = "#fffafa"
FINE = "#fbdcdf"
BOLD = "#f0a9b1"
HIDDEN = "#9cc9ea"
REBUILT = "#0057b8"
SYNTHETIC = "#b34700"  # leads that a model made
CUT = "#b3261e"


@dataclass(frozen=True)
class _PaperLayout:
    """The arrangement of the twelve leads. LEADS fill the columns one after the other: I II III | aVR aVL aVF | ..."""

    n_columns: int
    column_s: float  # how much of a lead is drawn
    pitch_s: float  # distance of two columns on the paper
    consecutive: bool  # each column begins where the one before it ends; otherwise all begin at 0 s
    strip_s: float  # duration of the rhythm strip below the leads; 0: there is none

    @property
    def n_lead_rows(self) -> int:
        return len(LEADS) // self.n_columns

    @property
    def n_rows(self) -> int:
        return self.n_lead_rows + bool(self.strip_s)

    def describe(self) -> str:
        """Return the part of the footer that states which time a lead is drawn for."""
        if not self.consecutive:
            return f"every lead from 0 s to {self.column_s:.3g} s"
        return f"columns of {self.column_s:.3g} s, one after the other in time"


def _layout(duration_s: float) -> _PaperLayout:
    """Return the layout for a recording: as many consecutive columns as leave each lead 2 s, or all leads in full."""
    if duration_s >= 8.0:
        column_s = min(duration_s, DURATION_S) / 4
        return _PaperLayout(4, column_s, column_s, consecutive=True, strip_s=4 * column_s)
    if duration_s > DURATION_S / 2:
        return _PaperLayout(2, duration_s / 2, duration_s / 2, consecutive=True, strip_s=duration_s)
    n_columns = 4 if duration_s <= DURATION_S / 4 else 2
    return _PaperLayout(n_columns, duration_s, DURATION_S / n_columns, consecutive=False, strip_s=0.0)


@dataclass(frozen=True)
class _Trace:
    """The first ten seconds of a lead, (n,) mV minus its median, NaN where not observed."""

    mv: NDArray[np.float64]
    hidden: NDArray[np.bool_]
    rebuilt: NDArray[np.float64] | None  # NaN where nothing is drawn
    heat: NDArray[np.float64] | None = None  # in [-1, 1], NaN where unknown
    is_synthetic: bool = False
    band: NDArray[np.float64] | None = None  # (2, n) lower and upper edge, on the scale of `mv`


@dataclass(frozen=True)
class _Cell:
    """The position of a lead on the paper."""

    lead: str
    row: int
    start_s: float
    stop_s: float
    left_s: float  # where it begins on the paper, as time from the left end of the traces
    trace: _Trace | None  # None: not recorded
    is_strip: bool = False

    def window(self, rate_hz: float) -> slice:
        """Return the samples that the cell contains."""
        return slice(math.ceil(self.start_s * rate_hz - 1e-9), math.ceil(self.stop_s * rate_hz - 1e-9))


@dataclass(frozen=True)
class _Row:
    """Vertical positions of a row on the grid, in mm from its lower edge."""

    bottom_mm: float
    zero_mm: float
    top_mm: float

    @property
    def reach_mm(self) -> tuple[float, float]:
        """The lowest and highest position at which a trace of this row may be drawn."""
        return max(0.0, self.bottom_mm - OVERLAP_MM), min(GRID_MM[1], self.top_mm + OVERLAP_MM)


def draw(
    ecg: NDArray[Any],
    rate_hz: float,
    leads: Sequence[str],
    *,
    title: str = "",
    notes: Sequence[str] = (),
    observed: NDArray[Any] | None = None,
    hidden: NDArray[Any] | None = None,
    reconstruction: NDArray[Any] | None = None,
    heat: NDArray[Any] | None = None,
    synthetic: Sequence[str] = (),
    band: tuple[NDArray[Any], NDArray[Any]] | None = None,
) -> Figure:
    """Return a figure, to scale in millimetres, of the first 10 s of `ecg` (L, T) in mV with the lead names `leads`.

    Leads are placed by name. The name of a lead that is absent or nowhere observed is grey. The layout depends on the time
    that is observed in any lead.

    Args:
        title: printed in bold above the grid, with duration and sampling rate beside it.
        notes: lines below the title; notes on what is recorded and not drawn, and on deflections that were cut off, are
            added.
        observed: (L, T); samples where it is false, or where `ecg` is NaN, are hatched.
        hidden: (L, T); samples that were hidden from a model are shaded.
        reconstruction: (L, T) mV; drawn over the hidden samples, or everywhere if `hidden` is not given.
        heat: (L, T); colours the paper behind the traces, strongest where it is furthest from 0.
        synthetic: names of the leads that a model made; they have another colour, and "synthetic" beside their name.
        band: the lower and the upper edge of an uncertainty band, (L, T) mV each; drawn behind synthetic leads.

    Raises:
        ValueError: the shapes do not agree, a lead is named twice, or the sampling rate is not positive.
    """
    # check the input
    ecg = np.asarray(ecg, dtype=np.float64)
    names = _names(ecg, rate_hz, leads)
    low, high = (None, None) if band is None else band
    arrays = {"observed": observed, "hidden": hidden, "reconstruction": reconstruction, "heat": heat}
    for what, array in {**arrays, "band": low, "the upper edge of band": high}.items():
        if array is not None and np.shape(array) != ecg.shape:
            raise ValueError(f"{what} has shape {np.shape(array)} but ecg has {ecg.shape}; they must agree")
    # the traces by lead name, and their positions on the paper
    real = np.isfinite(ecg) if observed is None else np.isfinite(ecg) & np.asarray(observed, dtype=bool)
    duration_s = ecg.shape[1] / rate_hz
    observed_s = _observed_s(real, rate_hz)
    layout = _layout(observed_s if observed_s < 8.0 else duration_s)
    n = min(ecg.shape[1], math.ceil(DURATION_S * rate_hz - 1e-9))
    relative_heat = None if heat is None else heat_colours.relative(heat)
    traces: dict[str, _Trace | None] = {}
    for position, name in enumerate(names):
        mask = None if hidden is None else np.asarray(hidden[position, :n], dtype=bool)
        rebuilt = None if reconstruction is None else np.asarray(reconstruction[position, :n], dtype=np.float64)
        trace = _trace(np.where(real[position, :n], ecg[position, :n], np.nan), mask, rebuilt)
        lead_heat = None if relative_heat is None else relative_heat[position, :n]
        if trace is not None and name in synthetic:
            trace = replace(trace, is_synthetic=True, band=_band(ecg[position, :n], low, high, position))
        traces[name] = None if trace is None else replace(trace, heat=lead_heat)
    cells = _cells(traces, layout)
    rows = _rows(cells, layout.n_rows, rate_hz)
    recorded = [name for name, samples in zip(names, real) if samples.any()]
    lines = [
        *notes,
        *_left_out(duration_s, observed_s, cells, names),
        *_not_in_its_cell(cells, recorded, rate_hz),
        *_cut_off(cells, rows, rate_hz),
    ]

    # draw
    figure, grid = _sheet(title, lines, duration_s, rate_hz, layout, _needs_legend(cells, rows, rate_hz))
    for number, row in enumerate(rows):
        _draw_pulse(grid, row, number)
    for cell in cells:
        _draw_cell(grid, cell, rows[cell.row], rate_hz)
    _draw_legend(figure, grid)
    return figure


def _observed_s(real: NDArray[np.bool_], rate_hz: float) -> float:
    """Return the time from the beginning to the last sample that is observed in any lead; the whole time if none is."""
    at = np.flatnonzero(real.any(axis=0))
    return float((at[-1] + 1 if at.size else real.shape[1]) / rate_hz)


def _names(ecg: NDArray[np.float64], rate_hz: float, leads: Sequence[str]) -> list[str]:
    """Return the lead names in standard spelling, after checking that they fit the array."""
    if ecg.ndim != 2 or ecg.shape[0] != len(leads) or ecg.shape[1] == 0:
        raise ValueError(f"ecg has shape {ecg.shape} but {len(leads)} leads are named; it must be ({len(leads)}, T)")
    if not (math.isfinite(rate_hz) and rate_hz > 0):
        raise ValueError(f"rate_hz is {rate_hz}; it must be positive")
    spelling = {lead.lower(): lead for lead in LEADS}
    names = [spelling.get(lead.strip().lower(), lead.strip()) for lead in leads]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"lead {', '.join(twice)} is named more than once in {list(leads)}")
    return names


def _trace(
    mv: NDArray[np.float64], hidden: NDArray[np.bool_] | None, rebuilt: NDArray[np.float64] | None
) -> _Trace | None:
    """Return the trace minus its median, or None if no sample was observed."""
    if not np.isfinite(mv).any():
        return None
    median = float(np.nanmedian(mv))
    if rebuilt is not None:
        visible = rebuilt if hidden is None else np.where(hidden, rebuilt, np.nan)
        rebuilt = np.where(np.isfinite(visible), visible - median, np.nan)
    return _Trace(mv - median, np.zeros(len(mv), dtype=bool) if hidden is None else hidden, rebuilt)


def _band(
    mv: NDArray[np.float64], low: NDArray[Any] | None, high: NDArray[Any] | None, position: int
) -> NDArray[np.float64] | None:
    """Return the edges (2, n) of a lead's band minus the lead's median; None without a band."""
    if low is None or high is None:
        return None
    edges = np.stack([np.asarray(edge[position, : len(mv)], dtype=np.float64) for edge in (low, high)])
    return edges - float(np.nanmedian(mv))


def _cells(traces: dict[str, _Trace | None], layout: _PaperLayout) -> list[_Cell]:
    """Return the positions of the twelve leads and of the rhythm strip: lead II, or the first observed lead."""
    cells = []
    for position, lead in enumerate(LEADS):
        column, row = divmod(position, layout.n_lead_rows)
        start_s = column * layout.column_s if layout.consecutive else 0.0
        stop_s = start_s + layout.column_s
        cells.append(_Cell(lead, row, start_s, stop_s, column * layout.pitch_s, traces.get(lead)))
    if not layout.strip_s:
        return cells
    present = [lead for lead, trace in traces.items() if trace is not None]
    strip = "II" if "II" in present or not present else present[0]
    return [*cells, _Cell(strip, layout.n_lead_rows, 0.0, layout.strip_s, 0.0, traces.get(strip), is_strip=True)]


def _rows(cells: list[_Cell], n_rows: int, rate_hz: float) -> list[_Row]:
    """Return the rows from top to bottom, of equal height if the deflections fit, else higher for large deflections."""
    # the height that each row needs above and below its zero line
    least_mm = min(MIN_ROW_MM, 0.8 * GRID_MM[1] / (2 * n_rows))
    needs = np.full((n_rows, 2), least_mm)  # (row, above and below the zero line) mm
    for cell in cells:
        if cell.trace is not None:
            mv = cell.trace.mv[cell.window(rate_hz)]
            mv = mv[np.abs(mv) <= ARTEFACT_MV]  # removes NaN as well
            reach_mm = np.array([mv.max(initial=0.0), -mv.min(initial=0.0)]) * GAIN_MM_PER_MV + 1.0
            needs[cell.row] = np.maximum(needs[cell.row], reach_mm)
    # equal heights if all fit, else let deflections reach into the next row as far as necessary
    height_mm = GRID_MM[1]
    if needs.max() <= height_mm / needs.size:
        needs[:] = height_mm / needs.size
    relief = np.minimum(OVERLAP_MM, needs - least_mm)  # height that reaching into the next row can save
    relief[0, 0] = relief[-1, 1] = 0.0  # no row above the first, none below the strip
    if relief.any():
        needs -= relief * np.clip((needs.sum() - height_mm) / relief.sum(), 0.0, 1.0)
    # share out what is left, or shrink all rows in proportion
    spare_mm = height_mm - needs.sum()
    if spare_mm >= 0:
        needs += spare_mm / needs.size
    else:
        above_least = needs - least_mm
        needs = least_mm + above_least * (height_mm - least_mm * needs.size) / above_least.sum()
    edges = height_mm - np.rint(np.concatenate([[0.0], np.cumsum(needs)]))  # top, zero, bottom = top, zero, bottom ...
    return [_Row(*map(float, edges[2 * row : 2 * row + 3][::-1])) for row in range(n_rows)]


def _left_out(duration_s: float, observed_s: float, cells: list[_Cell], names: list[str]) -> list[str]:
    """Return notes on the time and the leads that have no place on the paper."""
    notes = []
    if duration_s > DURATION_S + 1e-6:
        notes.append(f"Only the first {DURATION_S:g} s of {duration_s:.4g} s are drawn.")
    if observed_s < 8.0 and observed_s < duration_s:
        notes.append(
            f"Not drawn, because no lead is observed after {observed_s:.4g} s: the rest of {duration_s:.4g} s."
        )
    unplaced = [name for name in names if name not in {cell.lead for cell in cells}]
    if unplaced:
        notes.append(f"Not drawn, because the standard layout has no position for them: {', '.join(unplaced)}.")
    return notes


def _not_in_its_cell(cells: list[_Cell], recorded: list[str], rate_hz: float) -> list[str]:
    """Return a note on leads that are recorded, but not at the time for which they are drawn."""
    absent = []
    for cell in cells:
        mv = None if cell.trace is None else cell.trace.mv[cell.window(rate_hz)]
        if not cell.is_strip and cell.lead in recorded and (mv is None or not np.isfinite(mv).any()):
            absent.append(cell.lead)
    return [f"Recorded, but not at the time that is drawn here: {', '.join(absent)}."] if absent else []


def _cut_off(cells: list[_Cell], rows: list[_Row], rate_hz: float) -> list[str]:
    peaks: dict[str, float] = {}
    for cell in cells:
        if cell.trace is None:
            continue
        mv = cell.trace.mv[cell.window(rate_hz)]
        outside = mv[_outside(mv, rows[cell.row])]
        if outside.size:
            worst = float(outside[np.argmax(np.abs(outside))])
            peaks[cell.lead] = max(worst, peaks.get(cell.lead, 0.0), key=abs)
    if not peaks:
        return []
    tallest = ", ".join(f"{lead} ({mv:+.1f} mV)".replace("-", "−") for lead, mv in peaks.items())
    return [f"Cut off at the edge of their row: {tallest}."]


def _outside(mv: NDArray[np.float64], row: _Row) -> NDArray[np.bool_]:
    height_mm = row.zero_mm + GAIN_MM_PER_MV * mv
    lowest_mm, highest_mm = row.reach_mm
    return (height_mm < lowest_mm) | (height_mm > highest_mm)  # false for NaN


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return begin and end (exclusive) of every stretch where `mask` is true."""
    steps = np.diff(np.concatenate([[0], mask.astype(np.int8), [0]]))
    return list(zip(np.flatnonzero(steps == 1).tolist(), np.flatnonzero(steps == -1).tolist(), strict=True))


def _needs_legend(cells: list[_Cell], rows: list[_Row], rate_hz: float) -> bool:
    """Return whether anything besides plain traces will be drawn."""
    for cell in cells:
        if cell.trace is None:
            continue
        window = cell.window(rate_hz)
        mv = cell.trace.mv[window]
        marked = ~np.isfinite(mv) | cell.trace.hidden[window] | _outside(mv, rows[cell.row])
        if marked.any() or cell.trace.rebuilt is not None or cell.trace.heat is not None or cell.trace.is_synthetic:
            return True
    return False


def _sheet(
    title: str, notes: list[str], duration_s: float, rate_hz: float, layout: _PaperLayout, has_legend: bool
) -> tuple[Figure, Axes]:
    """Return the empty paper: the figure, and its grid as axes in millimetres."""
    # the size of the page: the header has lines for title, notes and legend, and no others
    titles = textwrap.wrap(title, 95)
    lines = [line for note in notes for line in textwrap.wrap(note, 175, subsequent_indent="    ")]
    text_mm = 8.0 + TITLE_MM * max(0, len(titles) - 1) + NOTE_MM * len(lines) + (1.0 if lines else 0.0)
    header_mm = float(math.ceil(text_mm + 3.0 + (LEGEND_MM if has_legend else 0.0)))
    width_mm, height_mm = GRID_MM[0] + 2 * MARGIN_MM, header_mm + GRID_MM[1] + FOOTER_MM
    figure = blank((width_mm + 1e-6) / 25.4, (height_mm + 1e-6) / 25.4)  # pixels are rounded down, so slightly more

    def write(x_mm: float, down_mm: float, text: str, **style: Any) -> None:
        figure.text(x_mm / width_mm, 1 - down_mm / height_mm, text, parse_math=False, **style)

    # title, notes and footer
    for number, line in enumerate(titles):
        write(MARGIN_MM, 8.0 + TITLE_MM * number, line, fontsize=11, fontweight="bold", color=INK)
    write(width_mm - MARGIN_MM, 8.0, f"{duration_s:.4g} s at {rate_hz:g} Hz", fontsize=9, color=INK, ha="right")
    first_mm = 8.0 + TITLE_MM * max(0, len(titles) - 1) + NOTE_MM + 1.0
    for number, line in enumerate(lines):
        write(MARGIN_MM, first_mm + NOTE_MM * number, line, fontsize=7.5, color="#4a4a52")
    scale = f"{SPEED_MM_PER_S:g} mm/s   {GAIN_MM_PER_MV:g} mm/mV   {rate_hz:g} Hz"
    footer = f"{scale}   each lead centred on its median   {layout.describe()}"
    write(MARGIN_MM, height_mm - 6.0, footer, fontsize=7.5, color=INK)
    disclaimer = "research use only, not a medical device"
    write(width_mm - MARGIN_MM, height_mm - 6.0, disclaimer, fontsize=7.5, color=INK, ha="right")

    # the grid
    box = (MARGIN_MM / width_mm, FOOTER_MM / height_mm, GRID_MM[0] / width_mm, GRID_MM[1] / height_mm)
    grid = figure.add_axes(box, xlim=(0.0, GRID_MM[0]), ylim=(0.0, GRID_MM[1]), facecolor=PAPER)
    grid.set_axis_on()
    grid.set(xticks=[], yticks=[])
    for spine in grid.spines.values():
        spine.set(color=BOLD, linewidth=0.7)
    for step_mm, colour, width_pt, depth in ((1, FINE, 0.28, 0.1), (5, BOLD, 0.5, 0.2)):
        across = [[(x, 0.0), (x, GRID_MM[1])] for x in np.arange(0.0, GRID_MM[0] + 1, step_mm)]
        along = [[(0.0, y), (GRID_MM[0], y)] for y in np.arange(0.0, GRID_MM[1] + 1, step_mm)]
        lines_mm = LineCollection(across + along, colors=colour, linewidths=width_pt, zorder=depth)
        lines_mm.set_gid(f"grid-{step_mm}mm")
        grid.add_collection(lines_mm, autolim=False)
    return figure, grid


def _draw_pulse(grid: Axes, row: _Row, number: int) -> None:
    """Draw the calibration pulse at the left of a row: 1 mV for 200 ms."""
    left, right = (PULSE_MM - 0.2 * SPEED_MM_PER_S) / 2, (PULSE_MM + 0.2 * SPEED_MM_PER_S) / 2
    x = [1.0, left, left, right, right, PULSE_MM - 1.0]
    y = row.zero_mm + GAIN_MM_PER_MV * np.array([0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    grid.plot(x, y, color=INK, linewidth=0.8, solid_joinstyle="miter", gid=f"calibration-{number}", zorder=3)


def _draw_cell(grid: Axes, cell: _Cell, row: _Row, rate_hz: float) -> None:
    """Draw a lead at its position: name, gaps, hidden patches, trace, reconstruction, marks where it was cut off."""
    # the name
    place = "strip" if cell.is_strip else cell.lead
    left_mm = PULSE_MM + SPEED_MM_PER_S * cell.left_s
    if cell.left_s > 0:  # the bar between two leads
        grid.plot([left_mm] * 2, [row.zero_mm - 2, row.zero_mm + 2], color=INK, linewidth=0.7, zorder=3)
    style: dict[str, Any] = {"fontsize": 9, "va": "top", "parse_math": False, "zorder": 6}
    style["bbox"] = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
    if cell.trace is None:
        text = f"{cell.lead}  not recorded"
        grid.text(left_mm + 1.5, row.top_mm - 2.0, text, color=GREY, gid=f"absent-{place}", **style)
        return
    colour = SYNTHETIC if cell.trace.is_synthetic else INK
    name = f"{cell.lead} synthetic" if cell.trace.is_synthetic else cell.lead
    grid.text(left_mm + 1.5, row.top_mm - 2.0, name, color=colour, fontweight="bold", gid=f"name-{place}", **style)

    # what is behind the trace: heat, gaps and hidden patches
    window = cell.window(rate_hz)
    mv = cell.trace.mv[window]
    x_mm = left_mm + SPEED_MM_PER_S * ((window.start + np.arange(len(mv))) / rate_hz - cell.start_s)
    sample_mm = SPEED_MM_PER_S / rate_hz
    lowest_mm, highest_mm = row.reach_mm
    band = (row.bottom_mm + 1.0, row.top_mm - row.bottom_mm - 2.0)
    if cell.trace.heat is not None:
        heat_colours.paint(grid, x_mm, sample_mm, band, cell.trace.heat[window], gid=f"heat-{place}")

    def shade(mask: NDArray[np.bool_], **style: Any) -> None:
        stretches = [(x_mm[first], (past - first) * sample_mm) for first, past in _runs(mask)]
        if stretches:
            grid.broken_barh(stretches, band, **style)

    shade(~np.isfinite(mv), facecolor="#ececef", edgecolor="#c4c4ca", hatch="////", linewidth=0, gid=f"gap-{place}")
    shade(cell.trace.hidden[window], facecolor=HIDDEN, alpha=0.38, linewidth=0, gid=f"hidden-{place}", zorder=1)

    # the trace, its reconstruction and the marks where it was cut off
    def line(values: NDArray[np.float64], **style: Any) -> None:
        y_mm = np.clip(row.zero_mm + GAIN_MM_PER_MV * values, lowest_mm, highest_mm)
        grid.plot(x_mm, y_mm, solid_joinstyle="round", **style)

    if cell.trace.band is not None:
        edges_mm = np.clip(row.zero_mm + GAIN_MM_PER_MV * cell.trace.band[:, window], lowest_mm, highest_mm)
        grid.fill_between(x_mm, *edges_mm, color=SYNTHETIC, alpha=0.25, linewidth=0, gid=f"band-{place}", zorder=3)
    line(
        mv, color=colour, linewidth=0.8, gid=f"{'synthetic' if cell.trace.is_synthetic else 'trace'}-{place}", zorder=4
    )
    if cell.trace.rebuilt is not None:
        line(cell.trace.rebuilt[window], color=REBUILT, linewidth=0.95, gid=f"reconstruction-{place}", zorder=5)
    for sign, edge_mm, marker in ((1, highest_mm - 0.8, "^"), (-1, lowest_mm + 0.8, "v")):
        tips = [x_mm[first:past].mean() for first, past in _runs(_outside(mv, row) & (sign * mv > 0))]
        if tips:
            marker_style: dict[str, Any] = {"color": CUT, "markersize": 4, "linestyle": "none", "zorder": 7}
            grid.plot(tips, [edge_mm] * len(tips), marker=marker, gid=f"cut-{place}-{marker}", **marker_style)


def _draw_legend(figure: Figure, grid: Axes) -> None:
    """Draw the legend above the grid, with an entry for everything drawn besides the plain trace."""
    gids = " ".join(artist.get_gid() or "" for artist in grid.get_children())
    handles: list[Artist] = []
    if "gap-" in gids:
        handles.append(Patch(facecolor="#ececef", edgecolor="#c4c4ca", hatch="////", linewidth=0, label="not observed"))
    if "cut-" in gids:
        handles.append(Line2D([], [], color=CUT, marker="^", markersize=4, linestyle="none", label="cut off"))
    if "reconstruction-" in gids or ("synthetic-" in gids and "trace-" in gids):
        handles.append(Line2D([], [], color=INK, linewidth=0.8, label="recorded"))
    if "synthetic-" in gids:
        handles.append(Line2D([], [], color=SYNTHETIC, linewidth=1.2, label="synthetic: made by a model, not recorded"))
    if "band-" in gids:
        handles.append(Patch(facecolor=SYNTHETIC, alpha=0.25, linewidth=0, label="band of several draws"))
    if "hidden-" in gids:
        handles.append(Patch(facecolor=HIDDEN, alpha=0.38, linewidth=0, label="hidden from the model"))
    if "reconstruction-" in gids:
        handles.append(Line2D([], [], color=REBUILT, linewidth=1.2, label="reconstructed"))
    if "heat-" in gids:
        handles += heat_colours.handles()
    if handles:
        corner = (grid.get_position().x1, grid.get_position().y1)
        style: dict[str, Any] = {"loc": "lower right", "borderaxespad": 0.2, "borderpad": 0.2, "labelcolor": INK}
        figure.legend(handles=handles, ncols=len(handles), bbox_to_anchor=corner, frameon=False, fontsize=7.5, **style)
