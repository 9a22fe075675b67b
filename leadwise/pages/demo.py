"""The demo's HTML page: findings of three ECG files, a reconstructed ECG, scores, loss curves and a map of embeddings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from leadwise.config import dumps
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Recordings
from leadwise.ecg import ECG
from leadwise.evaluate.embed import embed_cohort, project
from leadwise.evaluate.probe import ProbeReport
from leadwise.evaluate.zeroshot import ZeroShotReport
from leadwise.pages.html import Page
from leadwise.pictures import (
    bars,
    curves,
    paper,
    scatter,
)
from leadwise.run import Run, isolated_random_state

MAP_CLASSES = ("NORM", "AFIB", "CLBBB", "CRBBB", "LVH", "IMI", "PACE")  # classes that have a colour on the map
REMARK_KEYS = ("skipped", "unlearnable")  # columns of a score row that are printed as remarks below the table


@dataclass(frozen=True)
class ExampleECG:
    """One ECG file, and what a run finds in it."""

    name: str
    format: str
    simulated: tuple[str, ...]  # plain names of the findings that were simulated
    ecg: ECG
    findings: list[dict[Any, Any]]  # the most probable first; columns of `Model.findings`

    @property
    def line(self) -> str:
        """The most probable findings in one line."""
        return ", ".join(f"{row['finding']} {row['probability']:.0%}" for row in self.findings[:3])


@dataclass(frozen=True)
class ExampleReadings:
    """What a run finds in the example files."""

    run: str
    is_shipped: bool  # weights that ship with leadwise; otherwise the run of the demo
    fitted_on: str  # the data of the calibration
    examples: tuple[ExampleECG, ...]

    @property
    def title(self) -> str:
        """The title of the table."""
        return f"three example files: the most probable findings by {self.run}"

    @property
    def sentence(self) -> str:
        """Which run this is, and what its probabilities mean."""
        if self.is_shipped:
            which = (
                f"The weights {self.run}, which ship with leadwise and were trained on recordings of patients, find this in "
                "three simulated ECGs."
            )
        else:
            which = "This version ships no weights, so the run of this demo reads three more simulated ECGs."
        return (
            f"{which} Probabilities are calibrated on {self.fitted_on}; share: how many of those recordings have the finding. A "
            "probability near the share states nothing about this ECG."
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per file and finding."""
        return [
            {
                "file": example.name,
                "format": example.format,
                "simulated": ", ".join(example.simulated),
                **{key: row[key] for key in ("finding", "probability", "share")},
            }
            for example in self.examples
            for row in example.findings
        ]


def build_page(
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
    remarks: Sequence[str],
    zeroshot: ZeroShotReport,
    probe: ProbeReport,
    run: Run,
    cohort: Cohort,
    examples: ExampleReadings,
) -> Page:
    """Return the page of a demo run.

    Args:
        tables: rows by table title, drawn in this order under "Scores".
        remarks: sentences below the tables, such as classes without a score.
        zeroshot: the zero-shot scores; `zeroshot.task` is also the task of the map.
        probe: the probe's scores.
        run: the pretrained run, with its folder.
        cohort: the simulated cohort that the run was trained on.
        examples: the findings of the example files.
    """
    # what the page is about, and what it does not show
    page = Page("leadwise on simulated ECGs")
    n_patients = len(cohort.patients.distinct(cohort.rows()))
    page.text(
        f"{len(cohort)} simulated 12-lead ECGs of {n_patients} simulated patients, split by patient. CG-DMER was pretrained on "
        "the ECGs and reports of the training split, without labels. Simulated ECGs test that everything works, from files to "
        "scores. They do not predict accuracy on real patients."
    )

    _add_examples(page, examples)

    # one ECG, as the model gets it and as it reconstructs it
    page.heading("Reconstruction of hidden patches")
    page.figure(
        draw_reconstruction(run, cohort),
        "A held-out ECG. Shaded: patches hidden from the encoder. Coloured line: the decoder's reconstruction; each patch is "
        "rescaled to its true mean and spread.",
        "ECG on paper grid with hidden patches and their reconstruction",
    )

    # the scores: the picture, tables, remarks on classes without a score
    page.heading("Scores")
    dots = [{"name": "zero-shot", "group": row["features"], **_interval(row)} for row in zeroshot.rows()[:2]]
    dots += [
        {"name": f"probe {row['fraction']:.0%}", "group": row["features"], **_interval(row)} for row in probe.rows()
    ]
    page.figure(
        bars.draw(dots, "macro AUROC"), "Scores with 95 % confidence intervals over patients.", "dots with intervals"
    )
    for title, rows in tables.items():
        page.table([{key: value for key, value in row.items() if key not in REMARK_KEYS} for row in rows], title)
    for remark in remarks:
        page.text(remark)
    page.table(zeroshot.class_rows(), "zero-shot, each finding")

    page.heading("Map of the embeddings")
    page.figure(
        draw_map(run, cohort, zeroshot.task),
        "t-SNE of the encoder's embeddings of test recordings. A recording has the colour of the first finding in this order "
        f"that it is labelled with: {', '.join(MAP_CLASSES)}.",
        "scatter of embeddings",
    )

    # the run: loss curves, settings
    page.heading("Training")
    assert run.folder is not None
    metrics = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    page.figure(curves.draw(metrics), "Each loss term on training batches and on held-out patients.", "loss curves")
    with page.folded("Settings of the run"):
        page.preformatted(dumps(run.config))
    return page


def _add_examples(page: Page, examples: ExampleReadings) -> None:
    """Add the tracing of each example file with its most probable findings, then the table of all."""
    page.heading("Three ECG files, and what the model finds in them")
    for example in examples.examples:
        figure = paper.draw(
            example.ecg.signal,
            example.ecg.rate_hz,
            example.ecg.leads,
            title=f"{example.name} ({example.format})",
            observed=example.ecg.observed,
            notes=[example.line],
        )
        caption = f"Simulated: {', '.join(example.simulated)}. The model: {example.line}."
        page.figure(figure, caption, f"12-lead ECG of {example.name} on paper grid")
    page.text(examples.sentence)
    page.table(examples.rows(), examples.title)


def _interval(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"value": row["macro"], "low": row["low"], "high": row["high"]}


def draw_reconstruction(run: Run, cohort: Cohort, row: int | None = None) -> Figure:
    """Return a figure of one ECG with its hidden patches and their reconstruction; default: the first of the val split."""
    rows = cohort.rows(split="val")[:1] if row is None else np.array([row])
    batch = Recordings(cohort, run.config.signal, rows).batch([0]).to(next(run.method.parameters()).device)
    with isolated_random_state():
        torch.manual_seed(0)
        reconstruction, hidden = run.method.reconstruct(batch)
    return paper.draw(
        batch.ecg[0].cpu().numpy(),
        run.config.signal.rate_hz,
        run.config.signal.leads,
        title=batch.record[0],
        observed=batch.observed[0].cpu().numpy(),
        hidden=hidden[0].cpu().numpy(),
        reconstruction=reconstruction[0].cpu().numpy(),
    )


def draw_map(run: Run, cohort: Cohort, task: str) -> Figure:
    """Return a t-SNE figure of the test recordings' embeddings, coloured by the first of MAP_CLASSES that is positive."""
    rows = cohort.rows(split="test", task=task)
    points = project(embed_cohort(run, cohort, "backbone", rows))
    labels, classes = cohort.labels(task, rows), cohort.tasks[task]
    coloured = [name for name in MAP_CLASSES if name in classes]
    groups = [next((name for name in coloured if line[classes.index(name)] == 1), "") for line in labels]
    return scatter.draw(points, groups)
