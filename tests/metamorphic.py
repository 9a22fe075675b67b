"""Changes that must not change a result, or must change it in a known way, on the whole path from a file to a score.

There is no right value for an embedding by random weights, but the same ECG in another file, batch or cohort has the same one.
Relations of embeddings run for every method; those of cohorts and scores for every verb.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from conftest import REPORTS, TINY, config_table, make_batch
from evidence import Row

import leadwise
from leadwise import run as runs
from leadwise.batch import LEADS
from leadwise.config import Config, typed
from leadwise.data.cohort import executors
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write
from leadwise.data.loader import Recordings, Sampler, prefetch_batches
from leadwise.data.recordings.lead_algebra import EINTHOVEN
from leadwise.data.sources import folder as own_files
from leadwise.evaluate import compare, speed
from leadwise.evaluate.metrics import all_metrics, auroc, f1
from leadwise.evaluate.probe import run_probe
from leadwise.evaluate.regress import run_regress
from leadwise.evaluate.retrieve import run_retrieval, score_directions
from leadwise.evaluate.search import search
from leadwise.evaluate.zeroshot import run_zeroshot
from leadwise.methods.catalogue import find_method, learns_from_teacher, learns_labels, method_names
from leadwise.model import Model
from leadwise.run import Run
from leadwise.training import loop as training

CASES = tuple(TINY)  # "merl", or "merl vit" for a variant
RATE_HZ, SECONDS, GAIN = 500, 5.0, 1000
MOST_FAULTS = 5  # lines of each relation

# bounds: of the difference, as a share of the largest number of the embedding, and of 1 - cosine
IN_A_BATCH = 1e-4
IN_A_COHORT = 1e-5  # the loader scales integers where the reader of a file has millivolts
AT_A_RATE = 0.01
OF_A_FILE = (
    1e-4  # 1e-10 for most; crt reads angles of a spectrum, which jump from pi to -pi by the rounding of a sample
)
IN_BFLOAT16 = 1e-3
OF_CODES = 0.1  # of a method that embeds the nearest codes of books: one code of an ECG jumps by a rounding
_HAS_CODES = ("beat_tokenizer",)


# ------------------------------------------------------------------------------------------------ ECGs in files


def beats(rate_hz: float, seed: int, n: int, seconds: float = SECONDS) -> np.ndarray:
    """ECGs (n, T, 12) in mV at any rate: the same functions of time, without frequencies above 40 Hz."""
    rng = np.random.default_rng([seed, 1])
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    leads = np.zeros((n, len(time), len(LEADS)))
    for ecg in leads:
        rr, first = rng.uniform(0.5, 1.1), rng.uniform(0, 0.5)
        for size, delay, width in ((1.0, 0.0, 0.012), (0.2, 0.25, 0.05), (0.12, -0.16, 0.03)):  # QRS, T, P
            away = np.stack([np.abs(time - first - delay - k * rr) for k in range(-1, 14)]).min(axis=0)
            ecg += size * rng.normal(0.6, 0.3, len(LEADS)) * np.exp(-((away / width) ** 2) / 2)[:, None]
        ecg += 0.02 * np.sin(
            2 * np.pi * (rng.uniform(1, 20, len(LEADS)) * time[:, None]) + rng.uniform(0, 6, len(LEADS))
        )
        for lead, (of_i, of_ii) in EINTHOVEN.items():
            ecg[:, LEADS.index(lead)] = of_i * ecg[:, 0] + of_ii * ecg[:, 1]
    return leads


@dataclass(frozen=True)
class Variant:
    """An ECG as a file."""

    steps: np.ndarray  # (T, L)
    rate_hz: float = RATE_HZ
    gain: str = f"{GAIN}(0)/mV"
    leads: Sequence[str] = LEADS
    suffix: str = ".hea"

    def write(self, path: Path) -> Path:
        """Write a record of WFDB's format 16, or a table in mV; return its path."""
        path = path.with_suffix(self.suffix)
        if self.suffix == ".csv":
            rows = [",".join(self.leads), *(",".join(f"{x / GAIN:.17g}" for x in row) for row in self.steps)]
            path.write_text("\n".join(rows) + "\n")
            return path
        lines = [
            f"{path.stem}.dat 16 {self.gain} 16 0 {self.steps[0, k]} 0 0 {lead}" for k, lead in enumerate(self.leads)
        ]
        path.with_suffix(".dat").write_bytes(self.steps.astype("<i2").tobytes())
        path.write_text(f"{path.stem} {len(self.leads)} {self.rate_hz:g} {len(self.steps)}\n" + "\n".join(lines) + "\n")
        return path


