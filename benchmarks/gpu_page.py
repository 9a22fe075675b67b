"""The page of a GPU run: what is right, how fast it is beside its floor, and what was learned, with the picture first."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_common import Json, read_json
from machine import table

from leadwise.files import replacing
from leadwise.pictures import ink, score_curves

NAME, RESULTS = "gpu", Path(__file__).parent / "results"
ALONE, WHOLE = ("graph", "checkpointing", "batches", "compile"), ("fast", "right", "learn")  # parts of a run
RECORDINGS, SECONDS = "recordings used", "seconds of training, five rows on one card"
PROBES = ("probe 10%", "probe 100%")
PAPER_RECORDS = 9520 * 4096  # steps and batch of configs/cg_dmer.toml, as in the paper
OPTIMISER_BYTES = 28  # a parameter: weight, gradient and two moments are read, weight and moments written, in float32


def write_page(folder: Path, note: str, page: Path | None = None) -> None:
    """Write the page of what `gpu.py run` wrote to `folder`, and its picture beside it.

    Args:
        page: default: benchmarks/results/gpu.md; FOLDER/gpu.md for a rehearsal on a CPU, or if one of WHOLE was not run.
    """
    names = [*ALONE, *WHOLE]
    parts = {name: read_json(folder / f"{name}.json") for name in names}
    if not any(parts.values()):
        sys.exit(
            f"{folder} has none of {', '.join(f'{name}.json' for name in names)}; pass the folder that `gpu.py run` wrote"
        )
    run = read_json(folder / "run.json")
    is_whole = all(parts[name] for name in WHOLE) and run.get("device") != "cpu"
    page = page or (RESULTS if is_whole else folder) / f"{NAME}.md"

    # each part alone measured the card and its peak again: those of the part fast come last, and count
    fast: Json = {}
    for name in (*ALONE, "fast"):
        fast |= parts[name]
    card, peak = fast.get("card", {}), fast.get("peak", {})
    rehearsed = run.get("device") == "cpu"
    title = (
        "A rehearsal on a CPU, whose figures do not count"
        if rehearsed
        else f"On a GPU: {card.get('device', 'no card')}"
    )
    sections = [
        f"# {title}",
        f"Command: `python benchmarks/gpu.py run`. torch {card.get('torch')}, CUDA {card.get('cuda')}. {note}",
        _ended(run),
        _learned(parts["learn"], page.with_suffix(".png")),
        _right(parts["right"]),
        _fast(fast, peak),
        "" if rehearsed else _paper(fast),
    ]
    with replacing(page) as temporary:
        temporary.write_text("\n\n".join(section for section in sections if section).rstrip() + "\n")
    print(page)


def _ended(run: Json) -> str:
    """Return a sentence about the parts that were ended when their time was over."""
    limits = run.get("seconds", {})
    ended = [
        f"{name} ({limits[name]:.0f} s)" if name in limits else name
        for name, code in run.get("exit codes", {}).items()
        if code == -signal.SIGKILL
    ]
    return f"Ended when their time was over: {', '.join(ended)}." if ended else ""


# ------------------------------------------------------------------------------------------------------- learned


def _learned(learn: Json, picture: Path) -> str:
    """Draw the curves, and return their section."""
    rows = {row: result for row, result in learn.get("rows", {}).items() if result["points"]}
    points = []
    for row, result in rows.items():
        for point in result["points"]:
            costs = {RECORDINGS: point["recordings"], SECONDS: point["seconds"]}
            points.append({"group": row, "how": "zero-shot", "y": point["zero-shot"]["mean"], **costs})
    if not points:
        return ""
    title = "Zero-shot on the validation split, mean over the tasks"
    ink.save(score_curves.draw(points, (RECORDINGS, SECONDS), (), title), picture, dpi=110)
    lines = []
    for row, result in rows.items():
        last, best = result["points"][-1], max(result["points"], key=lambda point: point["zero-shot"]["mean"])
        planned = result["steps"]
        lines.append(
            {
                "row": row,
                "parameters, M": result["parameters"] / 1e6,
                "batch": result["settings"]["batch_size"],
                "steps at the last point": f"{last['step']:,} of {planned:,}",
                "seconds": f"{last['seconds']:.0f}",
                "zero-shot, last point": f"{last['zero-shot']['mean']:.1f}",
                **{task: f"{score:.1f}" for task, score in last["zero-shot"].items() if task != "mean"},
                "best point": f"{best['zero-shot']['mean']:.1f} after {best['recordings']:,} recordings",
                "probe 10 / 100 %": _cells(result.get("cells", ()), PROBES),
                "fold 10: zero-shot / probe 10 / 100 %": _cells(result.get("test cells", ()), ("zero-shot", *PROBES)),
            }
        )
    if all(line["fold 10: zero-shot / probe 10 / 100 %"] == "-" for line in lines):  # of a run that did not score it
        for line in lines:
            del line["fold 10: zero-shot / probe 10 / 100 %"]
    return (
        f"## Learned\n![{title}]({picture.name})\n\nMacro AUROC x 100 on fold 9 of PTB-XL, one seed; samples rounded to the step "
        "of the pack. Points within a run are not annealed: the rate falls to 0 only at its end. A row without probes was "
        f"ended by the clock before its last steps.\n\n{table(lines)}"
    )


def _cells(cells: Sequence[Json], names: Sequence[str]) -> str:
    """Return the means over the tasks of the named ways of scoring, as text; "-" if there is none."""
    means = {cell["how"]: cell["macro"] for cell in cells if cell["task"] == "mean"}
    texts = [f"{means[how]:.1f}" if how in means else "-" for how in names]
    return " / ".join(texts) if set(texts) != {"-"} else "-"


# --------------------------------------------------------------------------------------------------------- right


def _right(right: Json) -> str:
    """Return the section of the checks."""
    lines = _right_rows(right)
    return f"## Right\n{table(lines)}" if lines else ""


def _right_rows(right: Json) -> list[Json]:
    """Return a line for each check: what was compared, the figure, and the limit."""
    lines: list[Json] = []
    for key, result in right.items():
        if key == "conditions":
            continue
        name = key.replace("branches on tensors", "waits for the device in a step,")
        if "error" in result:
            lines.append({"check": name, "figure": result["error"], "limit": "", "ok": "no"})
            continue
        for precision in ("float32", "bfloat16"):
            if precision in result:
                one = result[precision]
                figure = f"terms {one['largest']:.1e}, gradient {one['gradient, relative']:.1e}"
                ok = "yes" if max(one["largest"], one["gradient, relative"]) <= one["limit"] else "no"
                lines.append(
                    {"check": f"{name}, {precision}", "figure": figure, "limit": f"{one['limit']:g}", "ok": ok}
                )
        if not {"float32", "bfloat16"} & set(result):
            lines.append(
                {
                    "check": name,
                    "figure": _figure(result),
                    "limit": _limit(result.get("limit", "")),
                    "ok": "-" if "skipped" in result else "yes" if result.get("ok") else "no",
                }
            )
    return lines


def _limit(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _figure(result: Json) -> str:
    """Return the figure of a check that has one."""
    for key in ("largest difference", "largest", "resumed", "ratio", "places"):
        if key in result:
            value: Any = result[key]
            return (
                "; ".join(f"{place} ({n})" for place, n in value.items()) if isinstance(value, dict) else f"{value:.2g}"
            )
    return str(result.get("skipped", ""))


# ---------------------------------------------------------------------------------------------------------- fast


def _fast(fast: Json, peak: Json) -> str:
    """Return the sections of speed."""
    if not fast:
        return ""
    bfloat16, copy = peak.get("bfloat16_tflops"), peak.get("copy_gb_per_s")
    parts = ["## Fast"]
    if bfloat16:
        n = peak["size"]
        parts[0] += (
            f"\nPeak measured here: {bfloat16} TFLOP/s in bfloat16 and {peak.get('tf32_tflops')} in TF32 ({n} x {n} x {n}), "
            f"copies {copy} GB/s on the card, {peak.get('pinned_to_device_gb_per_s')} GB/s to it from pinned memory."
        )
    steps = _step_rows(fast, bfloat16, copy)
    if steps:
        parts.append(
            "### Training steps at 500 Hz, bfloat16, text included\n"
            "The floor is the larger of two times: multiply-adds at the measured peak, and the optimiser's bytes at the measured "
            f"bandwidth.\n\n{table(steps)}"
        )
    for key, title in (
        ("same step", "### A step of other methods, batch of 256"),
        ("small recipe 100 Hz", "### The recipe of `configs/ptbxl.toml`"),
        ("loader alone", "### Loader alone, batch of 256"),
        ("embedding", "### Embedding"),
        ("CUDA graph of an embedding", "### Embedding as a CUDA graph"),
        ("CUDA graph of a training step", "### CG-DMER's ECG part as a CUDA graph, forward and backward"),
        ("fused attention", "### Attention of the encoder"),
        ("fused AdamW", "### AdamW"),
        ("compile", "### torch.compile"),
    ):
        lines = _embedding_rows(fast[key], peak) if key == "embedding" and key in fast else []
        if lines:
            parts.append(f"{title}\nThe floor: multiply-adds at the measured peak.\n\n{table(lines)}")
        elif key in fast:
            parts.append(f"{title}\n" + table(_rows_of(fast[key])))
    for key in ("profile cg_dmer", "profile small recipe"):
        if "top" in fast.get(key, {}):
            one = fast[key]
            parts.append(
                f"### Kernels of a step, {key.removeprefix('profile ')}, batch of {one['batch']}\n"
                f"{one['step_ms']:.0f} ms a step, of which kernels fill {100 * one['busy_share']:.0f} %; {one['kernels_a_step']} "
                f"kernels and {one['copies_a_step']} copies.\n\n{table(one['top'])}"
            )
    return "\n\n".join(parts)


def _step_rows(fast: Json, tflops: float | None, gigabytes: float | None) -> list[Json]:
    """Return a line for each size of batch, with its floor."""
    lines = []
    for key, result in fast.items():
        flop = result.get("gflop_a_record")
        if not key.startswith("step ") or not tflops or not gigabytes or not isinstance(flop, int | float):
            continue
        for row in result.get("rows", ()):
            if "ms" not in row:
                lines.append(_failed_step(key, row))
                continue
            arithmetic = row["batch"] * flop / tflops
            memory = result["parameters"] * OPTIMISER_BYTES / gigabytes / 1e6
            lines.append(
                {
                    "step": _step_name(key),
                    "batch": row["batch"],
                    "ms": f"{row['ms']:.0f}",
                    "floor, ms": f"{max(arithmetic, memory):.1f}",
                    "recordings/s": f"{row['records_per_s']:,.0f}",
                    "share of the peak": f"{100 * row['share_of_peak']:.1f} %" if "share_of_peak" in row else "-",
                    "memory, GiB": f"{row['peak_gib']:.1f}" if "peak_gib" in row else "-",
                }
            )
    return lines


def _step_name(key: str) -> str:
    return key.removeprefix("step ").replace(" bfloat16", "")


def _failed_step(key: str, row: Json) -> Json:
    """Return the line of a batch size that failed."""
    names = ("floor, ms", "recordings/s", "share of the peak", "memory, GiB")
    reason = "out of memory" if "OutOfMemory" in row["error"] else row["error"]
    return {"step": _step_name(key), "batch": row["batch"], "ms": reason, **dict.fromkeys(names, "-")}


def _embedding_rows(result: Json, peak: Json) -> list[Json]:
    """Return a line for each model and precision, with its floor."""
    lines = []
    for key, row in result.items():
        if not isinstance(row, dict) or "ms" not in row:
            continue
        name, precision = key.split()[0], key.split()[-1]
        tflops = peak.get("bfloat16_tflops" if precision == "bfloat16" else "tf32_tflops")
        flop = result.get(f"{name} gflop a record")
        is_known = isinstance(flop, float) and isinstance(tflops, float)
        floor = f"{row['batch'] * flop / tflops:.1f}" if is_known else "-"
        figures = {"batch": row["batch"], "ms": f"{row['ms']:.1f}", "floor, ms": floor}
        lines.append({"what": key, **figures, "recordings/s": f"{row['records_per_s']:,.0f}"})
    if "records_per_s" in result.get("ptbxl from disk", {}):
        rate = f"{result['ptbxl from disk']['records_per_s']:,.0f}"
        lines.append({"what": "ptbxl from disk", "batch": "", "ms": "", "floor, ms": "", "recordings/s": rate})
    return lines


def _rows_of(result: Json) -> list[Json]:
    """Return a result of any depth as lines of a name and its figures."""
    lines = []
    for key, value in result.items():
        if key == "rows":
            lines += [
                {
                    "what": ", ".join(str(row[name]) for name in row if isinstance(row[name], str)),
                    "figures": _figures(row),
                }
                for row in value
            ]
        elif isinstance(value, dict):
            lines.append({"what": key, "figures": _figures(value)})
        elif key != "cut":
            lines.append({"what": key, "figures": f"{value:g}" if isinstance(value, int | float) else str(value)})
    return lines


def _figures(values: Json) -> str:
    """Return the numbers of a result as text."""
    figures = {name: value for name, value in values.items() if isinstance(value, int | float)}
    figures |= {name: value["error"] for name, value in values.items() if isinstance(value, dict) and "error" in value}
    return ", ".join(
        f"{name} {value:g}" if not isinstance(value, str) else f"{name}: {value}" for name, value in figures.items()
    )


def _paper(fast: Json) -> str:
    """Return what the paper's recipe takes at the best measured rate."""
    measured = [result for key, result in fast.items() if key.startswith("step cg_dmer 500 Hz")]
    rows = [row for result in measured for row in result.get("rows", ()) if "records_per_s" in row]
    if not rows:
        return ""
    best = max(rows, key=lambda row: row["records_per_s"])
    hours = PAPER_RECORDS / best["records_per_s"] / 3600
    return (
        f"## The paper's recipe\nAt {best['records_per_s']:,.0f} recordings/s (batch of {best['batch']}), the 9,520 steps of "
        f"4,096 recordings of `configs/cg_dmer.toml` take {hours:.1f} hours on one such card, and {hours / 8:.1f} on eight if "
        "exchanging gradients costs nothing. This is computed, not measured."
    )
