"""The commands on ECG files, and the page's API, with the same ECGs in files that must not change an answer."""

from __future__ import annotations

import base64
import io
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import vendor_files
from evidence import Row
from matplotlib import image
from metamorphic import GAIN, MOST_FAULTS, Variant, beats, faults_of_case
from metamorphic_verbs import (
    AS_IT_IS,
    IN_A_BATCH,
    N_RECORDS,
    OF_VECTORS,
    SMALL_WRITER,
    Answer,
    Scene,
    build,
    compare_answers,
    flat,
    records_in,
    table_of,
    write_runs,
)
from serve_files import HEADERS, TOKEN
from starlette.testclient import TestClient

from leadwise.batch import LEADS
from leadwise.data.formats.reading import read
from leadwise.data.recordings.lead_algebra import EINTHOVEN
from leadwise.serve.app import create_app
from leadwise.serve.settings import Limits, ServeSettings

N_FILES = 3
OF_ROUNDING = 1e-5  # a step of a microvolt is a division in one format, and a product in another


# --------------------------------------------------------------------------------------------------------------- files


def _muse(leads: Mapping[str, np.ndarray]) -> str:
    step = {name: {"LeadAmplitudeUnitsPerBit": 1} for name in vendor_files.EIGHT}
    return vendor_files.muse({name: leads[name] for name in vendor_files.EIGHT}, replaced=step)


def _aecg(leads: Mapping[str, np.ndarray]) -> str:
    sequences = "".join(
        vendor_files.aecg_sequence(f"MDC_ECG_LEAD_{name.upper()}", samples, scale="1")
        for name, samples in leads.items()
    )
    return vendor_files.aecg(leads, sequences=sequences)


def _mortara(leads: Mapping[str, np.ndarray]) -> str:
    return vendor_files.mortara(leads, UNITS_PER_MV=GAIN)


@dataclass(frozen=True)
class Kind:
    """A kind of file of the same ECGs."""

    name: str
    bound: str = "exact"
    file: Callable[[np.ndarray, Sequence[int]], Variant] = lambda steps, order: Variant(steps)
    text: Callable[[Mapping[str, np.ndarray]], str] | None = None  # of a vendor's file
    rate_hz: int = 500
    is_reversed: bool = False


