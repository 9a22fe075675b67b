"""Pictures are to scale, mark what is missing, do not change pyplot's state, and pages work offline."""

from __future__ import annotations

import html.parser
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from page_order import assert_pictures_first

from leadwise.batch import LEADS
from leadwise.files import replacing
from leadwise.pages.html import SCRIPT, Page
from leadwise.pictures import (
    bars,
    curves,
    ink,
    paper,
    reliability,
    scatter,
    score_curves,
)

RATE_HZ = 500


def heartbeats(duration_s: float = 10.0, rate_hz: float = RATE_HZ) -> np.ndarray:
    """(12, T) mV: a 1.2 mV spike and a broad 0.3 mV wave per second, a little different in each lead."""
    t = np.arange(round(duration_s * rate_hz)) / rate_hz
    beat = 1.2 * np.exp(-(((t % 1 - 0.4) / 0.012) ** 2)) + 0.3 * np.exp(-(((t % 1 - 0.65) / 0.05) ** 2))
    return np.stack([(1 - 0.05 * lead) * beat for lead in range(12)])


def artists(figure: Figure, gid: str) -> list:
    """The artists whose name begins with `gid`."""
    return [artist for artist in figure.axes[0].get_children() if (artist.get_gid() or "").startswith(gid)]


def only(figure: Figure, gid: str):
    (artist,) = (artist for artist in figure.axes[0].get_children() if artist.get_gid() == gid)
    return artist


def on_paper_mm(figure: Figure, line) -> np.ndarray:
    """(n, 2) positions of a line's points on the printed page, mm from its lower left corner."""
    return figure.axes[0].transData.transform(np.column_stack(line.get_data())) / figure.dpi * 25.4


def texts(figure: Figure) -> str:
    inside = [text.get_text() for axes in figure.axes for text in axes.texts]
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return "\n".join([text.get_text() for text in figure.texts] + inside + legends)


# ---- the paper ----


@pytest.mark.parametrize("rate_hz", [100, 257, 500, 1000])
def test_one_second_is_25_mm_and_one_millivolt_10_mm(rate_hz: float) -> None:
    ecg = np.zeros((12, round(10 * rate_hz)))
    first, second = round(0.5 * rate_hz), round(1.5 * rate_hz)
    ecg[0, first] = ecg[0, second] = 1.0
    figure = paper.draw(ecg, rate_hz, LEADS)
    place = on_paper_mm(figure, only(figure, "trace-I"))
    tips = place[[first, second]]
    assert tips[1, 0] - tips[0, 0] == pytest.approx(25.0 * (second - first) / rate_hz, abs=1e-6)
    np.testing.assert_allclose(tips[:, 1] - place[0, 1], 10.0, atol=1e-6)
    strip = on_paper_mm(figure, only(figure, "trace-strip"))
    assert strip[-1, 0] - strip[0, 0] == pytest.approx(25.0 * (10 - 1 / rate_hz), abs=1e-6)


def test_each_row_has_a_calibration_pulse_of_200_ms_by_1_mv() -> None:
    figure = paper.draw(heartbeats(), RATE_HZ, LEADS)
    pulses = artists(figure, "calibration-")
    assert len(pulses) == 4
    for pulse, lead in zip(pulses, ("I", "II", "III", "strip")):
        place = on_paper_mm(figure, pulse)
        assert np.ptp(place[:, 1]) == pytest.approx(10.0, abs=1e-6)
        top = place[place[:, 1] > place[0, 1] + 5, 0]
        assert np.ptp(top) == pytest.approx(5.0, abs=1e-6)
        zero_mm = np.median(on_paper_mm(figure, only(figure, f"trace-{lead}"))[:, 1])
        assert place[0, 1] == pytest.approx(zero_mm, abs=0.2)  # on the zero line of its row


def test_grid_lines_are_one_and_five_millimetres_apart() -> None:
    figure = paper.draw(heartbeats(), RATE_HZ, LEADS)
    for step_mm in (1, 5):
        lines = np.array(only(figure, f"grid-{step_mm}mm").get_segments())  # (n, 2 ends, 2)
        place = figure.axes[0].transData.transform(lines.reshape(-1, 2)).reshape(lines.shape) / figure.dpi * 25.4
        upright = np.unique(place[place[:, 0, 0] == place[:, 1, 0]][:, 0, 0].round(6))
        level = np.unique(place[place[:, 0, 1] == place[:, 1, 1]][:, 0, 1].round(6))
        np.testing.assert_allclose(np.diff(upright), step_mm, atol=1e-5)
        np.testing.assert_allclose(np.diff(level), step_mm, atol=1e-5)
        assert len(upright) == 260 // step_mm + 1


