"""The commands on a cohort that was changed without changing an answer.

Every command runs as a user calls it; its answer is all that it writes: JSON, tables, weights, records. VERBS has the bound of
each kind of change for each command, or the reason why there is none; metamorphic_files.py has the commands on files.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import tomli_w
from command_line import invoke
from conftest import REPORTS, config_table
from evidence import Row
from matplotlib.figure import Figure
from metamorphic import (
    CLASSES,
    GAIN,
    MOST_FAULTS,
    PRETRAINED_METHODS,
    PROMPTS,
    Differences,
    Variant,
    beats,
    faults_of_case,
    untrained,
)
from safetensors.torch import load_file

from leadwise.batch import LEADS
from leadwise.data.cohort import executors, prepare
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.formats.reading import read
from leadwise.data.recordings.lead_algebra import EINTHOVEN
from leadwise.data.sources import folder as own_files
from leadwise.evaluate import speed
from leadwise.methods.catalogue import find_method
from leadwise.pictures import curves

N_RECORDS = 60
# with texts; without training, the embeddings of their ECGs differ by a percent: of others, rounding would exchange ranks
METHODS = ("cg_dmer", "melp", "c_melt")
MAP = """
[fine."folder.own"]
normal = ["normal"]
afib = ["afib"]
mi = ["mi"]
"""
SMALL_WRITER = (
    "writer.width=16", "writer.depth=1", "writer.heads=2", "writer.vectors=2", "writer.vocabulary=320", "optim.steps=4",
    "writer.max_tokens=16", "writer.positions=24", "optim.batch_size=8", "log.validate_every=2", "log.save_every=4",
    "log.every=1",
)  # fmt: skip
Answer = dict[str, Any]  # name -> number, text or None


# ------------------------------------------------------------------------------------------------------------- changes


@dataclass(frozen=True)
class Change:
    """How the same ECGs come to a command."""

    name: str
    bound: str = "exact"  # which of a command's bounds holds
    file: Callable[[np.ndarray, Sequence[int]], Variant] = lambda steps, order: Variant(steps)
    rate_hz: int = 500
    patient: Callable[[int], str] = "p{:03d}".format
    is_shuffled: bool = False
    shard_records: int = 64
    n_processes: int = 1
    batch_size: int | None = None
    precision: str = "float32"


def _permuted(steps: np.ndarray, order: Sequence[int], **options: Any) -> Variant:
    return Variant(steps[:, list(order)], leads=[LEADS[k] for k in order], **options)


def _unordered_name(number: int) -> str:
    return f"z{zlib.crc32(str(number).encode())}"


AS_IT_IS = Change("as it is")
EVERYTHING = Change(
    "gain, leads, names and shards at once",
    file=lambda steps, order: _permuted(2 * steps + 100, order, gain=f"{2 * GAIN}(100)/mV"),
    patient="q{:05d}x".format,
    shard_records=7,
)
CHANGES = (
    EVERYTHING,
    Change("gain x 2, samples x 2", file=lambda steps, _: Variant(2 * steps, gain=f"{2 * GAIN}(0)/mV")),
    Change("gain / 2, samples / 2", file=lambda steps, _: Variant(steps // 2, gain=f"{GAIN // 2}(0)/mV")),
    Change("leads permuted", file=_permuted),
    Change("in microvolts", file=lambda steps, _: Variant(steps, gain=f"{GAIN // 1000}(0)/uV")),
    Change("patients renamed in the same order", patient="q{:05d}x".format),
    Change("small shards of two processes", shard_records=7, n_processes=2),
    Change("patients renamed", "names", patient=_unordered_name),
    Change("rows in another order", "order", is_shuffled=True),
    Change("batches of 5", "batch", batch_size=5),
    Change("at 1000 Hz", "rate", rate_hz=1000),
    Change("bfloat16", "bfloat16", precision="bfloat16"),
)


# -------------------------------------------------------------------------------------------------------------- scenes


@dataclass(frozen=True)
class Scene:
    """A cohort and runs, in a folder of their own: nothing comes from the cache of another scene."""

    folder: Path
    seed: int
    change: Change

    @property
    def method(self) -> str:
        """The method of the run."""
        return METHODS[self.seed % len(METHODS)]

    @property
    def cohort(self) -> Path:
        return self.folder / "cohort"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def prompts(self) -> Path:
        return self.folder / "prompts.toml"

    def out(self, name: str) -> Path:
        """A path for what a command writes."""
        place = self.folder / "out"
        place.mkdir(exist_ok=True)
        return place / name

    @property
    def patients(self) -> dict[str, str]:
        """The first name of each patient, by the name that it has here."""
        return {self.change.patient(number): AS_IT_IS.patient(number) for number in range(N_RECORDS // 2)}

    def answer(self, verb: Verb) -> Answer:
        """Return the answer of a command, with the first names of patients."""
        names = self.patients
        return {
            name: names.get(value, value) if isinstance(value, str) else value
            for name, value in verb.answer(self).items()
        }

    def call(self, *words: object) -> Answer:
        """Run a command and return what its JSON has."""
        path = self.out("answer.json")
        self.run_command(*words, "--json", path)
        return flat(json.loads(path.read_text()))

    def run_command(self, *words: object) -> str:
        """Run a command and return what it prints.

        Raises:
            RuntimeError: it failed.
        """
        size = self.change.batch_size
        with mock.patch.object(speed, "bfloat16_is_faster", return_value=True):
            if size is None:
                done = invoke(*words, cwd=self.folder)
            else:
                with mock.patch.object(speed, "largest_batch", return_value=size):
                    done = invoke(*words, cwd=self.folder)
        if done.returncode:
            raise RuntimeError(f"leadwise {words[0]}: {done.stderr.strip()[-300:] or done.stdout[-300:]}")
        return done.stdout


def build(folder: Path, seed: int, change: Change, runs: Path) -> Scene:
    """Write the ECGs of a seed as a change has them, and prepare them; `runs` is a folder with the runs, which are copied."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    shutil.copytree(runs, folder, dirs_exist_ok=True)
    order = np.random.default_rng([seed, 2]).permutation(len(LEADS))
    rows = []
    rng = np.random.default_rng([seed, 3])
    for i, ecg in enumerate(beats(change.rate_hz, seed, N_RECORDS)):
        kind, person = i % 3, i // 2
        ecg = ecg * np.where(kind == 2, 1.6, 1.0)  # a scale and a sign: the limb leads stay those of I and II
        if kind == 1:
            ecg[:, 6:9] *= -1
        steps = 4 * np.rint(ecg * GAIN / 4).astype(int)
        for lead, (of_i, of_ii) in EINTHOVEN.items():
            steps[:, LEADS.index(lead)] = of_i * steps[:, 0] + of_ii * steps[:, 1]
        dataclasses.replace(change.file(steps, order), rate_hz=change.rate_hz).write(raw / f"e{i:02d}")
        labels = [int((kind == k) ^ (rng.random() < 0.15)) for k in range(3)]
        split = "test" if person % 5 == 4 else "val" if person % 5 == 3 else "train"
        age, sex, pulse = int(rng.integers(30, 80)), "FM"[int(rng.integers(2))], 60 + 10 * kind + rng.normal()
        report = f"{REPORTS[(0, 1, 3)[kind]]} rate {i % 7}."
        rows.append(
            f'e{i:02d}.hea,{change.patient(person)},"{report}",{split},{age},{sex},{pulse:.17g},{",".join(map(str, labels))}'
        )
    if change.is_shuffled:
        rows = [rows[i] for i in np.random.default_rng([seed, 4]).permutation(N_RECORDS)]
    names = ",".join(f"label.{name}" for name in CLASSES)
    (raw / "ecgs.csv").write_text(f"path,patient,report,split,age,sex,pulse,{names}\n" + "\n".join(rows) + "\n")
    source = own_files.read_source(raw / "ecgs.csv")
    if change.n_processes > 1:
        with executors.processes(change.n_processes) as pool:
            prepare.write(source, folder / "cohort", shard_records=change.shard_records, pool=pool)
    else:
        prepare.write(source, folder / "cohort", shard_records=change.shard_records)
    (folder / "prompts.toml").write_text(PROMPTS.format(**dict(zip(CLASSES, CLASSES))))
    (folder / "map.toml").write_text(MAP)
    return Scene(folder, seed, change)


