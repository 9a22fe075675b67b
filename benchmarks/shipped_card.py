"""The model card of weights that ship with leadwise: metadata of a hub, use, training data, scores and limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from leadwise import __version__
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.export import markdown
from leadwise.evaluate.prompt_calibration import PromptSetCalibration
from leadwise.run import Run

LICENCE = "cc-by-4.0"
ATTRIBUTION = {  # by source of the training data
    "ptbxl": (
        "PTB-XL 1.0.3, CC BY 4.0: P. Wagner, N. Strodthoff, R.-D. Bousseljot, W. Samek, T. Schaeffter. PTB-XL, a large publicly "
        "available electrocardiography dataset. PhysioNet, doi:10.13026/kfzx-aw45; Scientific Data 7, 154 (2020).",
        "PTB-XL+ 1.0.1, CC BY 4.0 (the 12SL statements): N. Strodthoff, T. Mehari, C. Nagel and others. PTB-XL+, a comprehensive "
        "electrocardiographic feature dataset. Scientific Data 10, 279 (2023), doi:10.1038/s41597-023-02153-8.",
        "A. L. Goldberger and others. PhysioBank, PhysioToolkit, and PhysioNet. Circulation 101(23), e215-e220 (2000).",
    ),
}
TITLES = {"ptbxl": "PTB-XL"}

Rows = Sequence[dict[str, Any]]


def card(run: Run, cohort: Cohort, scores: dict[str, Any], fitted: Sequence[PromptSetCalibration], name: str) -> str:
    """Return the README.md of the folder."""
    method, signal, optim = str(run.config.method["name"]), run.config.signal, run.config.optim
    source = str(run.provenance.get("source", "unknown"))
    title = TITLES.get(source, source)
    hashes = run.training_hashes
    n_trained = f"{len(hashes.people):,} patients" if hashes else "an unknown number of patients"
    n_parameters = sum(weight.numel() for weight in run.method.parameters())
    without = {f"{one.task}: {code}" for one in fitted for code in one.without}
    first = fitted[0]
    partial = ", ".join(dict.fromkeys(one.task for one in fitted if not one.is_of_all))
    lines = [
        "---",
        _metadata(run, scores, name, source, title).to_yaml(),
        "---",
        "",
        f"# {name}",
        "",
        f"An encoder of 12-lead ECGs and of report texts, trained with the method `{method}` of leadwise on {title}. "
        "**Research use only. Not a medical device.**",
        "",
        "## Use",
        "",
        "```python",
        "import leadwise as lw",
        "",
        f'model = lw.load("{name}")',
        'vectors = model.embed("ecg.xml")  # (1, D)',
        'table = model.findings("ecg.xml")  # the most probable findings',
        'table = model.zeroshot("ecg.xml", "super")  # cosine and probability of each class',
        "```",
        "",
        "Intended use: research on representations of ECGs, search in collections, a start for probes on labels of your own, "
        "teaching. Not intended: any decision about a patient, alarms, screening.",
        "",
        "## Input and output",
        "",
        f"- Leads: {', '.join(signal.leads)}; any may be missing. {signal.duration_s:g} s at {signal.rate_hz} Hz: other rates "
        f"are resampled, so nothing above {signal.rate_hz // 2} Hz is used. Scaling: `{signal.normalize}`.",
        f"- Embeddings: {', '.join(run.method.parts)}. {n_parameters:,} parameters, stored in float16, computed in "
        f"{optim.precision}.",
        f"- {first.sentence.split(';')[0]}. Prompt sets: {', '.join(dict.fromkeys(o.prompt_set for o in fitted))}."
        + (
            f" In {partial} only recordings with a label of the task count; its probabilities hold among these."
            if partial
            else ""
        )
        + (
            f" Without a probability, too few positives or no higher cosine: {', '.join(sorted(without))}."
            if without
            else ""
        ),
        "",
        "## Training data",
        "",
        f"- {title}, training split: {n_trained}; {optim.steps:,} steps of {optim.batch_size} recordings, seed {optim.seed}. "
        f"Fingerprint of the cohort: `{run.provenance.get('fingerprint', 'unknown')}`.",
        "- Texts: machine statements of GE's 12SL program, not reports of cardiologists. Prompts should be worded like them; "
        "names that they do not use can score low."
        if source == "ptbxl"
        else "- Texts: the reports of the cohort.",
        "- `trained_on.json` lists salted hashes of the training patients and of the samples, so that a score on recordings that "
        f"were trained on is reported as such. Of the test split: {scores['overlap']}",
        "",
        "## Scores",
        "",
        f"All scores of this section except the external ones are in-domain: the same hospitals and devices as in training. "
        f"Test split of {cohort.name}: {scores['n_test']} recordings, scored once. Macro AUROC with its 95 % interval over "
        "patients, x 100.",
        "",
        sections(scores, level="###"),
        "## Limits",
        "",
        "- Not a medical device. No score supports a decision about a patient.",
        "- In-domain scores are higher than scores on other devices and populations; external cohorts here are small.",
        "- Probabilities hold where findings are as frequent as in the calibration data. Elsewhere they are wrong even if the "
        "ranking is right: calibrate on your own labels (`leadwise calibrate`).",
        "- The labels and statements have errors, and the encoder repeats them.",
        "- The tokenizer contains words of the training texts.",
        "",
        "## Licence and attribution",
        "",
        "The weights are published under CC BY 4.0, as the data that they were trained on.",
        "",
        *(f"- {line}" for line in ATTRIBUTION.get(source, ())),
        *(
            f"- {row['data']}: {row['licence']}. {row['citation']}"
            for row in scores["external_about"]
            if row["citation"]
        ),
        "",
        f"Written by `benchmarks/shipped.py`, leadwise {__version__}.",
        "",
    ]
    return "\n".join(lines)


def _metadata(run: Run, scores: dict[str, Any], name: str, source: str, title: str) -> ModelCardData:
    """Return the metadata that a hub reads, with the zero-shot and probe scores."""
    results = [
        EvalResult(
            task_type="other",
            task_name=f"{row['task']}, zero-shot with the prompt set {row['prompts']}",
            dataset_type=source,
            dataset_name=title,
            dataset_config=f"{row['task']}, {row['prompts']}",  # results of equal data are merged otherwise
            dataset_split="test",
            metric_type="roc_auc",
            metric_name="macro AUROC",
            metric_value=round(row["macro"], 4),
        )
        for row in scores["zeroshot"]
        if row["encoder"] == "trained"
    ]
    return ModelCardData(
        model_name=name,
        eval_results=results,
        language="en",
        license=LICENCE,
        library_name="leadwise",
        pipeline_tag="feature-extraction",
        datasets=[source],
        metrics=["roc_auc", "brier_score"],
        tags=["ecg", "electrocardiogram", "leadwise", str(run.config.method["name"])],
    )


def sections(scores: dict[str, Any], level: str = "##") -> str:
    """Return every table of scores in Markdown."""
    groups = [_printed(row) for row in scores["groups"] if row["macro"] is not None]
    small = sorted({f"{row['task']}, {row['group']}" for row in scores["groups"] if row["macro"] is None})
    parts = [
        (
            "Zero-shot, by wording",
            "The class's name alone, with one criterion (`short`), and several texts in the style of a report (`rich`). ece, "
            "brier: of the calibrated probabilities. untrained: the same encoder without training.",
            [_printed(row) for row in scores["zeroshot"]],
        ),
        ("Gap between wordings", "Points of macro AUROC that a plainer wording costs.", gap_rows(scores)),
        (
            "Probe",
            "Logistic regression on frozen embeddings with 1, 10 and 100 % of the training labels; beside it the untrained "
            "encoder and hand-crafted features.",
            [_printed(row) for row in scores["probe"]],
        ),
        (
            "Sex and age",
            "A class counts in a group with five recordings with and five without it; compare a group with the last column."
            + (f" Too small: {'; '.join(small)}." if small else ""),
            groups,
        ),
        (
            "External data, zero-shot",
            "Every recording at hand is scored, without adaptation. Labels are matched to wordings by name. Classes with fewer "
            "than five positives, or without a wording, are left out and named, with their positives in brackets.",
            [_printed(row) for row in scores["external"]],
        ),
    ]
    return "\n".join(f"{level} {title}\n\n{text}\n\n{markdown(rows)}\n" for title, text, rows in parts if rows)


def gap_rows(scores: dict[str, Any]) -> list[dict[str, Any]]:
    """Return for each task the zero-shot score of each prompt set, and what the plainer ones lose against the last."""
    rows = []
    for task in dict.fromkeys(row["task"] for row in scores["zeroshot"]):
        macros = {
            row["prompts"]: 100 * row["macro"]
            for row in scores["zeroshot"]
            if row["task"] == task and row["encoder"] == "trained"
        }
        last = list(macros)[-1]
        row = {"task": task} | {name: f"{macro:.1f}" for name, macro in macros.items()}
        rows.append(row | {f"{last} - {name}": f"{macros[last] - macros[name]:.1f}" for name in list(macros)[:-1]})
    return rows


def _printed(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as it is printed: the score with its interval in one cell, x 100."""
    cells: dict[str, Any] = {}
    for key, value in row.items():
        if key == "macro":
            interval = "" if row.get("low") is None else f" ({100 * row['low']:.1f}–{100 * row['high']:.1f})"
            cells["macro AUROC"] = f"{100 * value:.1f}{interval}"
        elif key == "all patients, same classes":
            cells[key] = "" if value is None else f"{100 * value:.1f}"
        elif key not in ("low", "high"):
            cells[key] = f"{value:.3f}" if isinstance(value, float) else "" if value is None else value
    return cells
