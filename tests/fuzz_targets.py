"""The readers that are fuzzed: file formats, settings, prompts and questions, run folders, cohort folders, embeddings, probes."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import vendor_files
from api_run import write_run
from conftest import make_batch
from fuzzing import Target

from leadwise import config as settings
from leadwise import run as runs
from leadwise.batch import LEADS
from leadwise.config import ConfigError
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.cohort.prepare import write
from leadwise.data.formats import reading
from leadwise.data.recordings import twelve_leads
from leadwise.data.recordings.recording import RecordError
from leadwise.data.sources.folder import Options, read_source
from leadwise.data.stored_embeddings import StoredEmbeddingsError, read_embeddings
from leadwise.evaluate import prompts
from leadwise.evaluate.prompts import PromptError
from leadwise.questions.question import QuestionError, read_questions
from leadwise.run import RunError
from leadwise.trained_on import TrainedOnError

_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")


def targets(folder: Path) -> list[Target]:
    """Return all targets; `folder` is an empty one for the files that readers take by path."""
    return [*_formats(folder), *_wfdb(folder), *_text_files(folder), *_run_files(folder), *_cohort_files(folder)]


# -------------------------------------------------------------------------------------------------------- formats


def _read_ecg(source: bytes | Path, **given: object) -> None:
    """Read a recording as `leadwise.read` does, and check what every recording promises."""
    recording = reading.read(source, **given)  # type: ignore[arg-type]
    twelve = twelve_leads.to_twelve_leads(recording)
    assert twelve.signal.shape == (twelve.n_samples, 12)
    assert recording.rate_hz > 0
    assert not np.isinf(twelve.signal).any()


def _formats(folder: Path) -> list[Target]:
    """Formats of one file. Those whose reader needs an extra that is absent are left out."""
    samples = vendor_files.twelve_leads()
    values = np.stack(list(samples.values())).astype(float) / 1000  # (12, T)
    names = list(samples)
    table = ",".join(names) + "\n" + "\n".join(",".join(f"{x:.3f}" for x in row) for row in values.T[:300])
    watch = "Name,A B\nSample Rate,512 hertz\n\nLead,Lead I\nUnit,µV\n\n"
    texts = {
        "muse": [vendor_files.muse(), vendor_files.muse(samples)],
        "philips": [vendor_files.philips(samples)],
        "hl7_aecg": [vendor_files.aecg(samples)],
        "mortara": [vendor_files.mortara(samples)],
        "cardiosoft": [vendor_files.cardiosoft(samples)],
        "schiller": [vendor_files.schiller(samples)],
        "apple_watch": [watch + "\n".join(map(str, vendor_files.beats(2000, 512).tolist()))],
    }
    readers = [
        Target(name, [_encoded(text) for text in several], _read_ecg, (RecordError,)) for name, several in texts.items()
    ]
    given = {"rate_hz": 500.0, "units": "mV"}
    readers.append(Target("csv", [table.encode()], functools.partial(_read_ecg, **given), (RecordError,)))
    npz = io.BytesIO()
    np.savez(npz, signal=values.T, rate_hz=500.0, leads=np.array(names), units="mV")
    npy = io.BytesIO()
    np.save(npy, values.T)
    readers.append(Target("npz", [npz.getvalue()], _read_ecg, (RecordError,)))
    with_leads = functools.partial(_read_ecg, leads=names, **given)
    readers.append(Target("npy", [npy.getvalue()], with_leads, (RecordError,)))
    return readers + _device_formats(folder)


def _encoded(text: str) -> bytes:
    return text.encode("utf-16" if 'encoding="UTF-16"' in text else "utf-8")


def _device_formats(folder: Path) -> list[Target]:
    """Binary formats, written as the tests of each format write them."""
    import scipy.io
    import test_format_devices as devices

    mat = folder / "a.mat"
    scipy.io.savemat(mat, {"val": np.arange(12 * 500, dtype="<i2").reshape(12, 500), "fs": 500.0})
    inputs: dict[str, list[bytes]] = {
        "ishne": [devices.write_ishne()],
        "atc": [devices.write_atc()],
        "mat": [mat.read_bytes()],
    }
    try:
        import test_format_scp as scp

        inputs["scp"] = [scp.write(scp.samples())]
    except ImportError:
        pass
    try:
        import test_format_dicom as dicom

        channels = [dicom.channel(lead) for lead in _LEADS]
        inputs["dicom"] = [dicom.write(dicom.group(dicom.samples(500, len(_LEADS)), channels))]
    except ImportError:
        pass
    try:
        import test_format_edf as edf

        path = folder / "a.edf"
        edf.write(path, [edf.signal(f"ECG {lead}") for lead in _LEADS])
        inputs["edf"] = [path.read_bytes()]
    except ImportError:
        pass
    given = {"mat": {"leads": list(vendor_files.twelve_leads()), "units": "mV", "rate_hz": 500.0}}
    return [
        Target(name, several, functools.partial(_read_ecg, **given.get(name, {})), (RecordError,))
        for name, several in inputs.items()
    ]


def _wfdb(folder: Path) -> list[Target]:
    """A header with sound samples, and samples with a sound header."""
    place = folder / "wfdb"
    place.mkdir()
    samples = np.arange(12 * 500, dtype="<i2") % 800
    leads = list(vendor_files.twelve_leads())
    lines = [f"a.dat 16 1000(0)/mV 16 0 {samples[k]} 0 0 {lead}" for k, lead in enumerate(leads)]
    header = ("a 12 500 500\n" + "\n".join(lines) + "\n# Age: 60\n# Sex: Female\n# Dx: 426783006\n").encode()
    (place / "a.dat").write_bytes(samples.tobytes())
    (place / "a.hea").write_bytes(header)
    other = folder / "wfdb_data"
    other.mkdir()
    (other / "a.hea").write_bytes(header)
    return [
        Target("wfdb header", [header], functools.partial(_with_file, place / "a.hea", _read_ecg), (RecordError,)),
        Target(
            "wfdb samples",
            [samples.tobytes()],
            functools.partial(_with_file, other / "a.dat", lambda path: _read_ecg(path.with_suffix(".hea"))),
            (RecordError,),
        ),
    ]


def _with_file(path: Path, read: Callable[[Path], object], content: bytes) -> object:
    """Write the content to `path` and read it."""
    path.write_bytes(content)
    return read(path)


# ---------------------------------------------------------------------------------------------------- other files


def _text_files(folder: Path) -> list[Target]:
    """Settings, prompts, questions, and tables of embeddings."""
    config = settings.dumps(settings.Config()).encode()
    shipped = Path(prompts.__file__).parent
    every = [path.read_bytes() for path in sorted(shipped.rglob("*.toml"))]
    wordings = [content for content in every if b"extends" not in content][:3]
    question = (
        b'{"kind": "presence", "records": ["a"], "about": "afib", "text": "Is it?", "options": ["yes", "no"], '
        b'"keys": ["yes", "no"], "answer": [0]}\n'
    )
    vectors = io.BytesIO()
    np.savez(vectors, record=np.array(["a", "b"]), embedding=np.zeros((2, 4), np.float32))
    return [
        Target("config", [config], functools.partial(_with_file, folder / "c.toml", settings.read), (ConfigError,)),
        Target("prompts", wordings, functools.partial(_with_file, folder / "p.toml", prompts.load), (PromptError,)),
        Target(
            "embeddings",
            [vectors.getvalue()],
            functools.partial(_with_file, folder / "e.npz", read_embeddings),
            (StoredEmbeddingsError,),
        ),
        Target(
            "questions",
            [question * 3],
            functools.partial(_read_questions, folder / "q.jsonl"),
            (QuestionError,),
        ),
    ]


def _read_questions(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    read_questions(path)


def _run_files(folder: Path) -> list[Target]:
    """Each file of a run folder, with the others sound.

    Changes are accepted, so that digests do not refuse everything; but not of the settings, which may describe a model that
    is too large to be built in time.
    """
    readers = []
    for name in ("config.toml", "data.json", "model.safetensors", "tokenizer/tokenizer.json"):
        place = write_run(folder / f"run-{name.split('/')[0]}")
        path = place / name
        if not path.is_file():
            continue
        read = functools.partial(_load_run, place, name != "config.toml")
        readers.append(
            Target(f"run: {name}", [path.read_bytes()], functools.partial(_with_file, path, read), _RUN_ERRORS)
        )
    return readers


_RUN_ERRORS = (RunError, ConfigError, TrainedOnError)


def _load_run(place: Path, accept_changes: bool, _: Path) -> object:
    run = runs.load(place, "cpu", accept_changes=accept_changes)
    return run.provenance, run.training_hashes


def _cohort_files(folder: Path) -> list[Target]:
    """Each file of a cohort folder, with the others sound."""
    lines = ["path,patient,report,split,label.afib"]
    for k in range(6):
        np.save(folder / f"ecg{k}.npy", make_batch(4, seed=k).ecg[k % 4].numpy())
        lines.append(f"ecg{k}.npy,p{k // 2},sinus rhythm,{('train', 'val', 'test')[k // 2]},{k % 2}")
    (folder / "ecgs.csv").write_text("\n".join(lines) + "\n")
    source = read_source(folder / "ecgs.csv", Options(LEADS, 100, "mV"))
    readers = []
    for number, name in enumerate(("cohort.json", "index.parquet", "samples-00000.npy")):
        place = folder / f"cohort-{number}"
        write(source, place)
        path = place / name
        read = functools.partial(_open_cohort, place)
        readers.append(
            Target(f"cohort: {name}", [path.read_bytes()], functools.partial(_with_file, path, read), (CohortError,))
        )
    return readers


def _open_cohort(place: Path, _: Path) -> None:
    cohort = Cohort.open(place, verify=True)
    signal, rate_hz = cohort.signal(0)
    assert signal.shape[1] == 12
    assert rate_hz > 0
