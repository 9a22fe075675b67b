"""ecgbench: any resting 12-lead data set in the catalogue of that library, with its labels and folds; choose one by name=.

`leadwise tasks ecgbench` lists them. The library (extra `datasets`) reads the tables of the download; nothing is fetched, and
nothing is written to the download. Folds are the library's: those that the data set defines, else ten folds stratified by
label and grouped by patient, of the records that are there. Its `folds.csv` may be given instead (folds=).
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import math
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from leadwise.data import ecgbench_labels as label_sets
from leadwise.data.cohort.layout import CohortError, inside
from leadwise.data.messages import first_few, short_cell
from leadwise.data.sources.source import Row, Source, split_by_hash
from leadwise.data.tasks import Task

if TYPE_CHECKING:
    from ecgbench.config import DatasetConfig

log = logging.getLogger(__name__)

TASKS: tuple[Task, ...] = ()  # they depend on the data set: its label columns and the labels in it

_OWN_READERS = {"ptbxl": "ptbxl", "cpsc_2018": "cpsc2018", "ecg_arrhythmia": "csn", "mimic_iv_ecg": "mimic_iv_ecg"}
_GENERATED = "ecgbench_metadata.csv"  # written by the library; an old one may not match the files
_AGES = ("age", "Age", "age_years", "age_at_ecg", "PatientAge")
_SEXES = ("sex", "Sex", "gender", "Gender")
_SEX_NAMES = {"m": "male", "male": "male", "f": "female", "female": "female"}
_PTBXL_SEX = {"0": "male", "1": "female"}
_CODED_AGE, _OLDEST = 130.0, 90.0  # PTB-XL writes 300 for every age above 89
_STATES_ITS_LEADS = ("wfdb", "csv")  # signal formats whose files name their leads
_ADVICE = re.compile(r" ECGBench publishes|\.? Point --data-path|,? so point data_path| — point data_path")
_SEVERAL_PER_PATIENT = ("ptb", "st_petersburg_incart")  # parts of the challenges in which patients are not named
_NAMED_ITEMS = ("code15", "ikem")  # files of many recordings with their exam_id; others are found by row
_UNITS = {1.0: "mV", 0.001: "uV"}  # factor to mV -> unit


@dataclass(frozen=True)
class Options:
    """Options of `leadwise prepare ecgbench`."""

    name: str = field(
        default="", metadata={"help": "which data set, such as sph; `leadwise tasks ecgbench` lists all names"}
    )
    part: str | None = field(
        default=None, metadata={"help": "only this part of challenge2020 or challenge2021, such as georgia"}
    )
    folds: Path | None = field(
        default=None,
        metadata={"help": "folds.csv of the library: only its records, in its splits; default: folds of what is there"},
    )


def read_source(folder: Path, options: Options | None = None) -> Source:
    """A data set of ecgbench in `folder` as rows; no waveform is opened.

    The tasks are the data set's label columns, their classes the labels in it, by name.

    Raises:
        CohortError: the library is not installed, it has no such data set, or a table or folder that it needs is missing.
    """
    # the library's description of the data set, and its tables
    folder, options = Path(folder), options or Options()
    config = _config(options.name)
    table, labels = _read_tables(folder, config)
    if options.part is not None:
        table = _part(table, options.part, config.slug)
    _warn_of_unnamed_patients(folder, table)
    record = config.record_id_column
    splits = _splits(table, config) if options.folds is None else _given_splits(options.folds, record)

    # a row for each record that has a split
    names = [str(name) for name in table[record]]
    lines = _lines(table, labels, record)
    classes = {one.task: _classes(one, lines) for one in label_sets.LABEL_SETS[config.slug]}
    tasks = {task: known for task, known in classes.items() if known}
    rate_hz = _present_rate(folder, config, table)
    rows = [
        _row(folder, config, name, line, splits[name], rate_hz, tasks)
        for name, line in zip(names, lines)
        if splits.get(name) is not None
    ]
    if len(rows) < len(names):
        log.warning(
            "%s: %d of %d records are in no split; they are left out", folder, len(names) - len(rows), len(names)
        )
    return Source(f"ecgbench.{config.slug}", rows, tasks, about=_about(config))


# ------------------------------------------------------------------------------------------------------------ catalogue


def list_datasets() -> list[dict[str, str]]:
    """The data sets that `name=` takes: records, patients, rate, licence and how to get each.

    Raises:
        CohortError: the library is not installed.
    """
    _import_library()
    from ecgbench import catalogue
    from ecgbench.config import load_config

    rows = []
    for name in label_sets.LABEL_SETS:
        config = load_config(name)
        entry = catalogue.get_dataset(_ENTRY[name])
        rows.append(
            {
                "name": name,
                "data set": config.name,
                "records": entry.records if entry else "",
                "patients": entry.patients if entry else "",
                "Hz": ", ".join(map(str, config.sampling_rates)),
                "s": f"{config.duration_seconds:g}",
                "licence": _licence(config),
                "access": entry.access if entry else "",
                "tasks": ", ".join(one.task for one in label_sets.LABEL_SETS[name]) or "none",
                "get it from": config.url,
            }
        )
    return rows


_ENTRY = {  # name of the library's configuration -> its page in the catalogue
    "brugada_huca": "brugada-huca",
    "challenge2020": "physionet-cinc-challenge-2020",
    "challenge2021": "physionet-cinc-challenge-2021",
    "chapman_shaoxing": "chapman-shaoxing-ecg-database-10-646-patients",
    "code15": "code-15-pct-telehealth-network-of-minas-gerais-15-pct-subset",
    "code_test": "code-test-827-record-hold-out-test-set",
    "cpsc_2018": "cpsc-2018-china-physiological-signal-challenge-2018",
    "ecg_arrhythmia": "chapman-shaoxing-arrhythmia",
    "ecgcipa": "cipa-ecg-validation-study",
    "ecgdmmld": "ecg-effects-of-dofetilide-moxifloxacin-and-combinations-ecgdmmld",
    "ecgrdvq": "ecg-effects-of-ranolazine-dofetilide-verapamil-quinidine-ecgrdvq",
    "echonext": "echonext",
    "ikem": "ikem-dataset-institute-for-clinical-and-experimental-medicine-prague",
    "incartdb": "st-petersburg-incart-12-lead-arrhythmia-database",
    "leipzig_heart_center_ecg": "leipzig-heart-center-ecg-database",
    "ludb": "lobachevsky-university-ecg-database-ludb",
    "medalcare_xl": "medalcare-xl-synthetic-12-lead-ecgs-from-simulations",
    "mimic_iv_ecg_demo": "mimic-iv-ecg-demo",
    "norwegian_athlete_ecg": "norwegian-endurance-athlete-ecg-database",
    "ptbdb": "ptb-diagnostic-ecg-database",
    "ptbxl": "ptb-xl",
    "sami_trop": "sami-trop-chagas-cardiomyopathy-cohort",
    "sph": "shandong-provincial-hospital-ecg-database-sphdb",
    "zzu_pecg": "zzu-pecg-zhengzhou-university-pediatric-ecg-database",
}


def _import_library() -> None:
    """Raise CohortError if ecgbench is not installed."""
    try:
        import ecgbench  # noqa: F401
    except ModuleNotFoundError:
        raise CohortError(
            "source ecgbench needs the library ecgbench; install it with: pip install 'leadwise[datasets]'"
        ) from None


def _config(name: str) -> DatasetConfig:
    _import_library()
    from ecgbench.config import load_config

    if name in _OWN_READERS and name not in label_sets.LABEL_SETS:
        raise CohortError(
            f"source ecgbench: {name} has a reader of its own; use `leadwise prepare {_OWN_READERS[name]} PATH`"
        )
    if name not in label_sets.LABEL_SETS:
        reason = f"no data set {name!r}" if name else "no data set is named"
        raise CohortError(
            f"source ecgbench: {reason}; give name= one of {', '.join(label_sets.LABEL_SETS)} (see `leadwise tasks ecgbench`)"
        )
    if name in _OWN_READERS:
        log.info(
            "%s is a data set of the benchmark; its published tasks are in `leadwise prepare %s`",
            name,
            _OWN_READERS[name],
        )
    return load_config(name)


def _licence(config: DatasetConfig) -> str:
    """The licence; its first words where the library writes the address of the text."""
    known = {"ptbxl": "CC BY 4.0", "ecg_arrhythmia": "CC BY 4.0", "mimic_iv_ecg_demo": "ODbL 1.0"}
    return str(known.get(config.slug, config.license)).partition(" (")[0]


def _about(config: DatasetConfig) -> dict[str, str]:
    """What a cohort states about its origin."""
    facts = {
        "title": config.name,
        "version": config.version,
        "licence": _licence(config),
        "citation": " ".join(config.citation.split()),
        "doi": config.doi,
        "url": config.url,
        "labels": f"ecgbench {importlib.metadata.version('ecgbench')}",
    }
    if config.signal_units != "mV":
        facts["remark"] = "the publisher standardised the samples: they are not in mV"
    return {key: value for key, value in facts.items() if value}


# --------------------------------------------------------------------------------------------------------------- tables


def _read_tables(folder: Path, config: DatasetConfig) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The library's table of records, and its table of labels by record; None for a data set without labels."""
    from ecgbench.labels import LabelsUnavailableError, load_labels
    from ecgbench.splitting import strategies  # noqa: F401  # registers the splitters
    from ecgbench.splitting.registry import get_splitter

    if not folder.is_dir():
        raise CohortError(f"{folder} is not a folder; give the folder of {config.slug} as it was downloaded")
    with _view(folder, config) as view:
        try:
            if config.slug == "code15":  # the library needs all 18 parts to be there; the labels name the part
                labels = load_labels(config, view)
                return labels.reset_index().assign(signal_path=labels["trace_file"].to_numpy()), labels
            table = get_splitter(config.slug).load_metadata(view, config)
            try:
                labels = load_labels(config, view)
            except LabelsUnavailableError:
                labels = None
        except ImportError as error:
            raise CohortError(
                f"source ecgbench: {config.slug} needs a package that is not installed ({error.name}); "
                "install it with: pip install 'leadwise[datasets]'"
            ) from None
        except (OSError, ValueError, KeyError, StopIteration) as error:
            reason = _first_sentence(str(error).replace(str(view), str(folder)))
            raise CohortError(
                f"source ecgbench: {folder} is not {config.slug} as it was downloaded: {reason}; get it from {config.url}"
            ) from None
    return table, labels