def write_runs(folder: Path, seed: int, precision: str = "float32") -> None:
    """Write the runs that the commands read: one with texts, one that completes leads, one that generates."""
    for name, method in (
        ("run", METHODS[seed % len(METHODS)]),
        ("wear", "wear_ecg"),
        ("maker", "se_diff"),
    ):
        untrained(method, folder / name, seed, precision)


# ------------------------------------------------------------------------------------------------------------- answers

_KEYS = ("ecg", "record", "class", "name", "task", "code", "finding", "what", "features", "report found by")
_PLACES = (  # keys of paths, digests and times
    "command", "run", "cohort", "file", "folder", "writer", "fingerprint", "fingerprints", "cohort_fingerprint", "weights",
    "run_fingerprint", "records_per_s", "precision", "cohort_digest", "submitted", "date",
)  # fmt: skip


def flat(value: Any, name: str = "") -> Answer:
    """Names and values of a JSON value; rows of a list are named by their ECG or class, not by their place."""
    if isinstance(value, dict):
        return {
            k: v for key, inner in value.items() if key not in _PLACES for k, v in flat(inner, f"{name} {key}").items()
        }
    if isinstance(value, list | tuple):
        answer: Answer = {}
        for place, inner in enumerate(value):
            keys = [key for key in inner if key in _KEYS or key.endswith(" minus")] if isinstance(inner, dict) else []
            key = " ".join(str(inner[key]) for key in keys) or str(place)
            part = flat(inner, f"{name} {key}")
            answer |= part if not answer.keys() & part.keys() else flat(inner, f"{name} {place} {key}")
        return answer
    return {name.strip(): value}