def test_png_has_ten_pixels_a_millimetre(tmp_path: Path) -> None:
    figure = paper.draw(heartbeats(), RATE_HZ, LEADS)
    ink.save(figure, tmp_path / "ecg.png")
    pixels = imread(tmp_path / "ecg.png")
    width_mm, height_mm = figure.get_size_inches() * 25.4
    assert pixels.shape[:2] == (round(height_mm * 10), round(width_mm * 10)) == (1850, 2760)
    assert [path.name for path in tmp_path.iterdir()] == ["ecg.png"]  # no temporary file stays


def test_standard_columns_show_consecutive_quarters_by_name() -> None:
    ecg = np.zeros((12, 5000))
    for lead in range(12):
        ecg[lead] = np.linspace(0, 0.1 * (lead + 1), 5000)
    shuffled = np.random.default_rng(0).permutation(12)
    figure = paper.draw(ecg[shuffled], RATE_HZ, [LEADS[i].lower() for i in shuffled])
    assert texts(figure) == texts(paper.draw(ecg, RATE_HZ, LEADS))
    left_mm = {lead: only(figure, f"trace-{lead}").get_xdata()[0] for lead in LEADS}
    for column, leads in enumerate((("I", "II", "III"), ("aVR", "aVL", "aVF"), ("V1", "V2", "V3"), ("V4", "V5", "V6"))):
        for lead in leads:
            assert left_mm[lead] == pytest.approx(10 + 62.5 * column)
            y_mm = only(figure, f"trace-{lead}").get_ydata()
            number = LEADS.index(lead)
            expected_mm = 10 * (ecg[number, 1250 * column + 1249] - ecg[number, 1250 * column])
            assert y_mm[-1] - y_mm[0] == pytest.approx(expected_mm)


def test_missing_lead_is_named_and_an_unobserved_one_is_not_drawn() -> None:
    ecg = np.delete(heartbeats(), LEADS.index("V2"), axis=0)
    names = [lead for lead in LEADS if lead != "V2"]
    observed = np.ones(ecg.shape, dtype=bool)
    observed[names.index("aVL")] = False
    ecg[names.index("V6")] = np.nan
    figure = paper.draw(ecg, RATE_HZ, names, observed=observed, notes=["V2 is not in the file."])
    for lead in ("V2", "aVL", "V6"):
        assert only(figure, f"absent-{lead}").get_text() == f"{lead}  not recorded"
        assert not artists(figure, f"trace-{lead}")
    assert len(artists(figure, "trace-")) == 9 + 1
    assert "V2 is not in the file." in texts(figure)


def test_unobserved_stretch_is_a_hatched_gap_of_the_right_place() -> None:
    observed = np.ones((12, 5000), dtype=bool)
    observed[LEADS.index("V1"), 2600:2850] = False  # inside V1's 5.0-7.5 s
    observed[LEADS.index("V4"), :1000] = False  # V4 shows 7.5-10 s only
    figure = paper.draw(heartbeats(), RATE_HZ, LEADS, observed=observed)
    assert [artist.get_gid() for artist in artists(figure, "gap-")] == ["gap-V1"]
    gap = only(figure, "gap-V1")
    assert gap.get_hatch()
    (path,) = gap.get_paths()
    assert path.vertices[:, 0].min() == pytest.approx(10 + 25 * 2600 / RATE_HZ)
    assert path.vertices[:, 0].max() == pytest.approx(10 + 25 * 2850 / RATE_HZ)
    y_mm = only(figure, "trace-V1").get_ydata()
    assert np.flatnonzero(np.isnan(y_mm)).tolist() == list(range(100, 350))
    assert "not observed" in texts(figure)