_RATES = {"at 250 Hz": 250, "at 360 Hz": 360, "at 1000 Hz": 1000}
EQUAL_FILES = {  # kind -> that of the same ECG: equal to the last bit
    "gain x 2, samples x 2": "as it is",
    "gain / 2, samples / 2": "as it is",
    "baseline of 500 steps": "as it is",
    "leads permuted": "as it is",
    "in microvolts": "as it is",
    "in volts": "as it is",
    "another name": "as it is",
    "V3 marked as missing": "without V3",
}
CLOSE_FILES = {  # those that differ by rounding, or at the ends
    **dict.fromkeys((*_RATES, "a table in mV", "limb leads left out", "an offset of 1 mV"), "as it is"),
    "padded with zeros": "three seconds",
}


def write_variants(folder: Path, seed: int, n: int = 3) -> dict[str, list[Path]]:
    """The same ECGs in files of several kinds, by kind."""
    paths: dict[str, list[Path]] = {}
    order = np.random.default_rng([seed, 2]).permutation(len(LEADS))
    at = {hz: beats(hz, seed, n) for hz in {RATE_HZ, *_RATES.values()}}
    v3, derived = LEADS.index("V3"), [LEADS.index(lead) for lead in EINTHOVEN]
    few, eight = [k for k in range(len(LEADS)) if k != v3], [k for k in range(len(LEADS)) if k not in derived]
    for number in range(n):
        steps = 4 * np.rint(at[RATE_HZ][number] * GAIN / 4).astype(int)  # even, and so are the derived leads
        for lead, (of_i, of_ii) in EINTHOVEN.items():
            steps[:, LEADS.index(lead)] = of_i * steps[:, 0] + of_ii * steps[:, 1]
        missing, padded = steps.copy(), steps[: 4 * RATE_HZ].copy()
        missing[:, v3], padded[3 * RATE_HZ :] = -(2**15), 0
        variants = {
            "as it is": Variant(steps),
            "gain x 2, samples x 2": Variant(2 * steps, gain=f"{2 * GAIN}(0)/mV"),
            "gain / 2, samples / 2": Variant(steps // 2, gain=f"{GAIN // 2}(0)/mV"),
            "baseline of 500 steps": Variant(steps + 500, gain=f"{GAIN}(500)/mV"),
            "leads permuted": Variant(steps[:, order], leads=[LEADS[k] for k in order]),
            "in microvolts": Variant(steps, gain=f"{GAIN // 1000}(0)/uV"),
            "in volts": Variant(steps, gain=f"{1000 * GAIN}(0)/V"),
            "another name": Variant(steps),
            "without V3": Variant(steps[:, few], leads=[LEADS[k] for k in few]),
            "V3 marked as missing": Variant(missing),
            "a table in mV": Variant(steps, suffix=".csv"),
            "limb leads left out": Variant(steps[:, eight], leads=[LEADS[k] for k in eight]),
            "an offset of 1 mV": Variant(steps + GAIN),
            "three seconds": Variant(steps[: 3 * RATE_HZ]),
            "padded with zeros": Variant(padded),
        }
        for kind, hz in _RATES.items():
            variants[kind] = Variant(np.rint(at[hz][number] * GAIN).astype(int), hz)
        for place, (kind, variant) in enumerate(variants.items()):
            name = f"patient{number}x" if kind == "another name" else f"e{place}_{number}"
            paths.setdefault(kind, []).append(variant.write(folder / name))
    return paths


# ------------------------------------------------------------------------------------------------ methods


def untrained(case: str, folder: Path | None = None, seed: int = 0, precision: str = "float32") -> Model:
    """A tiny model with random weights; its running statistics and code books are those of one batch.

    It is written to `folder` if that is given.
    """
    name, _, variant = case.partition(" ")
    settings = {
        key: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
        for key, value in find_method(name).tiny[variant].items()
    }
    table = {
        "signal": {"rate_hz": 100, "duration_s": 4.0},
        "data": {"cohort": "unused"},
        "method": {"name": name, **settings},
        "optim": {"steps": 6, "batch_size": 8, "lr": 1e-3, "seed": seed, "precision": precision},
    }
    run = runs.create(typed(Config, table), REPORTS * 20, folder)
    run.method.train()
    with torch.no_grad():
        torch.manual_seed(seed)
        run.method(make_batch(8, seed=seed))
    run.method.eval()
    if folder is not None:
        run.save_weights()
    return Model(run)


@dataclass(frozen=True)
class Subject:
    """A model, and files for it."""

    case: str
    seed: int
    model: Model
    files: dict[str, list[Path]]
    folder: Path  # for what a relation writes

    @property
    def parts(self) -> str:
        return "+".join(self.model.parts)

    def embed(self, kind: str, part: str | None = None, **options: Any) -> np.ndarray:
        paths = [str(path) for path in self.files[kind]]
        if paths[0].endswith(".csv"):
            options |= {"rate_hz": RATE_HZ, "units": "mV"}
        return np.asarray(self.model.embed(paths, part=part or self.parts, **options))


Differences = Iterator[tuple[str, float, float]]  # what, how much, and the bound


def unequal(one: np.ndarray, other: np.ndarray) -> float:
    """The difference as a share of the largest number; infinite for another shape."""
    if one.shape != other.shape:
        return np.inf
    return float(np.abs(one - other).max(initial=0) / max(float(np.abs(one).max(initial=0)), 1e-30))


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """The largest 1 - cosine of two vectors of the same ECG."""
    if one.shape != other.shape:
        return np.inf
    one, other = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(1 - ((one * other).sum(axis=1) / np.maximum(lengths, 1e-30)).min())


def _same_file(kind: str) -> Callable[[Subject], Differences]:
    def differences(subject: Subject) -> Differences:
        yield kind, unequal(subject.embed(EQUAL_FILES[kind]), subject.embed(kind)), 0.0

    return differences


def _close_file(kind: str) -> Callable[[Subject], Differences]:
    def differences(subject: Subject) -> Differences:
        base = subject.embed(CLOSE_FILES[kind], "backbone")
        yield kind, apart(base, subject.embed(kind, "backbone")), AT_A_RATE if kind in _RATES else OF_A_FILE

    return differences


def _batches(subject: Subject) -> Differences:
    whole = subject.embed("as it is")
    for size in (1, 2):
        yield f"batches of {size}", unequal(whole, subject.embed("as it is", batch_size=size)), IN_A_BATCH
    paths = subject.files["as it is"]
    turned = np.asarray(subject.model.embed([str(path) for path in reversed(paths)], part=subject.parts))
    yield "reversed", unequal(whole, turned[::-1]), IN_A_BATCH


def _precision(subject: Subject) -> Differences:
    """bfloat16 as a run that was trained in it is embedded, where the processor is fast in it."""
    run = subject.model.run
    optim = dataclasses.replace(run.config.optim, precision="bfloat16")
    half = Model(Run(dataclasses.replace(run.config, optim=optim), run.method))
    paths = [str(path) for path in subject.files["as it is"]]
    with mock.patch.object(speed, "bfloat16_is_faster", return_value=True):
        vectors = np.asarray(half.embed(paths, part="backbone"))
    yield "bfloat16", apart(subject.embed("as it is", "backbone"), vectors), IN_BFLOAT16


def _saved(subject: Subject) -> Differences:
    target = subject.folder / "saved"
    for name in ("saved", "half"):
        shutil.rmtree(subject.folder / name, ignore_errors=True)
    subject.model.save_pretrained(target, card=False)
    paths = [str(path) for path in subject.files["as it is"]]
    loaded = np.asarray(leadwise.load(target, device="cpu").embed(paths, part=subject.parts))
    yield "after saving and loading", unequal(subject.embed("as it is"), loaded), 0.0
    subject.model.save_pretrained(subject.folder / "half", card=False, dtype="float16")
    half = leadwise.load(subject.folder / "half", device="cpu").embed(paths, part="backbone")
    yield "saved in float16", apart(subject.embed("as it is", "backbone"), np.asarray(half)), IN_BFLOAT16


def _in_a_cohort(subject: Subject) -> Differences:
    """Prepared and read by the loader, with patients of any name."""
    names = [str(path) for path in subject.files["as it is"]]
    for prefix in ("p", "z"):
        lines = [f"{name},{prefix}{len(names) - i},test" for i, name in enumerate(names)]
        cohort = prepare_table(subject.folder, ["path,patient,split", *lines])
        vectors = np.asarray(subject.model.embed(cohort, part=subject.parts))
        yield f"in a cohort of patients {prefix}", unequal(subject.embed("as it is"), vectors), IN_A_COHORT


def _texts(subject: Subject) -> Differences:
    if subject.model.embeds_text:
        texts = [*REPORTS, "left axis deviation.", "Sinus rhythm.", "  SINUS   RHYTHM. "]
        whole = subject.model.embed_text(texts)
        alone = np.concatenate([subject.model.embed_text([text]) for text in texts])
        yield "one text at a time", unequal(whole, alone), IN_A_BATCH
        yield "the same report in other letters", unequal(whole[-2:-1], whole[-1:]), IN_A_BATCH


def _neighbours(subject: Subject) -> Differences:
    """The nearest ECGs of a bank in any order."""
    paths = [str(path) for path in subject.files["as it is"]]
    bank = [*paths, *(str(path) for path in subject.files["without V3"])]
    tables = [subject.model.similar(paths, order, top=2) for order in (bank, bank[::-1])]
    yield "cosines", float(np.abs(tables[0]["cosine"].to_numpy() - tables[1]["cosine"].to_numpy()).max()), IN_A_BATCH
    nearest = tables[0][tables[0]["place"] == 1]
    yield "1 - cosine of the nearest, itself", float((1 - nearest["cosine"]).abs().max()), IN_A_BATCH


def _images(subject: Subject) -> Differences:
    """Embeddings of heart images do not depend on their batch."""
    method = subject.model.run.method
    if method.embeds_volume:
        batch = make_batch(6, seed=subject.seed)
        batch = batch.rows(3, 6)  # with an image of every phase
        with torch.inference_mode():
            for part in method.volume_parts:
                whole = method.embed_volume(batch, part)
                alone = torch.cat([method.embed_volume(batch.rows(k, k + 1), part) for k in range(3)])
                yield f"{part} of one image", unequal(whole.numpy(), alone.numpy()), IN_A_BATCH


def _losses(subject: Subject) -> Differences:
    """The loss terms of a step do not depend on the names of records and patients."""
    method, batch = subject.model.run.method, make_batch(6, seed=subject.seed)
    renamed = dataclasses.replace(
        batch, record=tuple(f"x{9 - i}" for i in range(6)), patient=tuple(f"q{9 - i}" for i in range(6))
    )
    terms = []
    for one in (batch, renamed):
        torch.manual_seed(subject.seed)
        with torch.no_grad():
            terms.append({name: float(term) for name, term in method(one).items()})
    for name, value in terms[0].items():
        yield f"{name} with other names", abs(terms[1][name] - value), 0.0


@dataclass(frozen=True)
class Relation:
    """A change, and by how much it changes what."""

    name: str
    differences: Callable[[Subject], Differences]


RELATIONS = (
    *(Relation(f"file: {kind}", _same_file(kind)) for kind in EQUAL_FILES),
    *(Relation(f"file: {kind}", _close_file(kind)) for kind in CLOSE_FILES),
    Relation("embed: size and order of batches", _batches),
    Relation("embed: bfloat16", _precision),
    Relation("embed: from a cohort with any names of patients", _in_a_cohort),
    Relation("save and load", _saved),
    Relation("text: batches and letters", _texts),
    Relation("similar: order of the bank", _neighbours),
    Relation("images: size of batches", _images),
    Relation("loss: names of records and patients", _losses),
)


def chosen_cases(number: int, n_cases: int, cases: Sequence[str]) -> list[str]:
    """The methods of a relation, by its number: the next relation takes those after them, round and round."""
    return [cases[(number * n_cases + k) % len(cases)] for k in range(min(n_cases, len(cases)))]


def method_rows(n_cases: int, folder: Path, cases: Sequence[str] = CASES) -> list[Row]:
    """One row for each relation of embeddings, over `n_cases` methods of each; with more than there are, in several seeds.

    A smaller number takes other methods for each relation, so that all relations together reach every method.
    """
    n_rounds = max(1, -(-n_cases // len(cases)))
    faults: dict[str, list[str]] = {relation.name: [] for relation in RELATIONS}
    counts, largest = dict.fromkeys(faults, 0), dict.fromkeys(faults, 0.0)
    for seed in range(n_rounds):
        files_folder = folder / f"files{seed}"
        files_folder.mkdir(parents=True)
        files = write_variants(files_folder, seed)
        for case in cases:
            chosen = [
                relation for number, relation in enumerate(RELATIONS) if case in chosen_cases(number, n_cases, cases)
            ]
            if not chosen:
                continue
            run_folder = folder / f"run{seed}-{case.replace(' ', '-')}"
            subject = Subject(case, seed, untrained(case, run_folder, seed), files, folder)
            if not subject.model.parts:  # it embeds no ECG
                continue
            for relation in chosen:
                counts[relation.name] += 1
                for fault, size in faults_of_case(relation.differences, subject, f"{case}, seed {seed}"):
                    largest[relation.name] = max(largest[relation.name], size)
                    if fault and len(faults[relation.name]) < MOST_FAULTS:
                        faults[relation.name].append(fault)
    return [
        Row(name, counts[name], tuple(lines), f"largest difference {largest[name]:.2g}")
        for name, lines in faults.items()
    ]


def faults_of_case(differences: Callable[[Any], Differences], subject: Any, where: str) -> Iterator[tuple[str, float]]:
    """Yield each difference with a line about it if it is a fault, else ''; an exception is a fault."""
    try:
        with _quiet():
            for what, size, bound in differences(subject):
                if where.startswith(_HAS_CODES) and bound in (AT_A_RATE, IN_BFLOAT16):
                    bound = max(bound, OF_CODES)
                yield (f"{where}: {what} differs by {size:.3g}, more than {bound:g}" if not size <= bound else ""), size
    except Exception as error:
        yield f"{where}: {type(error).__name__}: {error}"[:300], 0.0


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def prepare_table(folder: Path, lines: Sequence[str], name: str = "cohort", **options: Any) -> Cohort:
    """Prepare a cohort from the lines of a table; paths are absolute or relative to `folder`."""
    table, out = folder / f"{name}.csv", folder / name
    table.write_text("\n".join(lines) + "\n")
    write(own_files.read_source(table, own_files.Options(LEADS, 100, "mV")), out, overwrite=True, **options)
    return Cohort.open(out)


# ------------------------------------------------------------------------------------------------ cohorts and scores

PROMPTS = """
source = "folder"
task = "own"
[classes."{normal}"]
name = "normal ecg"
rich = ["normal sinus rhythm. normal ecg.", "normal ecg."]
[classes."{afib}"]
name = "atrial fibrillation"
rich = ["atrial fibrillation. abnormal ecg."]
[classes."{mi}"]
name = "infarct"
rich = ["inferior infarct, age undetermined. abnormal ecg."]
"""
CLASSES = ("normal", "afib", "mi")
OF_SCORES = 1e-3  # the probe's solver stops at a tolerance
N_RECORDS = 80


@dataclass
class Table:
    """A table of ECGs that a cohort is prepared from, which relations change."""

    folder: Path
    seed: int
    classes: tuple[str, ...] = CLASSES
    order: np.ndarray | None = None  # of the rows
    patient: Callable[[int], str] = "p{:03d}".format
    with_split: bool = True
    unit: float = 1.0  # of the target `pulse`
    extra: bool = False  # a further column

    def lines(self) -> list[str]:
        """The table with its header; the ECG files are written once."""
        rng = np.random.default_rng([self.seed, 3])
        ecgs = self.folder / f"ecgs{self.seed}"
        is_new = not ecgs.is_dir()
        ecgs.mkdir(exist_ok=True)
        rows = []
        for i in range(N_RECORDS):
            kind = int(rng.integers(len(REPORTS)))
            if is_new:
                ecg = make_batch(4, seed=100 * self.seed + i).ecg[kind].numpy()
                for lead, (of_i, of_ii) in EINTHOVEN.items():
                    ecg[LEADS.index(lead)] = of_i * ecg[0] + of_ii * ecg[1]
                np.save(ecgs / f"{i:03d}.npy", ecg)
            labels = [int((kind == k) ^ (rng.random() < 0.1)) for k in (0, 1, 3)]
            pulse = self.unit * (60 + 20 * kind + rng.normal(0, 5))
            split = "test" if i // 2 % 5 == 4 else "val" if i // 2 % 5 == 3 else "train"
            cells = [
                f"{ecgs / f'{i:03d}.npy'}",
                f"r{i:03d}",
                self.patient(i // 2),
                f'"{REPORTS[kind]} rate {i % 7}."',
                f"{pulse:.17g}",
                *map(str, labels),
            ]
            rows.append(",".join([*cells, *([split] if self.with_split else []), *(["x"] if self.extra else [])]))
        names = ["path", "record", "patient", "report", "pulse", *(f"label.{name}" for name in self.classes)]
        header = [*names, *(["split"] if self.with_split else []), *(["note"] if self.extra else [])]
        order = range(N_RECORDS) if self.order is None else self.order
        return [",".join(header), *(rows[i] for i in order)]

    def prepared(self, name: str = "scored", **options: Any) -> Cohort:
        return prepare_table(self.folder, self.lines(), name, **options)

    def prompts(self) -> Path:
        path = self.folder / "prompts.toml"
        path.write_text(PROMPTS.format(**dict(zip(CLASSES, self.classes))))
        return path


Numbers = dict[str, dict[str, float]]  # verb -> name -> number


def scored(models: tuple[Model, Model], table: Table) -> Numbers:
    """The numbers of each verb on the cohort of a table; those of random controls are left out."""
    cohort, run, prompts = table.prepared(), models[0].run, table.prompts()
    names = dict(zip(table.classes, CLASSES))  # numbers are under the classes' first names
    numbers: Numbers = {}
    report = run_probe(run, cohort, "own", fractions=(1.0,), seeds=(1,))
    probe = numbers["probe"] = {}
    for features, result in report.results[1.0].items():
        for measure, score in {"auroc": result.score, **result.measures}.items():
            probe |= _of_score(f"{features} {measure}", score, names)
    of_zeroshot = run_zeroshot(run, cohort, "own", prompts)
    zero = numbers["zeroshot"] = _of_score("auroc", of_zeroshot.trained, names)
    for measure, score in of_zeroshot.measures.items():
        zero |= _of_score(measure, score, names)
    report_of = run_retrieval(run, cohort)
    numbers["retrieve"] = {}
    for direction, each in report_of.directions.items():
        values = {f"recall@{k}": v for k, v in each.recall.items()} | {"median": each.median_rank}
        ends = {f"interval {k} {i}": v for k, pair in each.recall_interval.items() for i, v in enumerate(pair)}
        ends |= {f"interval median {i}": v for i, v in enumerate(each.median_rank_interval)}
        numbers["retrieve"] |= {f"{direction} {name}": value for name, value in {**values, **ends}.items()}
    of_target = run_regress(run, cohort, ["pulse"], fit="train")
    numbers["regress"] = {
        f"{features} {measure} {name}": value
        for features, result in of_target.results.items()
        for measure, each in result.scores["pulse"].items()
        for name, value in (
            ("value", each.value),
            ("interval low", each.interval[0]),
            ("interval high", each.interval[1]),
        )
    }
    scorer = compare.ProbeScorer(seeds=(1,))
    one, other = (scorer(model.run, cohort, "own") for model in models)
    difference = compare.compare(one, other, n_replicates=200).macro
    numbers["compare"] = dict(zip(("a", "b", "interval low", "interval high", "interval p"), (
        difference.a, difference.b, *difference.interval, difference.p if difference.p is not None else np.nan)))  # fmt: skip
    hits = search(run, cohort, "atrial fibrillation.", top=N_RECORDS).hits
    numbers["search"] = {f"cosine of {hit.record}": hit.cosine for hit in hits}
    return numbers


def _of_score(name: str, score: Any, names: dict[str, str]) -> dict[str, float]:
    numbers = {f"{name} macro": score.macro}
    numbers |= dict(zip((f"{name} interval low", f"{name} interval high"), score.interval))
    for code, value in score.per_class.items():
        numbers[f"{name} {names[code]}"] = np.nan if value is None else value
    return numbers


def changes(
    one: Numbers,
    other: Numbers,
    bound: float,
    of_intervals: float | None = None,
    without: Sequence[str] = (),
    factor: Callable[[str], float] = lambda name: 1.0,
) -> Differences:
    """The largest difference of each verb; intervals have a bound of their own where their resamplings are others.

    factor: by which a number must change, from verb and name.
    """
    for verb in one:
        if verb in without:
            continue
        if one[verb].keys() != other[verb].keys():
            yield f"{verb}: the names of the numbers", np.inf, 0.0
            continue
        for part, limit in (("interval", bound if of_intervals is None else of_intervals), ("", bound)):
            sizes = {
                name: _difference(value * factor(f"{verb} {name}"), other[verb][name])
                for name, value in one[verb].items()
                if ("interval" in name) == bool(part)
            }
            if sizes:
                worst = max(sizes, key=lambda name: sizes[name])
                yield f"{verb} {worst}", sizes[worst], limit


def _difference(one: float, other: float) -> float:
    if np.isnan(one) or np.isnan(other):
        return 0.0 if np.isnan(one) and np.isnan(other) else np.inf
    return abs(one - other) / max(1.0, abs(one))


@dataclass(frozen=True)
class Scores:
    """Two models, a table, and the numbers of every verb on it."""

    models: tuple[Model, Model]
    table: Table
    numbers: Numbers
    n_pretrained: int = 1  # methods that are trained on it

    def of(self, **changed: Any) -> Numbers:
        return scored(self.models, dataclasses.replace(self.table, **changed))


def _rows_shuffled(scores: Scores) -> Differences:
    order = np.random.default_rng([scores.table.seed, 4]).permutation(N_RECORDS)
    yield from changes(scores.numbers, scores.of(order=order), OF_SCORES)


def _patients_renamed_in_order(scores: Scores) -> Differences:
    yield from changes(scores.numbers, scores.of(patient="q{:05d}x".format), 0.0)


def _patients_renamed(scores: Scores) -> Differences:
    """Resamplings follow the order of the names, and so do the folds of the ridge."""
    renamed = scores.of(patient=lambda i: f"z{zlib.crc32(str(i).encode())}")
    yield from changes(scores.numbers, renamed, OF_SCORES, 0.15, without=("regress",))


def _classes_renamed(scores: Scores) -> Differences:
    yield from changes(scores.numbers, scores.of(classes=("zzz", "c 12", "a_b")), 0.0)


def _column_added(scores: Scores) -> Differences:
    yield from changes(scores.numbers, scores.of(extra=True), 0.0)


def _unit_of_the_target(scores: Scores) -> Differences:
    in_seconds = scores.of(unit=1 / 60)
    yield from changes(
        scores.numbers,
        in_seconds,
        1e-9,
        factor=lambda name: 1 / 60 if name.startswith("regress") and " mae " in name else 1.0,
    )


def _compare_reversed(scores: Scores) -> Differences:
    cohort = scores.table.prepared()
    scorer = compare.ProbeScorer(seeds=(1,))
    runs_scores = [scorer(model.run, cohort, "own") for model in scores.models]
    one = compare.compare(*runs_scores, n_replicates=200).macro
    other = compare.compare(*reversed(runs_scores), n_replicates=200).macro
    yield "difference", abs(one.difference + other.difference), 0.0
    yield "interval", max(abs(one.interval[0] + other.interval[1]), abs(one.interval[1] + other.interval[0])), 1e-12
    yield "p", _difference(one.p or 0.0, other.p or 0.0), 0.0
    itself = compare.compare(runs_scores[0], runs_scores[0], n_replicates=50).macro
    yield "a run with itself", max(abs(itself.difference), *map(abs, itself.interval)), 0.0


def _no_patient_in_two_splits(scores: Scores) -> Differences:
    """Without a column `split`, a hash of the name decides; other names give other splits, and no leak."""
    for name in ("p{:03d}", "other {:d}"):
        cohort = dataclasses.replace(scores.table, with_split=False, patient=name.format).prepared()
        splits = {split: set(cohort.patients.take(cohort.rows(split))) for split in ("train", "val", "test")}
        both = [a & b for a in splits.values() for b in splits.values() if a is not b]
        yield f"patients in two splits, named {name}", float(sum(map(len, both))), 0.0
        yield f"patients without a split, named {name}", float(N_RECORDS // 2 - sum(map(len, splits.values()))), 0.0


def _processes(scores: Scores) -> Differences:
    """Cohorts are equal to the byte, whatever prepared them."""
    whole = _contents(scores.table.prepared("alone", shard_records=32).folder)
    with executors.processes(2) as pool:
        together = _contents(scores.table.prepared("together", shard_records=32, pool=pool).folder)
    yield "files", float(whole.keys() != together.keys()), 0.0
    different = [name for name, content in whole.items() if together.get(name) != content]
    yield f"bytes of {', '.join(different) or 'any file'}", float(len(different)), 0.0


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _threads(scores: Scores) -> Differences:
    """Batches are equal to the bit, whatever reads them, and in whatever parts."""
    cohort = scores.table.prepared()
    signal = scores.models[0].signal
    for n_threads, n_parts in ((1, 1), (3, 1), (2, 4)):
        recordings, sampler = Recordings(cohort, signal, task="own"), Sampler(N_RECORDS, 8, seed=5)
        plain = list(prefetch_batches(recordings, sampler, 2, 14, 0, 1))
        other = list(prefetch_batches(recordings, sampler, 2, 14, n_threads, n_parts))
        for field in ("ecg", "observed", "label"):
            one, two = (torch.cat([getattr(batch, field) for batch in batches]) for batches in (plain, other))
            yield f"{field} of {n_threads} threads in {n_parts} parts", float(not torch.equal(one, two)), 0.0
        names = [[name for batch in batches for name in batch.record] for batches in (plain, other)]
        yield "records", float(names[0] != names[1]), 0.0
    shares = [Sampler(N_RECORDS, 8, 5, rank, 4) for rank in range(4)]
    for step in range(25):
        together = np.concatenate([share.positions(step) for share in shares])
        yield "shares of four ranks", float(not np.array_equal(together, Sampler(N_RECORDS, 8, 5).positions(step))), 0.0


def _pretrained(scores: Scores) -> Differences:
    """Weights are equal to the bit, whoever the patients are, in whatever shards, and read by whatever threads."""
    cohort = scores.table.prepared()
    others = {
        "other patients": (
            dataclasses.replace(scores.table, patient=lambda i: f"z{zlib.crc32(str(i).encode())}"),
            {},
            0,
        ),
        "small shards": (scores.table, {"shard_records": 7}, 0),
        "threads": (scores.table, {}, 2),
    }
    for number in range(scores.n_pretrained):
        method = PRETRAINED_METHODS[(scores.n_pretrained * scores.table.seed + number) % len(PRETRAINED_METHODS)]
        base = _weights(method, cohort, scores.table.folder)
        for name, (table, options, workers) in others.items():
            other = _weights(method, table.prepared("prepared_otherwise", **options), scores.table.folder, workers)
            largest = max(
                float((base[key].double() - other[key].double()).abs().max()) for key in base if base[key].numel()
            )
            yield f"{method}: weights with {name}", largest if base.keys() == other.keys() else np.inf, 0.0


def _weights(method: str, cohort: Cohort, folder: Path, workers: int = 0) -> dict[str, torch.Tensor]:
    """The weights after three steps."""
    table = config_table(cohort.folder, steps=3)
    table["method"] = {"name": method, **find_method(method).tiny[""]}
    table["data"] |= {"workers": workers}
    place = folder / "pretrained"
    shutil.rmtree(place, ignore_errors=True)
    run = training.pretrain(typed(Config, table), place)
    return {name: weight.clone() for name, weight in run.method.state_dict().items()}


def _monotone(scores: Scores) -> Differences:
    """Ranking scores do not depend on the scale of a model's outputs."""
    rng = np.random.default_rng([scores.table.seed, 5])
    labels = (rng.random((60, 3)) < [0.2, 0.5, 0.7]).astype(int)
    values = (rng.normal(size=(60, 3)) + labels).round(1)
    patients, classes = np.array([f"p{i // 2}" for i in range(60)]), list(CLASSES)

    def numbers(some: np.ndarray) -> Numbers:
        at = f1.Thresholds.choose(labels, some)
        metrics = all_metrics.compute_metrics(labels, some[None], patients, classes, at, n_replicates=50)
        metrics["auroc"] = auroc.auroc_score(labels, some, patients, classes, 50)
        names = dict(zip(CLASSES, CLASSES))
        return {name: _of_score(name, score, names) for name, score in metrics.items()}

    base = numbers(values)
    for name, transform in (
        ("exp", np.exp), ("cube", lambda x: x**3), ("1e-3 x - 7", lambda x: 1e-3 * x - 7), ("arctan", np.arctan),
        ("rank", lambda x: np.argsort(np.argsort(np.unique(x)))[np.searchsorted(np.unique(x), x)]),
    ):  # fmt: skip
        for what, size, bound in changes(base, numbers(transform(values)), 1e-12):
            yield f"{name}: {what}", size, bound
    turned = [1 - x for x in auroc.auroc(labels, -values)]
    yield "reversed scores", float(np.abs(auroc.auroc(labels, values) - turned).max()), 1e-12


def _lengths(scores: Scores) -> Differences:
    """Retrieval is by direction: the length of an embedding has no influence."""
    rng = np.random.default_rng([scores.table.seed, 6])
    texts, report_of = rng.normal(size=(12, 8)), np.concatenate([np.arange(12), rng.integers(12, size=28)])
    ecgs, patients = texts[report_of] + rng.normal(size=(40, 8)), np.array([f"p{i // 2}" for i in range(40)])
    both = [
        score_directions((a * ecgs, b * texts), (a * ecgs, b * texts), report_of, patients)
        for a, b in ((1.0, 1.0), (1e-4, 1e5), (rng.uniform(0.1, 10, (40, 1)), rng.uniform(0.1, 10, (12, 1))))
    ]
    for other in both[1:]:
        yield "recall and ranks", float(other != both[0]), 0.0


SCORE_RELATIONS: dict[str, Callable[[Scores], Differences]] = {
    "cohort: rows in another order": _rows_shuffled,
    "cohort: patients renamed in the same order": _patients_renamed_in_order,
    "cohort: patients renamed": _patients_renamed,
    "cohort: classes renamed": _classes_renamed,
    "cohort: a further column": _column_added,
    "regress: unit of the target": _unit_of_the_target,
    "compare: runs exchanged": _compare_reversed,
    "splits: patients renamed without a column split": _no_patient_in_two_splits,
    "prepare: number of processes": _processes,
    "loader: threads, parts and ranks": _threads,
    "pretrain: patients, shards and threads": _pretrained,
    "metrics: monotone transforms of scores": _monotone,
    "retrieve: lengths of embeddings": _lengths,
}
PRETRAINED_METHODS = tuple(
    name
    for name in method_names()
    if not (learns_labels(name) or learns_from_teacher(name) or find_method(name).method_class.reads_volumes)
)
SCORED_METHODS = ("cg_dmer", "merl", "etp", "melp", "c_melt", "echoing_ecg")  # with reports


def score_rows(
    n_rounds: int, folder: Path, relations: Sequence[str] = tuple(SCORE_RELATIONS), n_pretrained: int = 1
) -> list[Row]:
    """One row for each relation of cohorts and scores, over `n_rounds` cohorts, with `n_pretrained` methods trained on each."""
    faults: dict[str, list[str]] = {name: [] for name in relations}
    largest = dict.fromkeys(faults, 0.0)
    for seed in range(n_rounds):
        place = folder / f"round{seed}"
        place.mkdir(parents=True)
        method = SCORED_METHODS[seed % len(SCORED_METHODS)]
        with _quiet():
            models = untrained(method, place / "one", seed), untrained(method, place / "other", seed + 1)
            table = Table(place, seed)
            scores = Scores(models, table, scored(models, table), n_pretrained)
        for name in relations:
            for fault, size in faults_of_case(SCORE_RELATIONS[name], scores, f"{method}, seed {seed}"):
                largest[name] = max(largest[name], size)
                if fault and len(faults[name]) < MOST_FAULTS:
                    faults[name].append(fault)
    return [
        Row(name, n_rounds, tuple(lines), f"largest difference {largest[name]:.2g}") for name, lines in faults.items()
    ]


def rows(n_cases: int, folder: Path) -> list[Row]:
    """All relations: those of embeddings over `n_cases` methods, those of scores over one cohort for each 60 of them.

    240 cases, three of each method, take about ten minutes of one core.
    """
    n_rounds = max(1, n_cases // 60)
    n_pretrained = -(-len(PRETRAINED_METHODS) // n_rounds) if n_rounds > 1 else 1
    of_scores = score_rows(n_rounds, folder / "scores", n_pretrained=n_pretrained)
    return [*method_rows(n_cases, folder / "methods"), *of_scores]
