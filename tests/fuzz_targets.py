"""The readers that are fuzzed: file formats, settings, prompts and questions, run folders, cohort folders, embeddings, probes."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import vendor_files
from api_run import write_run
from fuzz_stored import atc_of, npy_of, npz_of, scp_of, six_ecgs, stored_targets, with_file
from fuzz_values import check_dicom, check_edf, check_wfdb
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
from leadwise.data.recordings.recording import RecordError, Recording
from leadwise.data.stored_embeddings import StoredEmbeddingsError, read_embeddings
from leadwise.evaluate import prompts
from leadwise.evaluate.prompts import PromptError
from leadwise.questions.question import QuestionError, read_questions
from leadwise.run import RunError
from leadwise.trained_on import TrainedOnError

Check = Callable[[Recording, Path], None] | Callable[[Recording, bytes], None]
_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")


def targets(folder: Path) -> list[Target]:
    """Return all targets; `folder` is an empty one for the files that readers take by path."""
    return [
        *_formats(folder),
        *_wfdb(folder),
        *_text_files(folder),
        *_run_files(folder),
        *_cohort_files(folder),
        *stored_targets(folder / "stored"),
    ]


# -------------------------------------------------------------------------------------------------------- formats


def _read_ecg(source: bytes | Path, check: Check | None = None, **given: object) -> None:
    """Read a recording as `leadwise.read` does, and check what every recording promises, and its values by another reader."""
    recording = reading.read(source, **given)  # type: ignore[arg-type]
    twelve = twelve_leads.to_twelve_leads(recording)
    assert twelve.signal.shape == (twelve.n_samples, 12)
    assert recording.rate_hz > 0
    assert not np.isinf(twelve.signal).any()
    if check is not None:
        check(recording, source)  # type: ignore[arg-type]


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
    stored = {"rate_hz": np.array(500.0), "leads": np.array(names), "units": np.array("mV")}
    npz = io.BytesIO()
    np.savez(npz, signal=values.T, **stored)  # type: ignore[arg-type]
    readers.append(Target("npz", [npz.getvalue()], _read_ecg, (RecordError,)))
    as_npz = functools.partial(npz_of, "signal", stored)
    readers.append(Target("npz (array)", [npy_of(values.T), npy_of(values)], _read_ecg, (RecordError,), as_npz))
    with_leads = functools.partial(_read_ecg, leads=names, **given)
    readers.append(Target("npy", [npy_of(values.T)], with_leads, (RecordError,)))
    return readers + _device_formats(folder)


def _encoded(text: str) -> bytes:
    return text.encode("utf-16" if 'encoding="UTF-16"' in text else "utf-8")


def _device_formats(folder: Path) -> list[Target]:
    """Binary formats, written as the tests of each format write them."""
    import scipy.io
    import test_format_devices as devices

    given = {"leads": list(vendor_files.twelve_leads()), "units": "mV", "rate_hz": 500.0}
    mats = []
    for compressed in (False, True):
        mat = folder / "a.mat"
        values = {"val": np.arange(12 * 500, dtype="<i2").reshape(12, 500), "fs": 500.0}
        scipy.io.savemat(mat, values, do_compression=compressed)
        mats.append(mat.read_bytes())
    blocks = np.random.default_rng(0).integers(-900, 900, (2, 2, 250)).astype(">i2").tobytes()
    mfer = devices.write_mfer([devices.channel(0, 1), devices.channel(1, 2)], blocks, 2)
    readers = [
        Target("ishne", [devices.write_ishne()], _read_ecg, (RecordError,)),
        Target("atc", [devices.write_atc(), devices.write_atc(crc=True)], _read_ecg, (RecordError,)),
        Target("atc, checksums stated anew", [devices.write_atc()], _read_ecg, (RecordError,), atc_of),
        Target("mfer", [mfer], _read_ecg, (RecordError,)),
        Target("mat", mats, functools.partial(_read_ecg, **given), (RecordError,)),
    ]
    try:
        import test_format_scp as scp

        content = scp.write(scp.samples())
        readers.append(Target("scp", [content], _read_ecg, (RecordError,)))
        readers.append(Target("scp, checksum stated anew", [content], _read_ecg, (RecordError,), scp_of))
    except ImportError:
        pass
    try:
        import pydicom  # noqa: F401  (without it, test_format_dicom skips what imports it)
        import test_format_dicom as dicom

        channels = [dicom.channel(lead) for lead in _LEADS]
        content = dicom.write(dicom.group(dicom.samples(500, len(_LEADS)), channels))
        read = functools.partial(_read_ecg, check=check_dicom)
        readers.append(Target("dicom", [content], read, (RecordError,)))
    except ImportError:
        pass
    try:
        import pyedflib  # noqa: F401  (without it, test_format_edf skips what imports it)
        import test_format_edf as edf

        path = folder / "a.edf"
        edf.write(path, [edf.signal(f"ECG {lead}") for lead in _LEADS])
        read = functools.partial(_read_ecg, check=check_edf)
        readers.append(Target("edf", [path.read_bytes()], functools.partial(with_file, path, read), (RecordError,)))
    except ImportError:
        pass
    try:
        import h5py

        path = folder / "a.h5"
        with h5py.File(path, "w") as file:
            file["signal"] = np.arange(12 * 300, dtype="<i2").reshape(300, 12)
            file.attrs["rate_hz"] = 500.0
        read = functools.partial(_read_ecg, leads=list(LEADS), units="uV", rate_hz=500.0)
        readers.append(Target("hdf5", [path.read_bytes()], functools.partial(with_file, path, read), (RecordError,)))
    except ImportError:
        pass
    return readers


def _wfdb(folder: Path) -> list[Target]:
    """Headers with sound samples, samples with a sound header; of one segment and of several."""
    samples = np.arange(12 * 500, dtype="<i2") % 800
    stored, packed = samples.tobytes(), np.zeros(9000, dtype=np.uint8).tobytes()  # 12 bits: 6,000 samples of 0
    leads = list(vendor_files.twelve_leads())
    person = "# Age: 60\n# Sex: Female\n# Dx: 426783006\n"

    def header_of(storage: str, first: list[int]) -> bytes:
        lines = [f"a.dat {storage} 1000(0)/mV 16 0 {first[k]} 0 0 {lead}" for k, lead in enumerate(leads)]
        return ("a 12 500 500\n" + "\n".join(lines) + "\n" + person).encode()

    header, header_212 = header_of("16", samples[:12].tolist()), header_of("212", [0] * 12)
    segments = b"m/3 12 500 1100\na 500\n~ 100\na 500\n"
    read = functools.partial(_read_ecg, check=check_wfdb)
    readers = []
    for name, inputs, data, changed in (
        ("wfdb header", [header], stored, "a.hea"),
        ("wfdb samples", [stored], stored, "a.dat"),
        ("wfdb header (12 bits)", [header_212], packed, "a.hea"),
        ("wfdb samples (12 bits)", [packed], packed, "a.dat"),
        ("wfdb segments", [segments], stored, "m.hea"),
    ):
        place = folder / name.replace(" ", "_")
        place.mkdir()
        (place / "a.dat").write_bytes(data)
        (place / "a.hea").write_bytes(header_212 if data is packed else header)
        main = place / ("m.hea" if changed == "m.hea" else "a.hea")
        read_main = functools.partial(_read_main, read, main)
        readers.append(
            Target(name, inputs, functools.partial(with_file, place / changed, read_main), (RecordError,), share=0.5)
        )
    return readers


def _read_main(read: Callable[[Path], object], main: Path, _: Path) -> object:
    """Read the main file of a record after another of its files has changed."""
    return read(main)


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
        Target("config", [config], functools.partial(with_file, folder / "c.toml", settings.read), (ConfigError,)),
        Target("prompts", wordings, functools.partial(with_file, folder / "p.toml", prompts.load), (PromptError,)),
        Target(
            "embeddings",
            [vectors.getvalue()],
            functools.partial(with_file, folder / "e.npz", read_embeddings),
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
            Target(
                f"run: {name}", [path.read_bytes()], functools.partial(with_file, path, read), _RUN_ERRORS, share=0.1
            )
        )
    return readers


_RUN_ERRORS = (RunError, ConfigError, TrainedOnError)


def _load_run(place: Path, accept_changes: bool, _: Path) -> object:
    run = runs.load(place, "cpu", accept_changes=accept_changes)
    return run.provenance, run.training_hashes


def _cohort_files(folder: Path) -> list[Target]:
    """Each file of a cohort folder, with the others sound."""
    source = six_ecgs(folder)
    readers = []
    for number, name in enumerate(("cohort.json", "index.parquet", "samples-00000.npy")):
        place = folder / f"cohort-{number}"
        write(source, place)
        path = place / name
        read = functools.partial(_open_cohort, place)
        readers.append(
            Target(f"cohort: {name}", [path.read_bytes()], functools.partial(with_file, path, read), (CohortError,))
        )
    return readers


def _open_cohort(place: Path, _: Path) -> None:
    cohort = Cohort.open(place, verify=True)
    signal, rate_hz = cohort.signal(0)
    assert signal.shape[1] == 12
    assert rate_hz > 0