def test_hidden_patches_are_shaded_and_the_reconstruction_drawn_only_there() -> None:
    ecg, hidden = heartbeats(), np.zeros((12, 5000), dtype=bool)
    for first in (
        0,
        400,
        600,
        1000,
        2200,
    ):  # patches of 200 samples; 400 and 600 touch, 2200 is partly beyond lead I's 2.5 s
        hidden[LEADS.index("I"), first : first + 200] = True
    rebuilt = ecg + 0.1
    figure = paper.draw(ecg, RATE_HZ, LEADS, hidden=hidden, reconstruction=rebuilt)
    assert [artist.get_gid() for artist in artists(figure, "hidden-")] == ["hidden-I"]
    edges_s = [
        ((path.vertices[:, 0].min() - 10) / 25, (path.vertices[:, 0].max() - 10) / 25)
        for path in only(figure, "hidden-I").get_paths()
    ]
    np.testing.assert_allclose(edges_s, [(0, 0.4), (0.8, 1.6), (2.0, 2.4)], atol=1e-9)
    drawn_mm, recorded_mm = (only(figure, f"{what}-I").get_ydata() for what in ("reconstruction", "trace"))
    assert np.isfinite(drawn_mm).tolist() == hidden[0, :1250].tolist()
    there = np.isfinite(drawn_mm)
    np.testing.assert_allclose(drawn_mm[there] - recorded_mm[there], 1.0)  # 0.1 mV above, on the recording's own zero
    colours = {only(figure, f"{what}-I").get_color() for what in ("reconstruction", "trace")}
    assert len(colours) == 2
    assert {"recorded", "hidden from the model", "reconstructed"} <= set(texts(figure).splitlines())


def test_a_spike_is_cut_off_marked_and_noted_and_moves_nothing_else() -> None:
    ecg = heartbeats()
    calm = paper.draw(ecg, RATE_HZ, LEADS)
    spiky = ecg.copy()
    spiky[LEADS.index("II"), 300:304] = 32.0
    spiky[LEADS.index("III"), 700:702] = -32.0
    figure = paper.draw(spiky, RATE_HZ, LEADS)
    low, high = figure.axes[0].get_ylim()
    for line in artists(figure, "trace-"):
        assert low <= np.nanmin(line.get_ydata())
        assert np.nanmax(line.get_ydata()) <= high
    assert "II (+32.0 mV)" in texts(figure)
    assert "III (−32.0 mV)" in texts(figure)
    marks = {mark.get_gid(): mark.get_xdata().tolist() for mark in artists(figure, "cut-")}
    assert set(marks) == {"cut-II-^", "cut-strip-^", "cut-III-v"}
    assert marks["cut-II-^"] == pytest.approx([10 + 25 * 301.5 / RATE_HZ])
    for lead in ("I", "V5"):
        np.testing.assert_array_equal(
            only(figure, f"trace-{lead}").get_ydata(), only(calm, f"trace-{lead}").get_ydata()
        )
    assert "Cut off" not in texts(calm)


def test_tall_but_plausible_deflections_are_not_cut_off() -> None:
    peaks_mv = {"V1": -2.8, "V2": -3.0, "V3": -2.8, "V4": 2.8, "V5": 3.3, "V6": 2.8}  # left ventricular hypertrophy
    ecg = heartbeats()
    for lead, mv in peaks_mv.items():
        ecg[LEADS.index(lead)] *= mv / ecg[LEADS.index(lead)].max()
    figure = paper.draw(ecg, RATE_HZ, LEADS)
    assert not artists(figure, "cut-")
    for lead, mv in peaks_mv.items():
        y_mm = only(figure, f"trace-{lead}").get_ydata()
        assert np.abs(y_mm - np.median(y_mm)).max() == pytest.approx(10 * abs(mv), rel=0.02)


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 4.0, 40.0])
def test_rows_stay_apart_and_inside_the_grid_whatever_the_amplitude(scale: float) -> None:
    figure = paper.draw(scale * heartbeats() * np.where(np.arange(12) % 2, 1, -1)[:, None], RATE_HZ, LEADS)
    zeros = [pulse.get_ydata()[0] for pulse in artists(figure, "calibration-")]
    assert all(upper - lower >= 2 * paper.MIN_ROW_MM - 1 for upper, lower in itertools.pairwise(zeros))
    assert zeros[0] <= paper.GRID_MM[1] - paper.MIN_ROW_MM + 1
    assert zeros[-1] >= paper.MIN_ROW_MM - 1