def table_of(path: Path, by: str, short: Callable[[str], str] = str) -> Answer:
    """The cells of a table (.csv), each by the name of its row, which `short` shortens, and column."""
    lines = pd.read_csv(path, keep_default_na=False, dtype=str).to_dict("records")
    return {f"{short(line[by])} {name}": _cell(value) for line in lines for name, value in line.items() if name != by}


def _cell(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def records_in(folder: Path) -> Answer:
    """The samples of WFDB records in mV."""
    answer: Answer = {}
    for path in sorted(folder.glob("*.hea")):
        recording = read(path)
        for lead, samples in zip(recording.leads, recording.signal.T):
            answer[f"{path.stem} {lead}"] = samples
    return answer


def _each(answer: Answer, prefix: str) -> Answer:
    return {f"{prefix}: {name}": value for name, value in answer.items()}


def _prepare(s: Scene) -> Answer:
    """The samples in mV, and the index without what describes the stored integers."""
    cohort = Cohort.open(s.cohort)
    answer: Answer = {f"{record} samples": cohort.signal(row)[0] for row, record in enumerate(cohort.records)}
    return answer | {
        f"{record} split": split for record, split in zip(cohort.records, cohort.splits(np.arange(N_RECORDS)))
    }


def _pretrain(s: Scene) -> Answer:
    """Losses and weights after three steps of another method for each seed, and of a method with texts."""
    answer: Answer = {}
    for what, method in (("any", PRETRAINED_METHODS[s.seed % len(PRETRAINED_METHODS)]), ("with texts", s.method)):
        table = config_table(s.cohort, steps=3, precision=s.change.precision)
        table["method"] = {"name": method, **find_method(method).tiny[""]}
        config, folder = s.out("config.toml"), s.out(f"trained {what}")
        config.write_text(tomli_w.dumps(table))
        with mock.patch.object(curves, "draw", return_value=Figure(figsize=(1, 1))):  # takes longer than the training
            answer |= _each(s.call("pretrain", config, "-o", folder), what)
        weights = load_file(folder / "model.safetensors")
        answer |= _each({name: weight.numpy() for name, weight in weights.items()}, what)
    return answer


def _reproduce(s: Scene) -> Answer:
    s.out("config.toml").write_text(tomli_w.dumps(config_table(s.cohort, steps=3)))
    words = ("--cohorts", s.cohort, "--config", s.out("config.toml"), "--methods", "cg_dmer", "--budget", 3)
    return s.call("reproduce", "table1", *words, "--no-references", "-o", s.out("reproduced"))


def _finetune(s: Scene) -> Answer:
    return s.call("finetune", s.run, s.cohort, "--task", "own", "--epochs", 2, "--batch-size", 16, "--device", "cpu")


def _probe(s: Scene) -> Answer:
    return s.call("probe", s.run, s.cohort, "--task", "own", "--fractions", "0.5,1", "--seeds", "1", "--per-class")


def _zeroshot(s: Scene) -> Answer:
    return s.call("zeroshot", s.run, s.cohort, "--task", "own", "--prompts", s.prompts)


def _regress(s: Scene) -> Answer:
    return s.call("regress", s.run, s.cohort, "--targets", "pulse", "--fit", "train")


def _compare(s: Scene) -> Answer:
    return s.call("compare", s.run, s.folder / "wear", s.cohort, "--task", "own")


def _retrieve(s: Scene) -> Answer:
    answer = s.call("retrieve", s.run, s.cohort, "sinus rhythm.", "--top", 4)
    return answer | _each(s.call("retrieve", s.run, s.cohort), "recall")


def _embed(s: Scene) -> Answer:
    s.run_command("embed", s.run, s.cohort, "-o", s.out("embeddings.csv"))
    return table_of(s.out("embeddings.csv"), "ecg")


def _export(s: Scene) -> Answer:
    encoder = s.folder.with_name(f"encoder-{s.change.precision}.onnx")
    if not encoder.is_file():  # seconds; the run is that of the other scenes
        s.run_command("export", s.run, "-o", encoder)
    s.run_command("embed", encoder, s.cohort, "-o", s.out("embeddings-onnx.csv"))
    return table_of(s.out("embeddings-onnx.csv"), "ecg")


def _shift(s: Scene) -> Answer:
    words = ("--train", s.cohort, "--test", s.cohort, "--task", "own", "--map", s.folder / "map.toml", "--changes")
    return s.call("shift", s.run, *words, "--fractions", "1", "--seeds", "1")


def _calibrate(s: Scene) -> Answer:
    return s.call("calibrate", s.run, s.cohort, "--split", "train", "--prompts", s.prompts)


def _card(s: Scene) -> Answer:
    words = ("--tasks", "own", "--prompts", s.prompts, "--records", 20, "--quick", "-o", s.out("card.html"))
    return s.call("card", s.run, s.cohort, *words)


def _report(s: Scene) -> Answer:
    answer: Answer = {}
    for writer in ("retrieve", "majority"):
        s.run_command("report", s.run, s.cohort, "--writer", writer, "-o", s.out(f"{writer}.csv"))
        answer |= _each(table_of(s.out(f"{writer}.csv"), "ecg"), writer)
    return answer


def _train_writer(s: Scene) -> Answer:
    folder = s.out("writer")
    answer = s.call("train-writer", s.run, s.cohort, *SMALL_WRITER, "-o", folder)
    return answer | {name: weight.numpy() for name, weight in load_file(folder / "model.safetensors").items()}


def _score_writer(s: Scene) -> Answer:
    return s.call("score-writer", s.run, s.cohort, "--writer", "retrieve")


def _bench_qa(s: Scene) -> Answer:
    answer = s.call("bench-qa", s.run, s.cohort, "--task", "own", "--questions", s.out("questions.jsonl"))
    return answer | {f"question {k}": line for k, line in enumerate(s.out("questions.jsonl").read_text().splitlines())}


def _complete(s: Scene) -> Answer:
    return s.call("complete", s.folder / "wear", s.cohort, "--leads", "I,II,V2", "-o", s.out("completed"))


def _generate(s: Scene) -> Answer:
    s.run_command("generate", s.folder / "maker", "--cohort", s.cohort, "--split", "test", "-o", s.out("made"))
    return table_of(s.out("made") / "ecgs.csv", "record") | records_in(s.out("made") / "ecg")


def _measure(s: Scene) -> Answer:
    return s.call("measure", s.cohort)


def _describe(s: Scene) -> Answer:
    s.run_command("describe", s.cohort, "-o", s.out("croissant.json"))
    table = json.loads(s.out("croissant.json").read_text())
    return flat(
        {key: value for key, value in table.items() if key != "distribution"}
    )  # sizes and checksums of the files


def _check(s: Scene) -> Answer:
    return s.call("check", s.cohort, "--sample", 0, "--per-class")


def _prompts(s: Scene) -> Answer:
    answer = s.call("prompts", "coverage", s.cohort)
    return answer | _each(s.call("prompts", "check", s.prompts, "--cohort", s.cohort), "check")


def _submit(s: Scene) -> Answer:
    """The board of a result, whose digest of the cohort is another."""
    s.run_command("zeroshot", s.run, s.cohort, "--task", "own", "--prompts", s.prompts, "--json", s.out("result.json"))
    for _ in range(2):  # the second time, nothing is new
        s.run_command("submit", s.out("result.json"), "--board", s.out("board.json"), "--replace")
    return flat(json.loads(s.out("board.json").read_text()))


# --------------------------------------------------------------------------------------------------------------- verbs

OF_A_SUM = 1e-9  # sums in another order
OF_A_SOLVER = 1e-3  # the probe's solver stops at a tolerance
IN_A_BATCH = 1e-4
OF_INTERVALS = 0.4  # resamplings of the 6 patients of the test split are drawn in the order of their names
OF_RANKS = 0.2  # of 12 test recordings: embeddings that differ by a percent exchange a few ranks
OF_VECTORS = 0.05
_RANDOM = r"shuffled|another patient|of_another|random"  # controls with a draw of their own for each row
_INTERVALS = r"interval|\blow\b|\bhigh\b|_low\b|_high\b|relative_to|replicates|\bp\b|verdict"
_BY_ROW = "batches are drawn by row: other weights"
_A_NEIGHBOUR = "the nearest ECG may be another one"
_BY_PLACE = "draws depend on the record's place alone, as its documentation states"


@dataclass(frozen=True)
class Verb:
    """A command on a cohort, and how far its answers may differ after each kind of change; after an exact one, not at all.

    A text instead of a bound is the reason why there is none.
    """

    answer: Callable[[Scene], Answer]
    order: float | str = OF_A_SUM
    names: float | str = 0.0
    batch: float | str = IN_A_BATCH
    rate: float | str = OF_RANKS
    bfloat16: float | str = OF_RANKS
    compared: Mapping[str, str] = field(
        default_factory=dict
    )  # kind of change -> pattern of the names that are compared
    in_short: bool = True  # in the short run too; others are slow, or are in metamorphic.py

    def bound(self, kind: str) -> float | str:
        """The bound of a kind of change, or the reason why there is none."""
        bound: float | str = 0.0 if kind == "exact" else getattr(self, kind)
        return bound


def _only(pattern: str, *kinds: str) -> dict[str, str]:
    return dict.fromkeys(kinds or ("rate", "bfloat16"), pattern)


VERBS: dict[str, Verb] = {
    "probe": Verb(
        _probe, OF_A_SOLVER, in_short=False,
        compared=_only(r"fractions 1 (trained|handcrafted) macro$") | _only(r"^(?!.*fractions 0.5)", "order"),  # draws of rows
    ),
    "zeroshot": Verb(_zeroshot, in_short=False, compared=_only(r"^trained (macro|per_class)")),
    "regress": Verb(
        _regress, OF_A_SUM, "folds are drawn in the order of the names", in_short=False, compared=_only("value$"),
    ),
    "compare": Verb(_compare, OF_A_SOLVER, in_short=False, compared=_only(r"^macro (a|b)$")),
    "retrieve": Verb(_retrieve, 1e-5, rate=_A_NEIGHBOUR, bfloat16=_A_NEIGHBOUR, in_short=False),
    "prepare": Verb(_prepare, 0.0, batch=0.0, rate="a cohort has the samples of the files at their rate", bfloat16=0.0),
    "pretrain": Verb(  # losses that are standardised over a batch, as barlow_twins has them, have no such bound without training
        _pretrain, _BY_ROW, batch=0.0, rate=OF_VECTORS, bfloat16=OF_VECTORS, in_short=False,
        compared=_only("^with texts: last loss$"),
    ),
    "reproduce": Verb(
        _reproduce, _BY_ROW, rate="trains: see pretrain", bfloat16="trains: see pretrain", in_short=False,
        compared=_only("^(?!.*(ours|interval))", "names"),  # texts with intervals
    ),
    "embed": Verb(_embed, 1e-5, in_short=False, rate=OF_VECTORS, bfloat16=OF_VECTORS),
    "export": Verb(_export, 1e-5, rate=OF_VECTORS, bfloat16=0.0),  # a graph computes in float32
    "finetune": Verb(_finetune, _BY_ROW, batch=0.0, rate=OF_VECTORS, bfloat16=0.0, compared=_only("thresholds")),
    "shift": Verb(_shift, OF_A_SOLVER, compared=_only("trained auroc$")),
    "calibrate": Verb(_calibrate, compared=_only("slope|intercept")),
    "card": Verb(
        _card, OF_A_SOLVER,
        compared=_only(r"^(scores|robustness) .*macro$") | _only("^(?!.*(acquisition|linear map|_from_))", "names"),
    ),  # folds of the linear maps are drawn in the order of the names
    "report": Verb(_report, 0.0, rate=0.2, bfloat16=0.2),  # the nearest ECG may be another one
    "train-writer": Verb(_train_writer, _BY_ROW, rate=0.02, bfloat16=0.02, compared=_only("loss$")),
    "score-writer": Verb(_score_writer, compared=_only("^rows (right ECG|majority|retrieve) .*macro")),
    "bench-qa": Verb(_bench_qa, _BY_PLACE, compared=_only("^rows probe .* score$")),
    "complete": Verb(_complete, 1e-6, compared=_only(" value$") | _only("^(?!.*coverage)", "order")),  # noise is drawn by place
    "generate": Verb(_generate, _BY_PLACE, rate=OF_VECTORS, bfloat16=OF_VECTORS),
    "measure": Verb(_measure, 0.0, batch=0.0, rate=0.1, bfloat16=0.0, compared=_only("heart|pr_ms|qrs|qt_ms|n_beats")),
    "describe": Verb(_describe, 0.0, batch=0.0, rate=0.0, bfloat16=0.0),
    "check": Verb(
        _check, OF_A_SUM, batch=0.0, rate=0.0, bfloat16=0.0,
        compared=_only("^(n_|recordings|looked_at|classes)", "rate") | _only("^(?!.*examples)", "order"),  # the first rows
    ),
    "prompts": Verb(_prompts, 0.0, batch=0.0, rate=0.0, bfloat16=0.0),
    "submit": Verb(_submit, compared=_only("macro$")),
}  # fmt: skip


WITHOUT = {  # commands that read no ECG
    "demo": "calls the commands above on ECGs that it simulates",
    "simulate": "writes files from a seed; test_simulated_pairs.py compares numbers of processes",
    "tasks": "prints constants",
    "methods": "prints constants",
}


def differences_of(kind: str, bound: float, pattern: str, one: Answer, other: Answer) -> Differences:
    """How far an answer after a change differs from that of the same ECGs as they are: numbers, and the share of other texts.

    Values are compared whose name has `pattern`; after an exact change, all.
    """
    compiled = re.compile(pattern)
    if kind != "exact":  # what is drawn at random has other draws
        one, other = (
            {k: v for k, v in x.items() if compiled.search(k) and not re.search(_RANDOM, k)} for x in (one, other)
        )
    if one.keys() != other.keys():
        yield f"the names of its values ({', '.join(sorted(one.keys() ^ other.keys())[:3])})", math.inf, bound
        return
    if not one:  # a pattern that no name has: the relation could not fail
        yield "no value that is compared", math.inf, bound
        return
    texts = [name for name, value in one.items() if isinstance(value, str | bool) or value is None]
    unlike = [name for name in texts if one[name] != other[name]]
    which = f" ({unlike[0]}: {one[unlike[0]]} and {other[unlike[0]]})" if unlike else ""
    yield f"share of texts{which}", len(unlike) / max(1, len(texts)), bound
    for intervals in (False, True):
        limit = OF_INTERVALS if intervals and kind in ("names", "rate", "bfloat16") else bound
        sizes = {
            name: _difference(one[name], other[name])
            for name in one.keys() - set(texts)
            if bool(re.search(_INTERVALS, name)) == intervals
        }
        if sizes:
            worst = max(sizes, key=lambda name: (sizes[name], name))
            values = "" if isinstance(one[worst], np.ndarray) else f" ({one[worst]} and {other[worst]})"
            yield f"{worst}{values}", sizes[worst], limit


def _difference(one: Any, other: Any) -> float:
    """The difference of two numbers, or arrays, as a share of the first where that is above 1."""
    if other is None or isinstance(other, str):
        return math.inf
    first, second = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if first.shape != second.shape or (np.isnan(first) != np.isnan(second)).any():
        return math.inf
    return float(
        np.nan_to_num(np.abs(first - second)).max(initial=0) / max(1.0, float(np.nanmax(np.abs(first), initial=0)))
    )


# ---------------------------------------------------------------------------------------------------------------- rows


def rows(n_rounds: int, folder: Path, is_short: bool = False, kinds: Sequence[str] = ()) -> list[Row]:
    """One row for each change, over all commands on `n_rounds` cohorts.

    is_short: all exact changes at once for the commands that metamorphic.py has not, and each other kind for one of them.
    kinds: the rows to return; all.
    """
    faults: dict[str, list[str]] = {change.name: [] for change in CHANGES}
    counts, largest = dict.fromkeys(faults, 0), dict.fromkeys(faults, 0.0)
    for seed in range(n_rounds):
        place = folder / f"verbs{seed}"
        runs = {precision: place / f"runs-{precision}" for precision in ("float32", "bfloat16")}
        for precision, home in runs.items():
            write_runs(home, seed, precision)
        base = build(place / "base", seed, AS_IT_IS, runs["float32"])
        answers: dict[str, Answer] = {}
        for number, change in enumerate(CHANGES):
            if not chosen_verbs(number, is_short) or (kinds and _title(change.name) not in kinds):
                continue
            scene = build(place / f"change{number}", seed, change, runs[change.precision])
            for name in chosen_verbs(number, is_short):
                counts[change.name] += 1
                verb = VERBS[name]
                compared = partial(
                    compare_answers, name, verb, change.bound, partial(Scene.answer, verb=verb), base, answers
                )
                for fault, size in faults_of_case(compared, scene, f"{name}, {base.method}, seed {seed}"):
                    largest[change.name] = max(largest[change.name], size)
                    if fault and len(faults[change.name]) < MOST_FAULTS:
                        faults[change.name].append(fault)
            shutil.rmtree(scene.folder)
        shutil.rmtree(place)
    return [
        Row(_title(name), counts[name], tuple(lines), f"largest difference {largest[name]:.2g}")
        for name, lines in faults.items()
        if counts[name]
    ]


def _title(change: str) -> str:
    return f"commands: {change}"


def compare_answers(
    name: str, verb: Any, kind: str, ask: Callable[[Any], Answer], base: Any, answers: dict[str, Answer], changed: Any
) -> Differences:
    """Ask a command on the base, unless `answers` has that already, and on what was changed."""
    if name not in answers:
        answers[name] = ask(base)
    bound = verb.bound(kind)
    assert not isinstance(bound, str)
    yield from differences_of(kind, bound, verb.compared.get(kind, ""), answers[name], ask(changed))


def chosen_verbs(number: int, is_short: bool) -> list[str]:
    """The commands that run after a change, by its number."""
    kind = CHANGES[number].bound
    usable = [name for name, verb in VERBS.items() if not isinstance(verb.bound(kind), str)]
    if not is_short:
        return usable
    usable = [name for name in usable if VERBS[name].in_short]
    if kind == "exact":
        return usable if CHANGES[number] is EVERYTHING else []  # which has the others
    return [usable[number % len(usable)]]