AS_FILES = Kind("as it is")
KINDS = (
    Kind(
        "gain, leads and names at once",
        file=lambda steps, order: Variant(
            2 * steps[:, list(order)] + 100, gain=f"{2 * GAIN}(100)/mV", leads=[LEADS[k] for k in order]
        ),
    ),
    Kind("gain x 2, samples x 2", file=lambda steps, _: Variant(2 * steps, gain=f"{2 * GAIN}(0)/mV")),
    Kind("gain / 2, samples / 2", file=lambda steps, _: Variant(steps // 2, gain=f"{GAIN // 2}(0)/mV")),
    Kind("leads permuted", file=lambda steps, order: Variant(steps[:, list(order)], leads=[LEADS[k] for k in order])),
    Kind("in microvolts", file=lambda steps, _: Variant(steps, gain=f"{GAIN // 1000}(0)/uV")),
    Kind("baseline of 500 steps", file=lambda steps, _: Variant(steps + 500, gain=f"{GAIN}(500)/mV")),
    Kind("files in another order", "order", is_reversed=True),
    Kind("GE MUSE", "format", text=_muse),
    Kind("HL7 aECG", "format", text=_aecg),
    Kind("Mortara ELI", "format", text=_mortara),
    Kind("at 1000 Hz", "rate", rate_hz=1000),
)


def write_files(folder: Path, seed: int, kind: Kind) -> list[Path]:
    """Write the ECGs of a seed as files of a kind; their names without suffix are those of the other kinds."""
    folder.mkdir(parents=True)
    order = np.random.default_rng([seed, 2]).permutation(len(LEADS))
    paths = []
    for number, ecg in enumerate(beats(kind.rate_hz, seed + 50, N_FILES)):
        steps = 4 * np.rint(ecg * GAIN / 4).astype(int)
        for lead, (of_i, of_ii) in EINTHOVEN.items():
            steps[:, LEADS.index(lead)] = of_i * steps[:, 0] + of_ii * steps[:, 1]
        path = folder / f"e{number}"
        if kind.text is None:
            variant = kind.file(steps, order)
            paths.append(Variant(variant.steps, kind.rate_hz, variant.gain, variant.leads).write(path))
        else:
            paths.append(path.with_suffix(".xml"))
            paths[-1].write_text(kind.text(dict(zip(LEADS, steps.T.astype(np.int16)))))
    return paths


# ------------------------------------------------------------------------------------------------------------- answers


@dataclass
class FileScene:
    """Files of a kind, and the cohort and runs that all kinds are scored with."""

    scene: Scene
    kind: Kind
    paths: list[Path]
    client: Any  # of the API

    @property
    def given(self) -> list[Path]:
        return self.paths[::-1] if self.kind.is_reversed else self.paths

    @property
    def two(self) -> list[Path]:
        return [path for path in self.given if path in self.paths[:2]]

    def out(self, name: str) -> Path:
        """A path in a new folder for what a command writes."""
        folder = self.paths[0].parent.with_name(f"{self.paths[0].parent.name}-out")
        folder.mkdir(exist_ok=True)
        return folder / name

    def table(self, *words: object) -> Answer:
        """Run a command that writes a table of files; its cells, each named by the file's name."""
        target = self.out(f"{words[0]}.csv")
        self.scene.run_command(*words, "-o", target)
        return table_of(target, "ecg", lambda name: Path(name).stem)


def _predict(s: FileScene) -> Answer:
    """By texts with probabilities and percentiles, and by a saved probe."""
    prompts, cohort = s.scene.prompts, s.scene.cohort
    answer = s.table("predict", s.scene.run, *s.given, "--prompts", prompts, "--reference", cohort)
    by_probe = s.table("predict", s.scene.run, *s.given, "--probe", s.scene.folder / "probe.safetensors")
    return answer | {f"probe: {name}": value for name, value in by_probe.items()}


def _report(s: FileScene) -> Answer:
    answer = s.table("report", s.scene.run, *s.given, "--writer", "retrieve", "--bank", s.scene.cohort)
    by_writer = s.table("report", s.scene.run, *s.given, "--writer", s.scene.folder / "writer")
    return answer | {f"trained: {name}": value for name, value in by_writer.items()}


def _measure(s: FileScene) -> Answer:
    return s.table("measure", *s.given)


def _complete(s: FileScene) -> Answer:
    words = ("--leads", "I,II,V2", "--draws", 10, "-o", s.out("completed"))
    s.scene.run_command("complete", s.scene.folder / "wear", *s.two, *words)
    return records_in(s.out("completed"))


def _plot(s: FileScene) -> Answer:
    s.scene.run_command("plot", s.paths[0], "-o", s.out("plot.png"))
    return {"pixels": image.imread(s.out("plot.png"))}


def _convert(s: FileScene) -> Answer:
    """The converted records; each sample is that of the file, up to half a step."""
    s.scene.run_command("convert", s.paths[0].parent, s.out("wfdb"), "--derive")
    for path in s.paths:
        before, after = read(path), read(s.out("wfdb") / f"{path.stem}.hea")
        samples = dict(zip(after.leads, after.signal.T))
        for lead, expected in zip(before.leads, before.signal.T):
            away = float(np.abs(samples[lead] - expected).max())
            assert away <= 0.5 / GAIN, f"{path.name} {lead} differs by {away:g} mV from its converted record"
    return records_in(s.out("wfdb"))


def _serve(s: FileScene) -> Answer:
    """All answers of the API about two files."""
    answer: Answer = {}
    questions: list[tuple[str, dict[str, Any]]] = [
        ("read", {}), ("embed", {}), ("embed", {"part": "shared"}), ("zeroshot", {"task": "ptbxl_super"}),
        ("zeroshot", {"words": "atrial fibrillation."}), ("explain", {"words": "atrial fibrillation."}),
        ("neighbours", {"top": N_RECORDS}),
    ]  # fmt: skip
    for path in s.two:
        for what, query in questions:
            prefix = f"{what} {path.stem} {' '.join(map(str, query.values()))}"
            answer |= flat(_arrays(_ask(s.client, what, _zipped({path: ""}), **query)), prefix)
    return answer | flat(_arrays(_ask(s.client, "compare", _zipped({s.paths[0]: "1/", s.paths[1]: "2/"}))), "compare")


def _ask(client: Any, what: str, content: bytes, **query: Any) -> Any:
    done = client.post(f"/api/{what}", content=content, params=query, headers={"X-File-Name": "ecg.zip"})
    if done.status_code != 200:
        raise RuntimeError(f"/api/{what}: {done.status_code} {done.text[:200]}")
    return done.json()


def _zipped(folders: Mapping[Path, str]) -> bytes:
    """An archive of files, each in a folder; a header with its samples."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, folder in folders.items():
            for one in sorted(path.parent.glob(f"{path.stem}.*")):
                archive.writestr(f"{folder}{one.name}", one.read_bytes())
    return buffer.getvalue()


def _arrays(value: Any) -> Any:
    """The answer with samples in mV in place of packed ones."""
    if isinstance(value, dict) and "base64" in value:
        packed = np.frombuffer(base64.b64decode(value["base64"]), dtype="<i2").astype(np.float64)
        return {"samples": np.where(packed == value["missing"], np.nan, packed * value["mv_per_unit"])}
    if isinstance(value, dict):
        return {key: _arrays(inner) for key, inner in value.items()}
    return [_arrays(inner) for inner in value] if isinstance(value, list) else value


# --------------------------------------------------------------------------------------------------------------- verbs

_ITS_SAMPLES = "its result is the samples of the file at their rate"
_A_NEIGHBOUR = "the nearest ECG may be another one; metamorphic_verbs.py has the share for a cohort"
_OF_A_MODEL = r"^(embed|zeroshot|explain|neighbours) .*(vector|cosine|drop)|^compare cosine"


@dataclass(frozen=True)
class FileVerb:
    """A command on files, and how far its answers may differ for each kind; a text is the reason why there is no bound."""

    answer: Callable[[FileScene], Answer]
    order: float | str = IN_A_BATCH
    format: float | str = OF_ROUNDING
    rate: float | str = OF_VECTORS
    compared: Mapping[str, str] = field(default_factory=dict)

    def bound(self, kind: str) -> float | str:
        """The bound of a kind of file, or the reason why there is none."""
        bound: float | str = 0.0 if kind == "exact" else getattr(self, kind)
        return bound


FILE_VERBS: dict[str, FileVerb] = {
    "predict": FileVerb(_predict, compared={"rate": "^(?!.*percentile)"}),
    "report": FileVerb(_report, 0.0, 0.0, _A_NEIGHBOUR),
    "measure": FileVerb(_measure, 0.0, rate=0.1, compared={"rate": "heart|pr_ms|qrs|qt_ms|n_beats"}),
    "complete": FileVerb(_complete, IN_A_BATCH, rate=OF_VECTORS),
    "plot": FileVerb(_plot, 0.0, "the picture names the format", _ITS_SAMPLES),
    "convert": FileVerb(_convert, 0.0, rate=_ITS_SAMPLES),
    "serve": FileVerb(
        _serve,
        compared={
            "rate": _OF_A_MODEL,
            "format": rf"{_OF_A_MODEL}|^(read|compare) .*(samples|measurements|differences .*change)",
        },
    ),
}


# ---------------------------------------------------------------------------------------------------------------- rows


def rows(n_rounds: int, folder: Path, is_short: bool = False) -> list[Row]:
    """One row for each kind of file, over all commands; is_short: all exact changes at once, and each other kind for one."""
    faults: dict[str, list[str]] = {kind.name: [] for kind in KINDS}
    counts, largest = dict.fromkeys(faults, 0), dict.fromkeys(faults, 0.0)
    for seed in range(n_rounds):
        place = folder / f"files{seed}"
        write_runs(place / "runs", seed)
        scene = build(place / "cohort", seed, AS_IT_IS, place / "runs")
        _fit(scene)
        settings = ServeSettings(
            str(scene.run), scene.cohort, token=TOKEN, limits=Limits(parsers=1, neighbours=N_RECORDS)
        )
        with TestClient(create_app(settings), base_url="http://127.0.0.1:8765", headers=HEADERS) as client:
            base = FileScene(scene, AS_FILES, write_files(place / "as", seed, AS_FILES), client)
            answers: dict[str, Answer] = {}
            for number, kind in enumerate(KINDS):
                files = FileScene(scene, kind, write_files(place / f"kind{number}", seed, kind), client)
                for name in chosen_verbs(number, is_short):
                    verb = FILE_VERBS[name]
                    compared = partial(compare_answers, name, verb, kind.bound, verb.answer, base, answers)
                    counts[kind.name] += 1
                    for fault, size in faults_of_case(compared, files, f"{name}, {scene.method}, seed {seed}"):
                        largest[kind.name] = max(largest[kind.name], size)
                        if fault and len(faults[kind.name]) < MOST_FAULTS:
                            faults[kind.name].append(fault)
        shutil.rmtree(place)
    return [
        Row(f"commands on files: {name}", counts[name], tuple(lines), f"largest difference {largest[name]:.2g}")
        for name, lines in faults.items()
        if counts[name]
    ]


def chosen_verbs(number: int, is_short: bool) -> list[str]:
    """The commands that run on a kind of file, by its number."""
    usable = [name for name, verb in FILE_VERBS.items() if not isinstance(verb.bound(KINDS[number].bound), str)]
    if not is_short or number == 0:
        return usable
    return [] if KINDS[number].bound == "exact" else [usable[number % len(usable)]]


def _fit(scene: Scene) -> None:
    """Write a probe, probabilities of texts and a writer of reports for the run."""
    probe = ("probe", scene.run, scene.cohort, "--task", "own", "--fractions", "1", "--seeds", "1")
    scene.run_command(*probe, "--save", scene.folder / "probe.safetensors")
    scene.run_command("calibrate", scene.run, scene.cohort, "--split", "train", "--prompts", scene.prompts)
    scene.run_command("train-writer", scene.run, scene.cohort, *SMALL_WRITER, "-o", scene.folder / "writer")