@pytest.mark.parametrize(
    ("duration_s", "n_rows", "drawn_s"),
    [
        (1.0, 3, 1.0),
        (2.5, 3, 2.5),
        (3.0, 6, 3.0),
        (5.0, 6, 5.0),
        (6.0, 7, 3.0),
        (8.0, 4, 2.0),
        (9.0, 4, 2.25),
        (10.0, 4, 2.5),
    ],
)
def test_every_lead_of_a_short_recording_is_drawn(duration_s: float, n_rows: int, drawn_s: float) -> None:
    figure = paper.draw(heartbeats(duration_s), RATE_HZ, LEADS)
    assert len(artists(figure, "calibration-")) == n_rows
    for lead in LEADS:
        x_mm = only(figure, f"trace-{lead}").get_xdata()
        assert len(x_mm) == pytest.approx(drawn_s * RATE_HZ, abs=1)
        assert 10.0 <= x_mm.min() <= x_mm.max() <= 260.0
        assert np.diff(x_mm).max() == pytest.approx(25.0 / RATE_HZ)  # to scale
    assert len(artists(figure, "trace-strip")) == (n_rows in (4, 7))  # without a strip, II is drawn in full
    assert not artists(figure, "gap-")
    assert f"{duration_s:g} s at 500 Hz" in texts(figure)
    zeros = [pulse.get_ydata()[0] for pulse in artists(figure, "calibration-")]
    assert all(upper - lower >= 15 for upper, lower in itertools.pairwise(zeros))


def test_traces_of_one_row_do_not_overlap() -> None:
    for duration_s in (2.5, 4.9, 5.0, 6.5, 9.9):
        figure = paper.draw(heartbeats(duration_s), RATE_HZ, LEADS)
        rows: dict[float, list] = {}
        for lead in LEADS:
            line = only(figure, f"trace-{lead}")
            rows.setdefault(round(float(np.median(line.get_ydata()))), []).append(line.get_xdata())
        for lines in rows.values():
            assert all(a.max() < b.min() for a, b in itertools.pairwise(sorted(lines, key=min)))


def test_what_is_not_drawn_is_noted() -> None:
    long = paper.draw(heartbeats(30.0), RATE_HZ, LEADS)
    assert len(only(long, "trace-strip").get_xdata()) == 5000
    assert "first 10 s of 30 s" in texts(long)
    assert "first 10 s" not in texts(paper.draw(heartbeats(3.0), RATE_HZ, LEADS))
    observed = np.ones((12, 5000), dtype=bool)
    observed[:, 1500:] = False  # a recording of 3 s in a window of 10 s
    padded = paper.draw(heartbeats(), RATE_HZ, LEADS, observed=observed)
    assert len(only(padded, "trace-V6").get_xdata()) == 1500
    assert "no lead is observed after 3 s: the rest of 10 s" in texts(padded)
    observed[:] = True
    observed[LEADS.index("V4"), 1000:] = False
    observed[LEADS.index("I"), :1250] = False
    assert "not at the time that is drawn here: I, V4." in texts(
        paper.draw(heartbeats(), RATE_HZ, LEADS, observed=observed)
    )


def test_a_lead_recorded_after_ten_seconds_is_noted() -> None:
    observed = np.ones((12, 10_000), dtype=bool)
    observed[LEADS.index("V1"), :5000] = False
    figure = paper.draw(heartbeats(20.0), RATE_HZ, LEADS, observed=observed)
    assert "not at the time that is drawn here: V1." in texts(figure)


def test_the_header_has_no_empty_lines() -> None:
    def header_mm(**arguments: object) -> float:
        figure = paper.draw(heartbeats(), RATE_HZ, LEADS, title="record 7", **arguments)
        return figure.get_figheight() * 25.4 - 160.0 - paper.FOOTER_MM

    assert header_mm() == pytest.approx(11.0, abs=0.1)
    assert header_mm(notes=["a note"]) == pytest.approx(16.0, abs=0.1)
    hidden = np.zeros((12, 5000), dtype=bool)
    hidden[:, 100:200] = True
    assert header_mm(hidden=hidden) == pytest.approx(11.0 + paper.LEGEND_MM, abs=0.1)


def test_strip_takes_the_first_lead_there_is_when_lead_ii_is_not() -> None:
    figure = paper.draw(heartbeats()[:3], RATE_HZ, ["V3", "Vx", "Vy"])
    assert only(figure, "name-strip").get_text() == "V3"
    assert "Not drawn, because the standard layout has no position for them: Vx, Vy." in texts(figure)
    nothing = paper.draw(np.full((2, 5000), np.nan), RATE_HZ, ["I", "II"])
    assert only(nothing, "absent-strip").get_text() == "II  not recorded"
    assert not artists(nothing, "trace-")


