"""The target `dual_phase`: ECG encoders trained with images of the heart in two phases, on simulated pairs with known bounds.

OUT/dual_phase_paired, dual_phase_shuffled, dual_phase_half   cohorts of simulated pairs (`dual_phase_data`)
OUT/dual_phase/                                               the page and its tables
OUT/runs/                                                     one run for each arm and seed
OUT/scores/                                                   predictions and recall of each run: nothing is scored twice
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.batch import Signal
from leadwise.config import Config, LogConfig, OptimConfig
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Recordings
from leadwise.evaluate.embed import Features, embed_cohort, scored_recordings
from leadwise.evaluate.handcrafted import handcrafted_features
from leadwise.evaluate.logistic_regression import ProbeError, fit
from leadwise.evaluate.metrics.auroc import auroc_score
from leadwise.evaluate.metrics.score import Floats, Score
from leadwise.evaluate.regress import RegressTask, make_regress_task, predict, rate_features, score_predictions
from leadwise.evaluate.ridge import N_FOLDS, patient_folds
from leadwise.evaluate.volume_retrieval import POOLS, embed_volumes, run_volume_retrieval
from leadwise.files import DamagedNpzError, read_npz, replacing
from leadwise.methods.catalogue import small_optim_settings, small_settings, with_defaults
from leadwise.pages.reproduction import ReproductionPage
from leadwise.pictures import bars
from leadwise.progress import Progress, relabel
from leadwise.reproduce import dual_phase_scores as scoring
from leadwise.reproduce import training_runs
from leadwise.reproduce.budget import Budget
from leadwise.reproduce.dual_phase_data import HALF, PAIRED, SHUFFLED, PairedData, describe, hearts, paired_data
from leadwise.reproduce.dual_phase_scores import PHENOTYPES, DualPhaseScores
from leadwise.reproduce.variants import Variant
from leadwise.run import Run

log = logging.getLogger(__name__)

N_PEOPLE = 4000  # 2,600 for pre-training, 700 to fit probes on, 700 to test
LEAST_PEOPLE = 120  # 21 to fit probes on
SEEDS = (0,)

TITLE = "Dual-phase CMR (arXiv 2602.12883) on simulated hearts: phenotypes, ablations and retrieval, with bounds"
NOTE = (
    "Simulated. The anatomy of each person decides the ECG and the images, by a model whose best possible predictions are "
    "known. The paper's tables are not accessible; its abstract has two numbers, printed beside ours for orientation only: "
    "what they are relative to, and on which phenotypes and outcomes of UK Biobank, is not comparable. Probes are ridge "
    "regressions on frozen features, fitted on the validation people, who are in no pre-training; the test people are scored "
    "once. Intervals resample test people and seeds."
)
_CONFIG = Config(
    signal=Signal(rate_hz=100, duration_s=10.0),
    optim=OptimConfig(steps=400),
    log=LogConfig(every=20, validate_every=200, validate_records=256, save_every=200),
)
_PHENOTYPES_OF = {
    "ed": ("lvedv", "lvmass", "rvedv"),
    "es": ("lvesv", "lvsv", "rvesv", "rvsv"),
}  # as in the paper's code
_ONE_SEED = f", of which {scoring.WITHOUT_DS}, {scoring.FROM_RANDOM} and {scoring.HALF} have the first only"
# What the encoder of a masked method is as an encoder of dual_phase_cmr: its kind, and the settings that both have.
_ENCODER_OF = {
    "pa_mae": ("resnet", ("resnet_width",)),
    "st_mem": ("lead_time", ("n_patches", "width", "depth", "heads")),
}
MASKED_METHODS = tuple(_ENCODER_OF)  # the first is the default


@dataclass(frozen=True)
class DualPhaseOptions:
    """What to compute."""

    out: Path
    budget: Budget = dataclasses.field(default_factory=Budget)
    seeds: tuple[int, ...] = ()  # none: SEEDS
    n_people: int = N_PEOPLE
    masked: Config | None = None  # settings of one of MASKED_METHODS; None: small ones of the first
    contrast: Config | None = None  # settings of dual_phase_cmr; None: small ones


@dataclass(frozen=True)
class Arm:
    """One contrast arm: its cohort, what it starts from, and its settings."""

    name: str
    cohort: str = PAIRED
    from_masked: bool = True
    every_seed: bool = True  # False: trained with the first seed only, as no acceptance line rests on it
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


def reproduce_dual_phase(options: DualPhaseOptions, progress: Progress) -> tuple[ReproductionPage, list[Variant]]:
    """Simulate, train and score what is missing; return the page, and the variants that were trained.

    Raises:
        CohortError: the folder has a cohort of another number of people.
        TrainingError: a run failed; the same call resumes it.
    """
    data = paired_data(options.out, options.n_people, progress)
    trained: list[Variant] = []
    scorer = _Scorer(options.out, data, progress)
    for seed in options.seeds or SEEDS:
        trained += _train_and_score(options, data, seed, scorer, progress)
    scores = scorer.scores()

    # the page
    lines = scoring.verdicts(scores)
    verdicts = scoring.verdict_lines(lines)
    figure = bars.draw(scoring.bars_of(scores), "R² of phenotypes from the ECG, test people", baseline=0.0, unit="R²")
    page = ReproductionPage(
        TITLE,
        scoring.phenotype_lines(scores),
        [],
        [
            (
                figure,
                "Frozen features; the bound is the best that any predictor from the ECG reaches. Simulated hearts.",
            ),
            (hearts(data.open()), "Three test people: leads, and slices of end-diastole and end-systole. Simulated."),
        ],
        f"{scoring.summary(lines)} {describe(data)} {_scale(trained)}",
        NOTE,
        more=[
            ("Acceptance", verdicts),
            ("Differences: what each part adds", scoring.ablation_lines(scores)),
            ("Retrieval, test people", scoring.retrieval_lines(scores)),
            ("The paper's readable numbers beside ours", scoring.paper_lines(scores)),
        ],
    )
    return page, trained


# -------------------------------------------------------------------------------------------------------- the arms


def arms(contrast: Config, masked: Config) -> list[Arm]:
    """Return the contrast arms."""
    kind, shared = _ENCODER_OF[str(masked.method["name"])]
    same_encoder = {"encoder": kind, **{key: masked.method[key] for key in shared}}
    return [
        Arm(scoring.BOTH),
        Arm(scoring.ED, settings={"w_es": 0.0, "w_ds": 0.0}),
        Arm(scoring.ES, settings={"w_ed": 0.0, "w_ds": 0.0}),
        Arm(scoring.WITHOUT_DS, every_seed=False, settings={"w_ds": 0.0}),
        Arm(scoring.FROM_RANDOM, from_masked=False, every_seed=False, settings=same_encoder),
        Arm(scoring.SHUFFLED, SHUFFLED),
        Arm(scoring.HALF, HALF, every_seed=False),
    ]


def _train_and_score(
    options: DualPhaseOptions, data: PairedData, seed: int, scorer: _Scorer, progress: Progress
) -> list[Variant]:
    """Train the arms of one seed and score them; return the variants."""
    runs = options.out / "runs"
    is_first = seed == (options.seeds or SEEDS)[0]
    trained: list[Variant] = []

    def train(label: str, config: Config, cohort: str, n_steps: int | None = None) -> Run:
        config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, seed=seed))
        variant = training_runs.with_cohort(Variant(label, with_defaults(config)), data.folders[cohort])
        training_runs.check_variant(variant)
        if n_steps is None:
            variant = training_runs.with_budget(options.budget, options.out, variant)
        else:
            variant = dataclasses.replace(variant, config=Budget(steps=n_steps).of(variant.config))
        log.info("%s, seed %d: %d steps", label, seed, variant.config.optim.steps)
        trained.append(variant)
        return training_runs.load_or_train(runs, variant, progress)

    # stages 1 and 2: the masked ECG encoder, and the image encoders
    masked_config = options.masked or small_masked_config()
    contrast = options.contrast or small_config("dual_phase_cmr")
    masked = train(scoring.MASKED, masked_config, PAIRED)
    scorer.add(scoring.MASKED, masked, seed)
    scorer.add(scoring.RANDOM, masked.untrained(seed), seed, folder=masked.folder)
    images: dict[str, Run] = {}
    n_steps: int | None = None  # of both image encoders
    for label, cohort in ((scoring.CMR, PAIRED), (scoring.CMR_HALF, HALF))[: 2 if is_first else 1]:
        images[cohort] = train(label, stage_cmr(contrast), cohort, n_steps)
        n_steps = images[cohort].config.optim.steps
        scorer.add_images(label, images[cohort], cohort, seed)

    # stage 3: all arms have the steps of the first one
    n_steps = None
    for arm in arms(contrast, masked.config):
        if not (arm.every_seed or is_first):
            continue
        volumes = images[HALF if arm.cohort == HALF else PAIRED].folder
        init = str(masked.folder) if arm.from_masked else ""
        config = dataclasses.replace(
            contrast,
            data=dataclasses.replace(contrast.data, init=init, init_volume=str(volumes)),
            method={**contrast.method, **arm.settings},
        )
        run = train(arm.name, config, arm.cohort, n_steps)
        n_steps = run.config.optim.steps
        scorer.add(arm.name, run, seed)
        scorer.add_retrieval(arm.name, run, HALF if arm.cohort == HALF else PAIRED, seed)
    return trained


def stage_cmr(contrast: Config) -> Config:
    """Return the settings of the image encoders for those of the contrast: each phase predicts its phenotypes."""
    names = [name for each in _PHENOTYPES_OF.values() for name in each]
    phase_of = [phase for phase, each in _PHENOTYPES_OF.items() for _ in each]
    method = {**contrast.method, "stage": "cmr", "phenotypes": names, "phase_of": phase_of}
    return dataclasses.replace(contrast, method=method)


def small_config(method: str) -> Config:
    """Return the settings of a method for two CPU cores and the simulated pairs."""
    optim = dataclasses.replace(_CONFIG.optim, **small_optim_settings(method))
    return with_defaults(dataclasses.replace(_CONFIG, method=small_settings(method), optim=optim))


def small_masked_config() -> Config:
    """Return the settings of masked ECG: `small_config` without the phase target, which this paper does not have."""
    config = small_config(MASKED_METHODS[0])
    return dataclasses.replace(config, method={**config.method, "w_phase": 0.0})


# ------------------------------------------------------------------------------------------------------- the scores


class _Scorer:
    """Collects the predictions and the recall of each arm over its seeds; what is stored is not computed again."""

    def __init__(self, out: Path, data: PairedData, progress: Progress) -> None:
        self.folder, self.data, self.progress = out / "scores", data, progress
        self.cohort = data.open()
        self.predictions: dict[str, list[Floats]] = {}
        self.image_predictions: dict[str, list[Floats]] = {}
        self.outcome_scores: dict[str, list[Floats]] = {}
        self.recall: dict[str, list[dict[str, Any]]] = {}
        self.widths: dict[str, int] = {}
        self.n_in_training = 0
        self.rows: NDArray[np.int64] | None = None
        self.task: RegressTask | None = None

    def add(self, name: str, run: Run, seed: int, folder: Path | None = None) -> None:
        """Add an arm: predictions of the phenotypes and scores of the outcomes from its frozen ECG encoder."""
        rows, task = self._task(run)
        self.n_in_training = max(self.n_in_training, run.overlap(scored_recordings(self.cohort, rows)).n_leaked)
        where = self.folder / f"{(run.folder or folder or Path(name)).name}"

        def compute() -> dict[str, NDArray[Any]]:
            progress = relabel(self.progress, f"{name}, seed {seed}: embed")
            features = embed_cohort(run, self.cohort, "backbone", rows, progress, where / "embeddings")
            return {**self._fit(features, task), "outcomes": self._outcomes(features, rows, task)}

        stored = _load_or_compute(where / f"{_slug(name)}.npz", self._inputs(run, self.cohort), compute)
        self.predictions.setdefault(name, []).append(stored["predictions"])
        self.outcome_scores.setdefault(name, []).append(stored["outcomes"])
        self.widths[name] = int(stored["width"])

    def add_images(self, name: str, run: Run, cohort_name: str, seed: int) -> None:
        """Add predictions of the phenotypes from the image encoders of stage "cmr"."""
        cohort = self.data.open(cohort_name)
        assert run.folder is not None
        all_rows = np.concatenate([cohort.rows("val"), cohort.rows("test")])
        rows = np.sort(all_rows[cohort.has_volume(all_rows).all(axis=1)])
        assert np.array_equal(rows, self._rows())  # the same people, all with both phases

        def compute() -> dict[str, NDArray[Any]]:
            progress = relabel(self.progress, f"{name}, seed {seed}: embed")
            return self._fit(embed_volumes(run, cohort, rows, progress, ["both"])["both"], self._known_task())

        path = self.folder / run.folder.name / f"{_slug(name)}.npz"
        stored = _load_or_compute(path, self._inputs(run, cohort), compute)
        self.image_predictions.setdefault(name, []).append(stored["predictions"])
        self.widths[name] = int(stored["width"])

    def add_retrieval(self, name: str, run: Run, cohort_name: str, seed: int) -> None:
        """Add the recall of an arm between ECGs and images of the test people."""
        cohort = self.data.open(cohort_name)
        assert run.folder is not None
        path = self.folder / run.folder.name / "retrieval.json"
        inputs = self._inputs(run, cohort)
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            table = {}
        if table.get("inputs") != inputs:
            n_test = len(cohort.rows("test"))
            pools = [size for size in POOLS if size <= n_test] or [max(2, n_test // 2)]
            report = run_volume_retrieval(
                run, cohort, pools=pools, progress=relabel(self.progress, f"{name}: retrieve")
            )
            entries = {
                direction: {
                    str(size): {
                        **one.to_json(),
                        "standard_error": {str(k): float(values.std()) for k, values in one.replicates.items()},
                    }
                    for size, one in pools.items()
                }
                for direction, pools in report.trained.items()
            }
            table = {"inputs": inputs, "directions": entries}
            with replacing(path) as part:
                part.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        self.recall.setdefault(name, []).append(table["directions"])

    def scores(self) -> DualPhaseScores:
        """Return the scores of all arms, means over their seeds, with the controls."""
        rows, task = self._rows(), self._known_task()
        progress = relabel(self.progress, "hand-crafted features")
        crafted = handcrafted_features(Recordings(self.cohort, _CONFIG.signal, rows), progress=progress)
        controls: dict[str, NDArray[Any]] = {scoring.RATE: rate_features(crafted), scoring.CRAFTED: crafted}
        phenotypes = {
            name: score_predictions(name, predict(features, task)[0], task, features.shape[1])
            for name, features in controls.items()
        }
        for name in (scoring.RANDOM, *self.predictions):
            predictions = np.stack(self.predictions[name])
            phenotypes[name] = score_predictions(name, predictions, task, self.widths[name], draw_repeats=True)
        both = np.stack(self.predictions[scoring.BOTH])
        first = score_predictions(scoring.BOTH, both[:1], task, self.widths[scoring.BOTH]) if len(both) > 1 else None
        test = rows[task.test]
        outcome_labels, patients = self.cohort.labels("outcome", test), task.patient[task.test]
        outcomes: dict[str, Score] = {}
        if np.ptp(outcome_labels, axis=0).any():  # among few people there may be none
            for name, each in self.outcome_scores.items():
                classes = self.cohort.tasks["outcome"]
                outcomes[name] = scoring.over_seeds(
                    [auroc_score(outcome_labels, one, patients, classes) for one in each]
                )
        return DualPhaseScores(
            phenotypes=phenotypes,
            images={
                name: score_predictions(name, np.stack(each), task, self.widths[name], draw_repeats=True)
                for name, each in self.image_predictions.items()
            },
            retrieval={
                name: {
                    (direction, int(size)): scoring.recall_of([seed[direction][size] for seed in seeds])
                    for direction, pools in seeds[0].items()
                    for size in pools
                }
                for name, seeds in self.recall.items()
            },
            outcomes=outcomes,
            bounds=dict(self.cohort.bounds),
            oracle=self.data.oracle,
            ef_shift=self.data.ef_shift,
            n_in_training=self.n_in_training,
            both_first=first,
        )

    def _task(self, run: Run) -> tuple[NDArray[np.int64], RegressTask]:
        if self.rows is None or self.task is None:
            self.rows, self.task, _ = make_regress_task(self.cohort, PHENOTYPES, "val", [run])
        return self.rows, self.task

    def _rows(self) -> NDArray[np.int64]:
        assert self.rows is not None
        return self.rows

    def _known_task(self) -> RegressTask:
        assert self.task is not None
        return self.task

    def _fit(self, features: Features, task: RegressTask) -> dict[str, NDArray[Any]]:
        return {"predictions": predict(features, task)[0][0], "width": np.array(features.shape[1])}

    def _outcomes(self, features: Features, rows: NDArray[np.int64], task: RegressTask) -> Floats:
        """Return the logits (M, K) of the outcomes of the test people, by a probe on the people of the fit."""
        labels = self.cohort.labels("outcome", rows)
        held_out = patient_folds(task.patient[task.fit], N_FOLDS) == 0
        fitted, checked = task.fit[~held_out], task.fit[held_out]
        try:
            model = fit(features[fitted], labels[fitted], features[checked], labels[checked])
        except ProbeError as error:
            log.warning("no outcome can be predicted (%s); more --people have more of them", error)
            return np.zeros((len(task.test), labels.shape[1]))
        return model.scores(features[task.test])

    def _inputs(self, run: Run, cohort: Cohort) -> dict[str, str]:
        return {"run": run.fingerprint, "cohort": cohort.fingerprint}


def _load_or_compute(
    path: Path, inputs: dict[str, str], compute: Callable[[], dict[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file that were computed from these inputs; else compute and store them."""
    of = json.dumps(inputs)
    if path.is_file():
        try:
            stored = read_npz(path)
            if str(stored["of"]) == of:
                return stored
        except (DamagedNpzError, KeyError) as error:  # computed again
            log.warning("%s cannot be used (%s): scored again", path, error)
    arrays = compute()
    with replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(file, of=np.array(of), **arrays)  # type: ignore[arg-type]
    return arrays


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name.lower())


def _scale(trained: Sequence[Variant]) -> str:
    """Return sentences on the training."""
    seeds = sorted({one.config.optim.seed for one in trained})
    by_label = {one.label: one.config for one in trained}
    masked, images, both = (by_label[name] for name in (scoring.MASKED, scoring.CMR, scoring.BOTH))
    return (
        f"Steps: masked ECG {masked.optim.steps:,} of {masked.optim.batch_size}, image encoders {images.optim.steps:,} of "
        f"{images.optim.batch_size}, each contrast arm {both.optim.steps:,} of {both.optim.batch_size}; seeds "
        f"{', '.join(map(str, seeds))}{_ONE_SEED if len(seeds) > 1 else ''}. Arms start from masked ECG unless named otherwise, "
        "with frozen image encoders."
    )
