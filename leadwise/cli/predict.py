"""The command predict: one row of scores per ECG, without labels and without a cohort."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leadwise.cli.ecg_arguments import EcgFiles, Leads, RateHz, Units, file_inputs, given_of
from leadwise.cli.output import (
    AcceptChanges,
    Json,
    RunFolder,
    WindowName,
    bars,
    out,
    print_line,
    print_table,
    progress_bars,
    write_json,
)
from leadwise.cli.table_files import MARKER, check_target, write_table

if TYPE_CHECKING:
    import pandas as pd

_N_PRINTED = 10


def predict(
    run: RunFolder,
    files: EcgFiles,
    target: Annotated[Path, typer.Option("-o", "--out", help=".csv or .parquet file: one row per ECG.")],
    task: Annotated[str | None, typer.Option(help="Zero-shot: a task with shipped prompts, such as super.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="Zero-shot: your own prompt file (TOML).")] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Zero-shot: a text, worded as in a report. Can be repeated.")
    ] = None,
    probe: Annotated[Path | None, typer.Option(help="Probabilities of a probe that `probe --save` wrote.")] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Zero-shot: cohort folder; each score also as a percentile within it.")
    ] = None,
    window: WindowName = None,
    leads: Leads = None,
    rate_hz: RateHz = None,
    units: Units = None,
    accept_changes: AcceptChanges = False,
    json_file: Json = None,
) -> None:
    """Score ECG files by texts (zero-shot) or by a saved probe. Research use only; no score supports a decision."""
    # check the options before anything is loaded
    check_target(target, (".csv", ".parquet"))
    chosen = [option for option in (task, prompts, prompt, probe) if option]
    if len(chosen) != 1:
        raise typer.BadParameter("pass one of --task, --prompts, --prompt and --probe")
    if probe is not None and (reference is not None or window is not None):
        raise typer.BadParameter("--reference and --window belong to zero-shot; omit them with --probe")
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.data.recordings.recording import RecordError
    from leadwise.evaluate.saved_probe import load_probe
    from leadwise.model import load

    ecgs = file_inputs(files, given_of(leads, rate_hz, units))
    compared = None if reference is None else Cohort.open(reference)
    fitted = None if probe is None else load_probe(probe)

    # score
    model = load(run, accept_changes=accept_changes)
    with progress_bars() as progress:
        settings: dict[str, Any] = {"reference": None, "window": window}
        if fitted is not None:
            table = model.predict(ecgs, fitted, progress=bars(progress))
            settings = {"probe": str(probe), "task": fitted.task, "probe_cohort": fitted.cohort}
        else:
            scores = model.zeroshot(ecgs, chosen[0], reference=compared, window=window, progress=bars(progress))
            table = wide(scores)
            settings |= {"reference": scores.attrs.get("reference"), "unknown_words": unknown_words(scores)}
            if "calibration" in scores.attrs:
                settings["calibration"] = scores.attrs["calibration"]
    refused = table[table["refused"] != ""]
    if len(refused) == len(table):
        raise RecordError(f"none of the {len(table)} ECGs has a score: {refused['refused'].iloc[0]}")
    write_table(table, target)

    # print the highest scores of the first ECGs, and what is missing
    calibration = settings.get("calibration")
    if fitted is not None or calibration is not None:
        suffix, unit = "" if fitted is not None else ".probability", "probability"
    else:
        suffix, unit = ".percentile", "percentile in the reference"
    if fitted is not None or calibration is not None or compared is not None:
        print_table(highest(table.head(_N_PRINTED), suffix), f"highest scores of {model.name}: {unit}")
    if calibration is not None:
        print_line(calibration["sentence"])
    elif fitted is None and compared is None:
        out.print(
            "The scores are cosines. One text may have a high cosine with every ECG, so they do not compare between classes; "
            "--reference COHORT adds percentiles, `leadwise calibrate` probabilities.",
            soft_wrap=True,
        )
    for name, words in settings.get("unknown_words", {}).items():
        out.print(f"{name}: rare or absent in training: {words}", highlight=False, soft_wrap=True)
    if len(refused):
        out.print(
            f"{len(refused)} of {len(table)} ECGs have no score; the column refused has the reason", soft_wrap=True
        )
    result = {"command": "predict", "run": str(run), "fingerprint": model.fingerprint, **settings, "file": str(target)}
    write_json(json_file, {**result, "recordings": len(table), "refused": len(refused)})
    out.print(f"{len(table)} rows written to {target}", highlight=False, soft_wrap=True)


def wide(scores: pd.DataFrame) -> pd.DataFrame:
    """Return zero-shot scores with one row per ECG: ecg, refused, and for each class its cosine and what else there is.

    Further columns of a class: probability with a calibration, low and high with several texts, percentile with a reference.
    """
    import pandas as pd

    classes = list(dict.fromkeys(scores["class"]))
    by_class = {name: scores[scores["class"] == name].reset_index(drop=True) for name in classes}
    columns: dict[str, pd.Series] = {name: by_class[classes[0]][name] for name in MARKER}
    for name, own in by_class.items():
        columns[name] = own["cosine"]
        for extra in ("probability", "low", "high", "percentile"):
            if extra in own and own[extra].notna().any():
                columns[f"{name}.{extra}"] = own[extra]
    return pd.DataFrame(columns)


def highest(table: pd.DataFrame, suffix: str, n: int = 3) -> list[dict[str, Any]]:
    """Return for each ECG the `n` classes with the highest values among the columns that end in `suffix`."""
    names = [name for name in table.columns if name not in MARKER and str(name).endswith(suffix)]
    rows: list[dict[str, Any]] = []
    for _, line in table.iterrows():
        values = line[names].astype(float).dropna().sort_values(ascending=False, kind="stable").head(n)
        texts = [f"{str(name).removesuffix(suffix)} {value:.3g}" for name, value in values.items()]
        rows.append({"ecg": Path(str(line["ecg"])).name, "highest": ", ".join(texts) or line["refused"]})
    return rows


def unknown_words(scores: pd.DataFrame) -> dict[str, str]:
    """Return the words of each class that the run does not know, for the classes that have some."""
    first = scores.drop_duplicates("class")
    return {str(name): str(words) for name, words in zip(first["class"], first["unknown_words"]) if words}