def test_many_notes_make_the_page_taller_and_lose_none() -> None:
    notes = [
        f"Lead V{n % 6 + 1}: gap number {n} of many, described in a sentence that goes on for a while."
        for n in range(40)
    ]
    plain, full = paper.draw(heartbeats(), RATE_HZ, LEADS), paper.draw(heartbeats(), RATE_HZ, LEADS, notes=notes)
    assert full.get_figheight() > plain.get_figheight()
    assert all(note in texts(full) for note in notes)
    places = [text.get_position()[1] for text in full.texts if "gap number" in text.get_text()]
    assert min(places) > full.axes[0].get_position().y1
    for figure in (plain, full):  # the grid keeps its size
        assert figure.axes[0].get_window_extent().width / figure.dpi * 25.4 == pytest.approx(260.0)
        assert figure.axes[0].get_window_extent().height / figure.dpi * 25.4 == pytest.approx(160.0)


def test_footer_states_scale_rate_and_use() -> None:
    words = texts(paper.draw(heartbeats(rate_hz=257), 257, LEADS, title="record 7"))
    for part in ("25 mm/s", "10 mm/mV", "257 Hz", "research use only, not a medical device", "record 7"):
        assert part in words


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ecg": np.zeros((5000, 12))}, r"\(5000, 12\) but 12 leads"),
        ({"ecg": np.zeros((12, 0))}, r"\(12, 0\)"),
        ({"rate_hz": 0.0}, "must be positive"),
        ({"rate_hz": float("nan")}, "must be positive"),
        ({"leads": ["I", "i", *LEADS[2:]]}, "lead I is named more than once"),
        ({"hidden": np.zeros((12, 25), dtype=bool)}, r"hidden has shape \(12, 25\)"),
        ({"reconstruction": np.zeros((12, 4999))}, "reconstruction has shape"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, message: str) -> None:
    call = {"ecg": heartbeats(), "rate_hz": 500, "leads": LEADS} | change
    with pytest.raises(ValueError, match=message):
        paper.draw(call.pop("ecg"), call.pop("rate_hz"), call.pop("leads"), **call)


# ---- saving ----


def test_svg_keeps_its_text_and_its_size(tmp_path: Path) -> None:
    ink.save(paper.draw(heartbeats(), RATE_HZ, LEADS, title="a $5_x$ <b> & c"), tmp_path / "ecg.svg")
    svg = (tmp_path / "ecg.svg").read_text()
    for lead in LEADS:
        assert f">{lead}</text>" in svg
    assert "a $5_x$ &lt;b&gt; &amp; c</text>" in svg  # neither mathematics nor markup
    width_pt = float(svg.split('width="')[1].split("pt")[0])
    assert width_pt / 72 * 25.4 == pytest.approx(276.0, abs=0.01)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_same_picture_twice_is_the_same_file(tmp_path: Path, suffix: str) -> None:
    hidden = np.zeros((12, 5000), dtype=bool)
    hidden[:, 1000:1400] = True
    for name in ("one", "two"):
        figure = paper.draw(heartbeats(), RATE_HZ, LEADS, hidden=hidden, reconstruction=0.9 * heartbeats())
        ink.save(figure, (tmp_path / name).with_suffix(suffix), dpi=100)
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def test_other_suffixes_are_refused_and_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    figure = paper.draw(heartbeats(), RATE_HZ, LEADS)
    with pytest.raises(ValueError, match=r"'\.gif' is none of \.png, \.svg, \.pdf"):
        ink.save(figure, tmp_path / "ecg.gif")
    old = tmp_path / "page.html"
    old.write_text("old")

    def interrupted() -> None:
        with replacing(old) as part:
            part.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        interrupted()
    assert old.read_text() == "old"
    assert list(tmp_path.iterdir()) == [old]