def _first_sentence(text: str) -> str:
    """The library's message without its advice, which is for its own command line."""
    return _ADVICE.split(" ".join(text.split()))[0].rstrip(". ")


@contextlib.contextmanager
def _view(folder: Path, config: DatasetConfig) -> Iterator[Path]:
    """A temporary folder with links to what is in `folder`: the library writes its tables beside the data.

    Records that are not in the folder that the library expects them in are linked there.
    """
    with tempfile.TemporaryDirectory(prefix="leadwise-ecgbench-") as temporary:
        view = Path(temporary)
        for entry in folder.iterdir():
            if entry.name != _GENERATED:
                (view / entry.name).symlink_to(entry.resolve(), target_is_directory=entry.is_dir())
        for link, target in _moved(folder, config).items():
            (view / link).mkdir(parents=True)  # a folder, because a search does not follow links below its root
            for entry in target.iterdir():
                (view / link / entry.name).symlink_to(entry.resolve(), target_is_directory=entry.is_dir())
        yield view


def _moved(folder: Path, config: DatasetConfig) -> dict[str, Path]:
    """Folders that the library expects below the root, where `folder` is one of them itself: name in the view -> folder."""
    has_headers = next(folder.glob("*.hea"), None) is not None
    if config.slug == "cpsc_2018" and has_headers and not (folder / "Training_WFDB").exists():
        return {"Training_WFDB": folder}
    if config.slug in ("challenge2020", "challenge2021") and not (folder / "training").exists():
        parts = [folder] if has_headers else [part for part in folder.iterdir() if next(part.glob("*.hea"), None)]
        return {f"training/{part.resolve().name}": part for part in parts}
    return {}


