"""Relatives of dual-phase CMR on simulated pairs of ECG and heart: PTACL, EchoingECG, MyoECG, a scar anchor, a phase target.

    python benchmarks/cmr_relatives.py -o reproduced --minutes 3 --seeds 0      every row, then the page
    python benchmarks/cmr_relatives.py -o reproduced --page-only                the page from the stored rows
    python benchmarks/cmr_relatives.py -o trial --people 160 --infarct-people 160 --steps 3 --page trial/page.md    a trial

-o is an output folder of `leadwise reproduce dual_phase`, or a new one. Its cohorts are used, and made where they are missing; so
are its runs of the masked ECG encoder, of the image encoders, of ED + ES and of the shuffled pairs, with any number of steps, if
they are finished and have these settings. Every other row is trained for --minutes of processor time of one core; rows that are
compared with each other have equal steps. A run that was interrupted continues, and a row that is stored is not computed again.

-o/relatives has one JSON file and one array file for each row and seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cmr_relatives_page import (
    BOTH,
    ECHO,
    ECHO_IMAGES,
    ETP,
    GLOBAL,
    INFARCT_ED_ES,
    INFARCT_SCAR,
    MASKED,
    MYO,
    PHASE,
    PTACL,
    RANDOM,
    RELATIONAL,
    SHUFFLED_PAIRS,
    Json,
    Results,
    write_page,
)
from numpy.typing import NDArray
from scipy.stats import spearmanr

from leadwise import run as runs
from leadwise.batch import Signal
from leadwise.config import Config, LogConfig, OptimConfig
from leadwise.data import reports
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write
from leadwise.data.loader import Recordings
from leadwise.data.simulator.paired.cohort import PairSettings, simulate_pairs
from leadwise.data.sources import ecg_cmr
from leadwise.evaluate.embed import embed_batch, embed_cohort, frozen
from leadwise.evaluate.logistic_regression import ProbeError, fit
from leadwise.evaluate.metrics.auroc import auroc_score
from leadwise.evaluate.regress import make_regress_task, predict
from leadwise.evaluate.retrieve import RetrievalError, run_retrieval
from leadwise.evaluate.ridge import N_FOLDS, patient_folds
from leadwise.evaluate.text_embeddings import text_uncertainties
from leadwise.evaluate.volume_retrieval import run_volume_retrieval
from leadwise.files import replacing
from leadwise.methods.catalogue import small_optim_settings, small_settings, volume_setting, with_defaults
from leadwise.progress import Progress
from leadwise.reproduce import dual_phase, training_runs
from leadwise.reproduce.budget import Budget
from leadwise.reproduce.dual_phase_data import PAIRED, SHUFFLED, PairedData, paired_data
from leadwise.reproduce.dual_phase_scores import PHENOTYPES, POOL
from leadwise.reproduce.variants import Variant
from leadwise.run import Run

log = logging.getLogger(__name__)

CMR = "image encoders"
INFARCTS = "relatives_infarcts"  # the cohort with scar images
INFARCT_SEED = 1  # other people than those of the pairs
NOISE_MV = 0.5  # largest standard deviation of the noise that is added
PAGE = Path(__file__).parent / "results" / "cmr_relatives.md"


@dataclass(frozen=True)
class Row:
    """One row: a training and what it starts from."""

    name: str
    method: str
    settings: Json = field(default_factory=dict)
    cohort: str = PAIRED
    from_masked: bool = False
    with_images: bool = False  # image encoders of stage "cmr", frozen
    steps_of: str = ""  # the row whose number of steps it has
    optim: Json = field(default_factory=dict)
    reused: bool = False  # a finished run of the folder with these settings and any number of steps will do


_STAGE_2: Json = {
    key: dual_phase.stage_cmr(dual_phase.small_config("dual_phase_cmr")).method[key]
    for key in ("stage", "phenotypes", "phase_of")
}
_SCAR_VOLUME = {"volume": {"phases": ["ed", "es", "scar"]}}
_OPTIM = {"batch_size": 128, "lr": 1e-3, "weight_decay": 0.02}  # those of the methods that read images
ROWS = (
    Row(MASKED, dual_phase.MASKED_METHODS[0], {"w_phase": 0.0}, reused=True),
    Row(PHASE, dual_phase.MASKED_METHODS[0], {"w_phase": 0.1}, steps_of=MASKED),
    Row(CMR, "dual_phase_cmr", _STAGE_2, reused=True),
    Row(BOTH, "dual_phase_cmr", from_masked=True, with_images=True, reused=True),
    Row(
        RELATIONAL, "dual_phase_cmr", {"target": "relational", "phenotypes": list(PHENOTYPES)}, from_masked=True,
        with_images=True, steps_of=BOTH,
    ),
    Row(SHUFFLED_PAIRS, "dual_phase_cmr", cohort=SHUFFLED, from_masked=True, with_images=True, steps_of=BOTH, reused=True),
    Row(MYO, "myo_ecg", from_masked=True, with_images=True),
    Row(PTACL, "ptacl"),
    Row(GLOBAL, "ptacl", {"w_local": 0.0}, steps_of=PTACL),
    Row(ECHO, "echoing_ecg", optim=_OPTIM),
    Row(ETP, "etp", {"noise_mv": 0.3}, steps_of=ECHO, optim=_OPTIM),  # as EchoingECG's
    Row(ECHO_IMAGES, "echoing_ecg", {"w_volume": 1.0}, with_images=True, optim=_OPTIM),
    Row(INFARCT_ED_ES, "dual_phase_cmr", cohort=INFARCTS, from_masked=True),
    Row(INFARCT_SCAR, "dual_phase_cmr", _SCAR_VOLUME, cohort=INFARCTS, from_masked=True, steps_of=INFARCT_ED_ES),
)  # fmt: skip


def config_of(row: Row) -> Config:
    """Return the small settings of a row, as `leadwise reproduce dual_phase` has them."""
    method = {**small_settings(row.method), **row.settings}
    signal = Signal(rate_hz=100, duration_s=10.0)
    if row.method in ("echoing_ecg", "etp"):
        signal = dataclasses.replace(signal, normalize="lead_zscore")  # EchoingECG's
    return with_defaults(
        Config(
            signal=signal,
            method=method,
            optim=OptimConfig(**{"steps": 400, **small_optim_settings(row.method), **row.optim}),
            log=LogConfig(every=20, validate_every=200, validate_records=256, save_every=200),
        )
    )


# ----------------------------------------------------------------------------------------------------- the training


class Trainer:
    """Trains the rows of one seed; what is finished is loaded."""

    def __init__(self, out: Path, budget: Budget, data: PairedData, infarcts: Path, seed: int) -> None:
        self.out, self.budget, self.seed = out, budget, seed
        self.cohorts = {**data.folders, INFARCTS: infarcts}
        self.trained: dict[str, Run] = {}

    def run_of(self, row: Row) -> Run:
        """Return the trained run of a row, and train first what it starts from."""
        if row.name in self.trained:
            return self.trained[row.name]
        config = config_of(row)
        data = dataclasses.replace(
            config.data,
            cohort=str(self.cohorts[row.cohort]),
            init=str(self.run_of(row_named(MASKED)).folder) if row.from_masked else "",
            init_volume=str(self.run_of(row_named(CMR)).folder) if row.with_images else "",
        )
        n_train = len(Cohort.open(self.cohorts[row.cohort]).rows("train"))
        optim = dataclasses.replace(config.optim, seed=self.seed, batch_size=min(config.optim.batch_size, n_train // 2))
        config = dataclasses.replace(config, data=data, optim=optim)
        run = self._stored(config) if row.reused else None
        if run is None:
            variant = Variant(row.name, config)
            training_runs.check_variant(variant)
            if row.steps_of:
                steps = self.run_of(row_named(row.steps_of)).config.optim.steps
                variant = dataclasses.replace(variant, config=Budget(steps=steps).of(config))
            else:
                variant = training_runs.with_budget(self.budget, self.out, variant)
            steps = variant.config.optim.steps
            print(f"{row.name}, seed {self.seed}: {steps} steps of {config.optim.batch_size}", flush=True)
            run = training_runs.load_or_train(self.out / "runs", variant, in_tenths(row.name))
        self.trained[row.name] = run
        return run

    def _stored(self, config: Config) -> Run | None:
        """Return the finished run with most steps that has these settings but for the steps, None without one."""
        candidates: list[tuple[int, Path]] = []
        for folder in sorted((self.out / "runs").glob(f"{config.method['name']}-*")):
            try:
                stored = runs.open_without_weights(folder).config
            except (OSError, ValueError, runs.RunError) as error:
                log.info("%s is not used (%s)", folder, error)
                continue
            if comparable(stored) == comparable(config) and last_step(folder) == stored.optim.steps:
                candidates.append((stored.optim.steps, folder))
        if not candidates:
            return None
        steps, folder = max(candidates)
        print(f"{folder} is used: {steps} steps", flush=True)
        return runs.load(folder, config.optim.device)


def comparable(config: Config) -> Json:
    """Return what two configs must have in common to be the same row: everything but steps, logs and folders.

    All runs of an output folder are trained on its cohorts, whose names suffice.
    """
    return {
        "signal": config.signal,
        "cohort": Path(config.data.cohort).name,
        "starts": (bool(config.data.init), bool(config.data.init_volume)),
        "method": json.dumps(with_defaults(config).method, sort_keys=True, default=str),
        "optim": dataclasses.replace(config.optim, steps=1),
    }


def last_step(folder: Path) -> int | None:
    """Return the step of the last line of a run's log if it is of a validation, and the weights exist."""
    try:
        line = json.loads((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return None
    is_end = line.get("split") == "val" and (folder / "model.safetensors").is_file()
    return int(line["step"]) if is_end else None


def row_named(name: str) -> Row:
    return next(row for row in ROWS if row.name == name)


def in_tenths(name: str) -> Progress:
    """Return a callback that prints a line ten times in each training."""
    printed: set[tuple[str, int]] = set()

    def report(what: str, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if (what, tenth) not in printed:
            printed.add((what, tenth))
            print(f"  {name}: {what.partition('|')[2] or what} {done} of {total}", flush=True)

    return report


# ---------------------------------------------------------------------------------------------------- the judging


class Judge:
    """Scores runs on the test people and stores the result; a stored one of the same run and cohort is read."""

    def __init__(self, out: Path, data: PairedData, infarcts: Path) -> None:
        self.folder = out / "relatives"
        self.pairs, self.infarcts = data.open(), Cohort.open(infarcts)

    def score(self, name: str, run: Run, seed: int, retrieve: bool = True) -> None:
        """Score a row: R² of phenotypes, retrieval where it embeds images, and what its method is judged by besides."""
        cohort = self.infarcts if name in (INFARCT_ED_ES, INFARCT_SCAR) else self.pairs
        stem = self.folder / f"{slug(name)}-seed{seed}"
        inputs = {"run": run.fingerprint, "cohort": cohort.fingerprint}
        if stored_inputs(stem.with_suffix(".json")) == inputs and stem.with_suffix(".npz").is_file():
            return
        print(f"{name}, seed {seed}: scored", flush=True)
        rows, task, _ = make_regress_task(cohort, PHENOTYPES, "val", [run])
        features = embed_cohort(run, cohort, "backbone", rows, None, stem.parent / "embeddings")
        arrays: dict[str, NDArray[Any]] = {"predictions": predict(features, task)[0][0]}
        result: Json = {
            "row": name, "seed": seed, "of": inputs, "width": features.shape[1], "steps": run.config.optim.steps,
            "batch_size": run.config.optim.batch_size,
        }  # fmt: skip
        if cohort is self.infarcts:
            arrays["territory"] = probe_territory(features, cohort, rows, task.fit, task.test, task.patient)
        elif retrieve and run.method.embeds_volume and "shared" in run.method.parts:
            result["retrieval"] = retrieval_of(run, cohort)
        test = rows[task.test]
        if name in (PTACL, GLOBAL):
            result["local"] = local_accuracy(run, cohort, test)
        if name in (ECHO, ECHO_IMAGES):
            result |= {"vague": vague_reports(run, cohort, test), "noise": noise_uncertainty(run, cohort, test)}
        if name in (ECHO, ECHO_IMAGES, ETP):
            result["reports"] = run_retrieval(run, cohort).to_json()
        self._write(stem, result, arrays)

    def _write(self, stem: Path, result: Json, arrays: dict[str, NDArray[Any]]) -> None:
        stem.parent.mkdir(parents=True, exist_ok=True)
        with replacing(stem.with_suffix(".npz")) as part, part.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        with replacing(stem.with_suffix(".json")) as part:
            part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def retrieval_of(run: Run, cohort: Cohort) -> Json:
    """Return recall in pools of 256 by direction, or in smaller ones where there are fewer test people."""
    size = min(POOL, len(np.unique(cohort.patients.take(cohort.rows("test")))))
    try:
        report = run_volume_retrieval(run, cohort, pools=[size])
    except RetrievalError as error:
        log.warning("no retrieval: %s", error)
        return {}
    return {
        name: {
            "pool": size,
            "recall": {str(k): value for k, value in pools[size].recall.items()},
            "standard_error": {str(k): float(values.std()) for k, values in pools[size].replicates.items()},
            "median_rank": pools[size].median_rank,
            "thirds": [third.to_json() for third in pools[size].by_uncertainty],
        }
        for name, pools in report.trained.items()
    }


def probe_territory(
    features: NDArray[Any], cohort: Cohort, rows: NDArray[np.int64], fit_on: NDArray[np.int64], test: NDArray[np.int64],
    patient: NDArray[Any],
) -> NDArray[Any]:  # fmt: skip
    """Return the logits (M, 3) of the infarct's territory of the test people."""
    labels = cohort.labels("infarct", rows)
    held_out = patient_folds(patient[fit_on], N_FOLDS) == 0
    fitted, checked = fit_on[~held_out], fit_on[held_out]
    try:
        model = fit(features[fitted], labels[fitted], features[checked], labels[checked])
    except ProbeError as error:
        log.warning("no territory can be predicted (%s); --infarct-people has more of them", error)
        return np.zeros((len(test), labels.shape[1]))
    return np.asarray(model.scores(features[test]))


def local_accuracy(run: Run, cohort: Cohort, rows: NDArray[np.int64]) -> Json:
    """Return PTACL's accuracy of the phase within a record, also with the ECG of another person; without L_local nothing."""
    figures, n = {"local_top1": 0.0, "local_top1_other": 0.0}, 0
    recordings = Recordings(cohort, run.config.signal, rows, volume=volume_setting(run.config))
    with frozen(run.method):
        for batch in recordings.batches(128):
            measured = run.method.measure(batch)
            if "local_top1" not in measured:
                return {}
            figures = {name: value + len(batch) * measured[name] for name, value in figures.items()}
            n += len(batch)
    return {**{name: value / n for name, value in figures.items()}, "n": n, "chance": 0.5}


def vague_reports(run: Run, cohort: Cohort, rows: NDArray[np.int64]) -> Json:
    """Return the AUROC with which the uncertainty of a report finds those that several test people have.

    Such reports are short: the AUROC of the number of words, with its sign turned, is beside it.
    """
    cleaned = [reports.clean(text) for text in cohort.reports.take(rows)]
    distinct, counts = np.unique([text for text in cleaned if text], return_counts=True)
    is_repeated = (counts > 1)[:, None]
    if is_repeated.all() or not is_repeated.any():
        return {}
    texts = [str(text) for text in distinct]
    names = np.arange(len(texts)).astype(str)
    n_words = np.array([[float(len(text.split()))] for text in texts])
    score = auroc_score(is_repeated, text_uncertainties(run, texts)[:, None], names, ["repeated"])
    words = auroc_score(is_repeated, -n_words, names, ["repeated"])
    return {
        "auroc": score.macro, "interval": list(score.interval), "auroc_of_few_words": words.macro,
        "n_reports": len(texts), "n_repeated": int(is_repeated.sum()),
    }  # fmt: skip


def noise_uncertainty(run: Run, cohort: Cohort, rows: NDArray[np.int64]) -> Json:
    """Return Spearman's correlation of the uncertainty of test ECGs with the white noise that is added to them.

    Each ECG has one level between 0 and NOISE_MV, in random order.
    """
    level = np.random.default_rng(0).permutation(np.linspace(0, NOISE_MV, len(rows)))
    generator, values = torch.Generator().manual_seed(0), []
    begin = 0
    for batch in Recordings(cohort, run.config.signal, rows).batches(128):
        sd = torch.from_numpy(level[begin : begin + len(batch)]).to(batch.ecg.dtype)[:, None, None]
        noise = sd * torch.randn(batch.ecg.shape, generator=generator)
        noisy = dataclasses.replace(batch, ecg=(batch.ecg + noise) * batch.observed)
        values.append(embed_batch(run, noisy, ["uncertainty"])[:, 0])
        begin += len(batch)
    uncertainty = np.concatenate(values)
    order = np.array_split(np.argsort(level), 4)
    return {
        "spearman": float(spearmanr(level, uncertainty).statistic), "n": len(rows), "largest_mv": NOISE_MV,
        "quarters": [float(uncertainty[some].mean()) for some in order],
    }  # fmt: skip


def stored_inputs(path: Path) -> Json | None:
    try:
        stored: Json = json.loads(path.read_text(encoding="utf-8"))["of"]
        return stored
    except (OSError, ValueError, KeyError):
        return None


def slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name.lower())


# ------------------------------------------------------------------------------------------------------ the cohorts


def infarct_cohort(out: Path, n_people: int) -> Path:
    """Return the cohort of people with and without infarcts and with scar images; it is made where it is missing."""
    folder = out / INFARCTS
    if not (folder / "cohort.json").is_file():
        pairs = out / "relatives_infarct_pairs"
        if not (pairs / "truth.csv").is_file():
            print(f"{n_people} people with infarcts are simulated", flush=True)
            simulate_pairs(pairs, n_people, INFARCT_SEED, PairSettings(infarcts=True), progress=in_tenths("infarcts"))
        write(ecg_cmr.read_source(pairs, ecg_cmr.Options(phases=("ed", "es", "scar"))), folder)
    return folder


def number_of_people(out: Path, given: int | None) -> int:
    """Return the number of people of the pairs in a folder, else the given one, else that of `leadwise reproduce`."""
    truth = out / "dual_phase_truth.csv"
    if truth.is_file():
        return len(truth.read_text(encoding="utf-8").splitlines()) - 1
    return given or dual_phase.N_PEOPLE


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("reproduced"))
    parser.add_argument("--minutes", type=float, default=3.0, help="processor time of each training [%(default)s]")
    parser.add_argument("--steps", type=int, help="of each training, instead of --minutes")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--people", type=int, help="of the pairs, where the folder has none [4000]")
    parser.add_argument("--infarct-people", type=int, default=2400, help="of the cohort with scars [%(default)s]")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--page-only", action="store_true", help="write the page from the stored rows")
    args = parser.parse_args(arguments)
    began, cpu = time.perf_counter(), time.process_time()
    args.out.mkdir(parents=True, exist_ok=True)
    seeds = tuple(map(int, args.seeds.split(",")))
    data = paired_data(args.out, number_of_people(args.out, args.people), in_tenths("pairs"))
    infarcts = infarct_cohort(args.out, args.infarct_people)

    # train and score every row
    if not args.page_only:
        budget = Budget(steps=args.steps) if args.steps else Budget(minutes=args.minutes)
        judge = Judge(args.out, data, infarcts)
        with training_runs.locked_folder(args.out):
            for seed in seeds:
                trainer = Trainer(args.out, budget, data, infarcts, seed)
                for row in ROWS:
                    run = trainer.run_of(row)
                    if row.name != CMR:
                        judge.score(row.name, run, seed)
                    if row.name == MASKED:
                        judge.score(RANDOM, run.untrained(seed), seed, retrieve=False)

    # the page
    seconds = f"{time.perf_counter() - began:,.0f} s, {time.process_time() - cpu:,.0f} s of processor time"
    results = Results(args.out / "relatives", data, Cohort.open(infarcts), seeds, slug)
    words = ["python", "benchmarks/cmr_relatives.py", *(arguments if arguments is not None else sys.argv[1:])]
    write_page(args.page, results, words, f"The last call took {seconds}.")
    print(f"{args.page} and {args.page.with_suffix('.png').name}; {seconds}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    torch.set_num_threads(1)
    main()