def test_pictures_never_touch_pyplot_or_the_caller_s_settings(tmp_path: Path) -> None:
    script = f"""
import sys, matplotlib, numpy as np
from pathlib import Path
before = matplotlib.rcParams.copy()  # reading it as a dict would resolve the backend and import pyplot
from leadwise.pictures import bars, curves, ink, paper, scatter
from leadwise.pages.html import Page
page = Page("p")
page.figure(curves.draw([{{"step": 0, "split": "train", "loss": 1.0}}]))
page.figure(scatter.draw(np.zeros((1, 2)), ["a"]))
page.figure(bars.draw([{{"name": "n", "group": "g", "value": 0.6}}]))
ecg = paper.draw(np.zeros((1, 100)), 100, ["I"])
page.figure(ecg)
ink.save(ecg, Path({str(tmp_path)!r}) / "a.svg")
page.write(Path({str(tmp_path)!r}) / "p.html")
assert "matplotlib.pyplot" not in sys.modules, "pyplot was imported"
assert "torch" not in sys.modules, "torch was imported"
assert matplotlib.rcParams.copy() == before, "settings were changed"
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


# ---- curves, maps, scores ----


def metrics() -> list[dict]:
    rows: list[dict] = []
    for step in range(0, 100, 20):
        row = {"step": step, "split": "train", "loss": 2.0 / (1 + step), "lr": 1e-4, "grad_norm": 1.0}
        rows.append(row | {"raw/L_rec": 3.0 - step / 100, "term/L_rec": 1.0, "term/L_only": 0.5})
    rows.append({"step": 80, "split": "val", "loss": 1.5, "raw/L_rec": 2.5, "effective_rank": 12.0})
    return rows


def test_curves_show_each_term_raw_with_training_as_line_and_validation_as_markers() -> None:
    figure = curves.draw(metrics(), "run")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["total loss", "L_rec", "L_only (weighted)", "effective rank", "gradient norm", "learning rate"]
    lines = {line.get_gid(): line for axes in figure.axes for line in axes.lines}
    np.testing.assert_allclose(lines["train-raw/L_rec"].get_ydata(), [3.0, 2.8, 2.6, 2.4, 2.2])
    assert lines["val-raw/L_rec"].get_marker() == "o"
    assert lines["val-raw/L_rec"].get_xdata().tolist() == [80]
    assert "train-effective_rank" not in lines


def test_curves_leave_a_gap_for_what_is_not_finite_and_count_it() -> None:
    rows = metrics()
    rows[1]["raw/L_rec"], rows[2]["raw/L_rec"] = float("nan"), None
    rows[3]["raw/L_rec"] = float("inf")
    del rows[4]["raw/L_rec"]
    figure = curves.draw(rows)
    figure.canvas.draw()
    (line,) = (line for axes in figure.axes for line in axes.lines if line.get_gid() == "train-raw/L_rec")
    assert np.isnan(line.get_ydata()).tolist() == [False, True, True, True]
    assert "3 not finite" in texts(figure)


@pytest.mark.parametrize("rows", [[], [{"step": 0, "split": "train"}], [{"step": 0, "split": "val", "loss": None}]])
def test_curves_of_nothing_are_still_a_figure(rows: list[dict], tmp_path: Path) -> None:
    figure = curves.draw(rows, "nothing yet")
    ink.save(figure, tmp_path / "curves.png", dpi=50)
    assert "no steps were logged" in texts(figure) or "no finite value" in texts(figure)


def test_map_gives_each_group_its_own_look_and_count() -> None:
    rng = np.random.default_rng(0)
    groups = [f"finding {n}" for n in range(12) for _ in range(12 - n)] + [""] * 30
    points = rng.normal(size=(len(groups), 2))
    figure = scatter.draw(points, groups, "map")
    drawn = {c.get_gid(): c for c in figure.axes[0].collections}
    for n in range(12):
        own = points[np.array(groups) == f"finding {n}"]
        np.testing.assert_array_equal(drawn[f"group-finding {n}"].get_offsets(), own)
    looks = {
        (tuple(c.get_facecolor()[0]), c.get_paths()[0].vertices.tobytes()) for gid, c in drawn.items() if "find" in gid
    }
    assert len(looks) == 12
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert entries[0] == "finding 0 (12)"
    assert entries[-1] == "other (30)"


@pytest.mark.parametrize(
    ("points", "message"),
    [(np.zeros((3, 3)), r"\(3, 3\)"), (np.zeros((2, 2)), "3 groups"), (np.full((3, 2), np.nan), "3 of 3 points")],
)
def test_map_refuses_what_it_cannot_draw(points: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scatter.draw(points, ["a", "b", ""])


def test_bars_place_values_and_intervals_and_name_what_is_absent() -> None:
    rows = [
        {"name": "1 %", "group": "trained", "value": 0.8, "low": 0.75, "high": 0.84},
        {"name": "1 %", "group": "untrained", "value": 0.6, "low": None, "high": None},
        {"name": "100 %", "group": "trained", "value": float("nan")},
    ]
    figure = bars.draw(rows, "scores")
    axes = figure.axes[0]
    lines = [line.get_xdata() for line in axes.lines]
    assert [0.75, 0.84] in [list(x) for x in lines]
    assert sum(list(x) in ([0.8], [0.6]) for x in lines) == 2
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1 %", "100 %"]
    assert {"0.800", "0.600", "n/a"} <= {text.get_text() for text in axes.texts}
    (baseline,) = (line for line in axes.lines if line.get_gid() == "baseline")
    assert set(baseline.get_xdata()) == {0.5}
    with pytest.raises(ValueError, match="same name and group"):
        bars.draw([rows[0], rows[0]])
    with pytest.raises(ValueError, match="no scores"):
        bars.draw([])


def test_score_curves_have_a_panel_for_each_way_and_cost_and_levels_in_their_rows() -> None:
    points = [
        {"group": name, "how": how, "recordings": 100 * n, "seconds": float(n), "y": 70 + n, "low": 69.0, "high": 75.0}
        for how in ("zero-shot", "probe")
        for name in ("x^y$", "other")
        for n in (1, 2, 4)
        if (how, name) != ("zero-shot", "other")
    ]
    levels = [{"group": "random", "how": "probe", "y": 60.0}]
    figure = score_curves.draw(points, ("recordings", "seconds"), levels, "Title")
    assert [axes.get_title("left") for axes in figure.axes] == ["zero-shot", "zero-shot", "probe", "probe"]
    assert [axes.get_xlabel() for axes in figure.axes] == 2 * ["recordings", "seconds"]
    gids = [[line.get_gid() for line in axes.lines if line.get_gid()] for axes in figure.axes]
    assert gids[0] == ["x^y$-recordings"]
    assert gids[3] == ["level-random", "x^y$-seconds", "other-seconds"]
    (line,) = (line for line in figure.axes[3].lines if line.get_gid() == "other-seconds")
    assert line.get_xydata().tolist() == [[1, 71], [2, 72], [4, 74]]
    assert texts(figure).splitlines()[-3:] == ["x^y$", "other", "random"]
    with pytest.raises(ValueError, match="no points to draw for 'T'"):
        score_curves.draw([], ("seconds",), title="T")


def test_reliability_draws_each_class_against_the_diagonal() -> None:
    curve = {"mean_probability": (0.05, 0.3, 0.8), "positive_share": (0.0, 0.4, 0.7), "count": (20, 20, 10)}
    rows = [
        {"name": "LAFB/LPFB $x$", **curve, "low": (0.0, 0.3, 0.5), "high": (0.1, 0.5, 0.9), "note": "ECE 0.05"},
        {"name": "rare", "mean_probability": (0.001, 0.02), "positive_share": (0.0, 0.03), "count": (5, 5)},
    ]
    figure = reliability.draw(rows, "probe of a_b")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["LAFB/LPFB $x$", "rare"]
    np.testing.assert_array_equal(
        only(figure, "curve").get_xydata(), np.column_stack([curve["mean_probability"], curve["positive_share"]])
    )
    np.testing.assert_array_equal(only(figure, "perfect").get_xydata(), [[0, 0], [1, 1]])
    assert {"probe of a_b", "ECE 0.05"} <= set(texts(figure).splitlines())
    common, rare = figure.axes
    assert common.get_xlim() == common.get_ylim()
    assert common.get_ylim()[1] >= 0.9  # the whole interval
    assert 0.03 < rare.get_xlim()[1] < 0.1  # the axes zoom in on a rare class
    assert len(common.collections) == 2  # intervals and dots
    assert len(rare.collections) == 1
    many = reliability.draw([{"name": f"class {k}", **curve} for k in range(9)])
    assert len(many.axes) == 9
    warned = reliability.draw(rows, "probe", "Penalty chosen by AUROC, not for probabilities. " * 2)
    assert "Penalty chosen by AUROC" in texts(warned)
    assert warned.get_figheight() > figure.get_figheight()  # the caution needs space
    long = reliability.draw(
        rows[:1], "probe of a run with a long name on a cohort with a long name, task own: reliability"
    )
    (title,) = (text for text in long.texts if "probe of" in text.get_text())
    assert "\n" in title.get_text()  # wrapped at the width of the figure
    assert title.get_window_extent().x1 <= long.bbox.x1
    with pytest.raises(ValueError, match="no reliability"):
        reliability.draw([])
    with pytest.raises(ValueError, match=r"'rare'.*each bin"):
        reliability.draw([{**rows[1], "count": (5,)}])


# ---- the page ----


class Tags(html.parser.HTMLParser):
    """Collects start tags and visible text, and checks that tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words, self.open = "", []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_page_is_one_offline_file_that_escapes_every_text(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>'
    page = Page(f"title {evil}")
    page.heading(f"heading {evil}")
    page.text(f"text {evil}")
    page.table([{f"key {evil}": f"cell {evil}", "score": 0.81234}, {"score": float("nan")}], f"caption {evil}")
    page.figure(paper.draw(heartbeats(), RATE_HZ, LEADS), f"figure {evil}", f'alt " {evil}')
    page.write(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    tags = Tags(text)
    assert not tags.open
    # one script, which sorts tables; it is a constant, so that no text gets into it
    assert [attributes for tag, attributes in tags.tags if tag == "script"] == [{}]
    assert text.count("<script>") == text.count(f"<script>{SCRIPT}</script>") == 1
    assert tags.words.count(evil) == 8  # title and h1, heading, text, column, cell, two captions
    (image,) = (attributes for tag, attributes in tags.tags if tag == "img")
    assert image["alt"] == f'alt " {evil}'
    assert (image["src"] or "").startswith("data:image/png;base64,")
    assert "prefers-color-scheme: dark" in text
    assert "research use only" in tags.words
    assert ">0.812<" in text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_page_folds_colours_and_scrolls(tmp_path: Path) -> None:
    page = Page("p")
    page.text("LEAK", tone="bad")
    with page.folded("settings <b>"):
        page.table([{"severity": "error", "check": "error"}], tones={"severity": {"error": "bad"}})
    page.table([{f"column {k}": k for k in range(12)}])
    page.figure(Figure(figsize=(1, 1)), alt="nothing")
    tags = Tags(page.html())
    assert '<p class="bad">LEAK</p>' in page.html()
    assert '<td class="bad">error</td><td>error</td>' in page.html()  # the column's tone, and not the word's
    assert [name for name, _ in tags.tags if name in ("details", "summary", "table", "figcaption", "caption")] == [
        "details", "summary", "table", "table",
    ]  # fmt: skip
    assert page.html().index("settings &lt;b&gt;") < page.html().index("</table>") < page.html().index("</details>")
    assert page.html().count('<div class="scroll many">') == 1
    page.table([{"score": "0.8 (0.7–0.9)", "change": -0.5, "n": "1,024", "small": 1e-9, "sha": "71e9601b", "id": "3a"}])
    assert page.html().count('<th class="n">') == 12 + 4


def test_a_page_has_the_pictures_of_a_section_above_its_tables() -> None:
    page = Page("p")
    page.heading("one")
    page.text("introduction")
    page.table([{"score": 1}], "first table")
    page.text("remark")
    page.figure(Figure(figsize=(1, 1)), "first picture")
    with page.folded("settings"):
        page.table([{"setting": 1}], "settings")
        page.preformatted("a = 1\nb = '<b>'\n")
    page.figure(Figure(figsize=(1, 1)), "second picture")
    page.heading("part", level=3)
    with page.folded("more"):
        page.table([{"score": 2}], "second table")
    page.figure(Figure(figsize=(1, 1)), "third picture")
    html = page.html()
    order = [
        "<h2>one", "introduction", "<figcaption>first picture", "<figcaption>second picture", "<caption>first table", "remark",
        "<summary>settings", "<caption>settings", "<pre", "a = 1\nb = &#x27;&lt;b&gt;&#x27;", "</details>", "<h3>part",
        "<figcaption>third picture", "<summary>more", "<caption>second table",
    ]  # fmt: skip
    places = [html.index(text) for text in order]
    assert places == sorted(places)
    assert_pictures_first(html)


@pytest.mark.slow
def test_page_with_everything_of_a_demo_stays_below_three_megabytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noisy = heartbeats() + 0.05 * rng.normal(size=(12, 5000))
    hidden = np.repeat(rng.random((12, 25)) < 0.75, 200, axis=1)
    page = Page("demo")
    page.figure(curves.draw(metrics()))
    for _ in range(3):
        page.figure(paper.draw(noisy, RATE_HZ, LEADS, hidden=hidden, reconstruction=heartbeats()))
    page.figure(scatter.draw(rng.normal(size=(3000, 2)), [f"g{n % 9}" for n in range(3000)]))
    page.write(tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