def _file(folder: Path, config: DatasetConfig, written: str, where: str) -> Path:
    """The file of a path in the library's table, which is relative to its root."""
    for link, target in _moved(folder, config).items():
        if written.startswith(link + "/"):
            return inside(target, written.removeprefix(link + "/"), where)
    return inside(folder, written, where)


def _part(table: pd.DataFrame, part: str, name: str) -> pd.DataFrame:
    """The records of one part of a challenge."""
    if "source" not in table.columns:
        raise CohortError(f"source ecgbench: {name} has no parts; leave out part=")
    parts = sorted(set(table["source"]))
    if part not in parts:
        raise CohortError(f"source ecgbench: {name} has no part {part!r} here; it has {', '.join(parts)}")
    return table[table["source"] == part].reset_index(drop=True)


def _warn_of_unnamed_patients(folder: Path, table: pd.DataFrame) -> None:
    """Log a warning if patients with several recordings are not named: they may be in two splits."""
    parts = [part for part in _SEVERAL_PER_PATIENT if "source" in table.columns and part in set(table["source"])]
    if parts:
        log.warning(
            "%s: the parts %s have several recordings of a patient and name none: a patient may be in two splits; prepare "
            "the other parts with part=, or these from their own data sets (ptbdb, incartdb)",
            folder, " and ".join(parts),
        )  # fmt: skip


def _lines(table: pd.DataFrame, labels: pd.DataFrame | None, record: str) -> list[dict[str, Any]]:
    """A dictionary for each record: the columns of both tables, those of the labels first."""
    lines: list[dict[str, Any]] = [
        {str(key): value for key, value in line.items()} for line in table.to_dict("records")
    ]
    if labels is None:
        return lines
    by_record = dict(zip(map(str, labels.index), labels.to_dict("records")))
    for line in lines:
        line.update({str(key): value for key, value in by_record.get(str(line[record]), {}).items()})
    return lines


# --------------------------------------------------------------------------------------------------------------- splits


def _splits(table: pd.DataFrame, config: DatasetConfig) -> dict[str, str]:
    """Record -> split, by the library's folds; by a hash of the patient where there are too few records for them."""
    from ecgbench.splitting.engine import split_dataset
    from ecgbench.splitting.registry import get_splitter

    record, patient = config.record_id_column, config.patient_id_column
    try:
        stratify = get_splitter(config.slug).get_stratification_labels(table, config)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of classes with fewer members than folds
            result = split_dataset(table, stratify, config, n_folds=config.n_folds)
    except ValueError as error:
        log.warning(
            "%s: %d records are too few for its folds (%s); a hash of each patient assigns the split",
            config.slug, len(table), " ".join(str(error).split()),
        )  # fmt: skip
        owners = table[patient] if patient and patient in table.columns else table[record]
        return {str(name): split_by_hash(str(owner)) for name, owner in zip(table[record], owners)}
    folds = {"train": result.default_train_folds, "val": result.default_val_folds, "test": result.default_test_folds}
    return {
        str(name): split
        for split, numbers in folds.items()
        for number in numbers
        if number in result.folds
        for name in result.folds[number][record]
    }


def _given_splits(path: Path, record: str) -> dict[str, str]:
    """Record -> split, from a `folds.csv` of the library."""
    try:
        table = pd.read_csv(path, dtype=str)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise CohortError(
            f"{path} is not a readable CSV table ({type(error).__name__}); give folds.csv of ecgbench"
        ) from None
    missing = [name for name in (record, "default_split") if name not in table.columns]
    if missing:
        raise CohortError(
            f"{path}: it has no column {first_few(missing)}; give folds.csv of ecgbench for this data set"
        )
    return dict(zip(table[record], table["default_split"]))


# ----------------------------------------------------------------------------------------------------------------- rows


def _classes(labels: label_sets.LabelSet, lines: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The classes of a task that occur, by name; of flags, all."""
    if labels.kind == "flags":
        return label_sets.flag_classes(labels) if any(set(labels.names) <= set(line) for line in lines[:1]) else ()
    present = {name for line in lines for name in label_sets.positives(labels, line) or ()}
    return tuple(sorted(present))


def _row(
    folder: Path,
    config: DatasetConfig,
    name: str,
    line: Mapping[str, Any],
    split: str,
    rate_hz: int,
    tasks: Mapping[str, tuple[str, ...]],
) -> Row:
    """The row of one record."""
    # its file, and the recording in it where there are several
    written, item = str(line[config.signal_path_columns[rate_hz]]), None
    if config.slug in _NAMED_ITEMS:
        written, item = written.partition(":")[0], name
    elif config.signal_format in ("hdf5", "npy") and ":" in written:
        written, *_, item = written.split(":")
    given = config.signal_format not in _STATES_ITS_LEADS
    needs_units = given or config.signal_format == "csv"

    # its labels: 0 or 1 for each class of the tasks that it is in
    positive = {
        one.task: label_sets.positives(one, line) for one in label_sets.LABEL_SETS[config.slug] if one.task in tasks
    }
    patient = line.get(config.patient_id_column) if config.patient_id_column else None
    return Row(
        record=name,
        path=_file(folder, config, written, f"record {name}"),
        patient=name if patient is None or pd.isna(patient) else _identifier(patient),
        split=split,
        labels={
            task: {known: int(known in classes) for known in tasks[task]}
            for task, classes in positive.items()
            if classes is not None
        },
        extra=_person(line, config) | ({"site": str(line["source"])} if "source" in line else {}),
        leads=tuple(config.lead_names or ()) or None if given else None,
        rate_hz=float(rate_hz) if needs_units else None,
        units=_unit(config) if needs_units else None,
        item=item,
    )


def _unit(config: DatasetConfig) -> str:
    """The unit of the samples, from the library's factor to mV."""
    unit = _UNITS.get(config.signal_unit_scale)
    if unit is None:
        raise CohortError(
            f"source ecgbench: the samples of {config.slug} are in steps of {config.signal_unit_scale:g} mV, which no reader "
            "of leadwise takes; convert them to mV and use `leadwise prepare folder`"
        )
    return unit


def _present_rate(folder: Path, config: DatasetConfig, table: pd.DataFrame) -> int:
    """The sampling rate whose files are read: of several, the one of which most headers are there, the library's first."""
    rates = [config.default_sampling_rate, *config.signal_path_columns]
    columns = {rate: config.signal_path_columns[rate] for rate in rates}
    if len(set(columns.values())) == 1:
        return int(config.default_sampling_rate)
    n_present = {
        rate: sum((folder / f"{name}.hea").is_file() for name in table[column]) for rate, column in columns.items()
    }
    return int(max(n_present, key=lambda rate: n_present[rate]))


def _person(line: Mapping[str, Any], config: DatasetConfig) -> dict[str, float | str | None]:
    """Age in years and sex of a record, where the table has them; codes for an unknown age are dropped."""
    age = _number(next((line[key] for key in _AGES if key in line), None))
    sex = next((line[key] for key in _SEXES if key in line), None)
    return {
        "age": None if age is None or age < 0 else age if age < _CODED_AGE else _OLDEST,
        "sex": (_PTBXL_SEX if config.slug == "ptbxl" else _SEX_NAMES).get(short_cell(sex).strip().lower()),
    }


def _identifier(cell: object) -> str:
    """The name of a patient; a number that the table has as 15709.0 without its decimals."""
    return f"{cell:.0f}" if isinstance(cell, float) and cell.is_integer() else str(cell)


def _number(cell: object) -> float | None:
    """A cell as a finite number; None if it is none."""
    try:
        number = float(str(cell))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
