"""PTB-XL (v1.0.3): 21,799 recordings of 10 s with German and English reports, at 100 and 500 Hz.

The tasks super, sub, form and rhythm are built by class name, and diag and all from the statements themselves. Any SCP code that
a record lists counts, whatever its likelihood, as in the published benchmark; the option `min_likelihood` is stricter on the
diagnoses. A record belongs to a task only if it has at least one label of it, and always to all. Folds 1-8 are train, 9 is
val, 10 is test.
"""

from __future__ import annotations

import ast
import logging
import math
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from leadwise.data.cohort.layout import CohortError, inside
from leadwise.data.messages import first_few, quoted_cell
from leadwise.data.reports import join_modifiers
from leadwise.data.sources.source import Row, Source
from leadwise.data.tasks import Task, class_names

log = logging.getLogger(__name__)

# ------------------------------------------------------------------------------------------------------------ tasks

_SUPER = {
    "NORM": "normal ECG",
    "MI": "myocardial infarction",
    "STTC": "ST-T change",
    "CD": "conduction disturbance",
    "HYP": "hypertrophy",
}

_SUB = {
    "NORM": "normal ECG",
    "AMI": "anterior myocardial infarction",
    "IMI": "inferior myocardial infarction",
    "LMI": "lateral myocardial infarction",
    "PMI": "posterior myocardial infarction",
    "STTC": "ST-T change, digitalis or drug effect, long QT",
    "NST": "unspecific ST change",
    "ISC": "unspecific ischaemia",
    "ISCA": "ischaemia in anterior or lateral leads",
    "ISCI": "ischaemia in inferior leads",
    "AVB": "atrioventricular block",
    "CLBBB": "complete left bundle branch block",
    "ILBBB": "incomplete left bundle branch block",
    "CRBBB": "complete right bundle branch block",
    "IRBBB": "incomplete right bundle branch block",
    "IVCD": "unspecific intraventricular conduction delay",
    "LAFB/LPFB": "left anterior or posterior fascicular block",
    "WPW": "Wolff-Parkinson-White pattern",
    "LVH": "left ventricular hypertrophy",
    "RVH": "right ventricular hypertrophy",
    "SEHYP": "septal hypertrophy",
    "LAO/LAE": "left atrial enlargement",
    "RAO/RAE": "right atrial enlargement",
}

_FORM = {
    "ABQRS": "abnormal QRS complex",
    "QWAVE": "Q waves",
    "HVOLT": "high QRS voltage",
    "LVOLT": "low QRS voltage",
    "VCLVH": "voltage criteria of left ventricular hypertrophy",
    "LPR": "long PR interval",
    "LNGQT": "long QT interval",
    "DIG": "digitalis effect",
    "STD": "ST depression",
    "STE": "ST elevation",
    "NST": "unspecific ST change",
    "NT": "unspecific T-wave change",
    "NDT": "T-wave abnormality without diagnosis",
    "TAB": "abnormal T wave",
    "LOWT": "flat T waves",
    "INVT": "inverted T waves",
    "PAC": "premature atrial beats",
    "PVC": "premature ventricular beats",
    "PRC(S)": "premature beats of unstated origin",
}

_RHYTHM = {
    "SR": "sinus rhythm",
    "SBRAD": "sinus bradycardia",
    "STACH": "sinus tachycardia",
    "SARRH": "sinus arrhythmia",
    "AFIB": "atrial fibrillation",
    "AFLT": "atrial flutter",
    "SVTAC": "supraventricular tachycardia",
    "PSVT": "paroxysmal supraventricular tachycardia",
    "SVARR": "supraventricular arrhythmia",
    "BIGU": "bigeminy",
    "TRIGU": "trigeminy",
    "PACE": "paced rhythm",
}

_DIAG = {
    "NORM": "normal ECG",
    "IMI": "inferior myocardial infarction",
    "ASMI": "anteroseptal myocardial infarction",
    "AMI": "anterior myocardial infarction",
    "ALMI": "anterolateral myocardial infarction",
    "LMI": "lateral myocardial infarction",
    "ILMI": "inferolateral myocardial infarction",
    "PMI": "posterior myocardial infarction",
    "IPMI": "inferoposterior myocardial infarction",
    "IPLMI": "inferoposterolateral myocardial infarction",
    "INJAS": "subendocardial injury in anteroseptal leads",
    "INJAL": "subendocardial injury in anterolateral leads",
    "INJLA": "subendocardial injury in lateral leads",
    "INJIN": "subendocardial injury in inferior leads",
    "INJIL": "subendocardial injury in inferolateral leads",
    "ISC": "unspecific ischaemia",
    "ISCAL": "ischaemia in anterolateral leads",
    "ISCAS": "ischaemia in anteroseptal leads",
    "ISCAN": "ischaemia in anterior leads",
    "ISCLA": "ischaemia in lateral leads",
    "ISCIN": "ischaemia in inferior leads",
    "ISCIL": "ischaemia in inferolateral leads",
    "NST": "unspecific ST change",
    "NDT": "T-wave abnormality without diagnosis",
    "DIG": "digitalis effect",
    "LNGQT": "long QT interval",
    "ANEUR": "ST-T change of a ventricular aneurysm",
    "EL": "electrolyte disturbance or drug effect",
    "1AVB": "first-degree atrioventricular block",
    "2AVB": "second-degree atrioventricular block",
    "3AVB": "third-degree atrioventricular block",
    "CLBBB": "complete left bundle branch block",
    "ILBBB": "incomplete left bundle branch block",
    "CRBBB": "complete right bundle branch block",
    "IRBBB": "incomplete right bundle branch block",
    "IVCD": "unspecific intraventricular conduction delay",
    "LAFB": "left anterior fascicular block",
    "LPFB": "left posterior fascicular block",
    "WPW": "Wolff-Parkinson-White pattern",
    "LVH": "left ventricular hypertrophy",
    "RVH": "right ventricular hypertrophy",
    "SEHYP": "septal hypertrophy",
    "LAO/LAE": "left atrial enlargement",
    "RAO/RAE": "right atrial enlargement",
}

_ALL = {**_DIAG, **_FORM, **_RHYTHM}  # NST, NDT, DIG and LNGQT are diagnostic and form statements: 71 classes

PTBXL = {"super": _SUPER, "sub": _SUB, "form": _FORM, "rhythm": _RHYTHM, "diag": _DIAG, "all": _ALL}
"""Task -> class -> meaning."""

_RULE = "any SCP code listed counts, whatever its likelihood; records with at least one"
_LIKELIHOOD = "`leadwise prepare ptbxl PATH min_likelihood=50` counts only diagnoses of likelihood 50 or more."

TASKS = (
    Task("super", f"PTB-XL diagnostic superclasses: {_RULE}.", _SUPER, remark=_LIKELIHOOD),
    Task("sub", f"PTB-XL diagnostic subclasses: {_RULE}.", _SUB, remark=_LIKELIHOOD),
    Task("form", f"PTB-XL form statements: {_RULE}.", _FORM),
    Task("rhythm", f"PTB-XL rhythm statements: {_RULE}.", _RHYTHM),
    Task("diag", f"PTB-XL diagnostic statements: {_RULE}.", _DIAG, remark=_LIKELIHOOD),
    Task("all", "All PTB-XL statements: any SCP code listed counts, whatever its likelihood; every record.", _ALL),
)
DETAILS = ("diag", "all")  # their classes are also, one by one or joined, those of the other tasks

# ------------------------------------------------------------------------------------------------------------- rows

_FILE_COLUMN = {100: "filename_lr", 500: "filename_hr"}
_NEEDED = ("ecg_id", "patient_id", "age", "sex", "site", "report", "scp_codes", "strat_fold", *_FILE_COLUMN.values())
_REPORT_COLUMNS = ("ecg_id", "text", "acronyms")
_WITHOUT_LIKELIHOOD = ("form", "rhythm")  # 20,731 of 21,174 rhythm statements have the likelihood 0
_12SL = "12sl"  # as a value of `reports`
_12SL_STATEMENTS, _12SL_TABLE = "12sl_statements.csv", "12slv23ToSNOMED.csv"  # files of PTB-XL+
_OLDEST = 90.0  # PTB-XL writes 300 for every age above 89


@dataclass(frozen=True)
class Options:
    """Options of `leadwise prepare ptbxl`.

    Raises:
        CohortError: a value is out of range.
    """

    reports: Path | None = field(
        default=None,
        metadata={
            "help": "CSV with ecg_id and text, read instead of the German and English reports; a record that it does not list "
            "has no report. 12sl: the statements of GE's 12SL program, from PTB-XL+ in the folder plus="
        },
    )
    plus: Path | None = field(
        default=None, metadata={"help": "folder of PTB-XL+ (the one that contains labels/), for reports=12sl"}
    )
    rate_hz: float | None = field(
        default=None, metadata={"help": "100 or 500; default: 500 if most of these files exist, else 100"}
    )
    min_likelihood: float = field(
        default=0.0, metadata={"help": "lowest likelihood, 0 to 100, at which a diagnosis counts (tasks super and sub)"}
    )

    def __post_init__(self) -> None:
        if self.rate_hz is not None and self.rate_hz not in _FILE_COLUMN:  # NaN is in no dictionary
            raise CohortError(f"PTB-XL has 100 or 500 Hz, rate_hz is {self.rate_hz}; give one of these")
        if not 0 <= self.min_likelihood <= 100:
            raise CohortError(f"min_likelihood is {self.min_likelihood}; it must be within 0 to 100")
        if self.uses_12sl != (self.plus is not None):
            raise CohortError(
                "reports=12sl and plus=FOLDER, the folder of PTB-XL+, belong together; give both or neither"
            )

    @property
    def uses_12sl(self) -> bool:
        """Whether the reports are the statements of 12SL."""
        return self.reports is not None and str(self.reports) == _12SL


def read_source(folder: Path, options: Options | None = None) -> Source:
    """PTB-XL in `folder` as rows; no waveform is opened.

    `options.min_likelihood` does not apply to form and rhythm statements: most have the likelihood 0, which means that
    none was stated, and all of them count.

    Raises:
        CohortError: a table is absent, lacks a column, or a record lists an SCP code that scp_statements.csv does not.
    """
    folder, options = Path(folder), options or Options()
    table = _table(folder / "ptbxl_database.csv", _NEEDED)
    codes_of = _read_statements(folder / "scp_statements.csv")
    rate_hz = _present_rate(folder, table) if options.rate_hz is None else int(options.rate_hz)
    texts = None
    if options.plus is not None:
        texts = _read_12sl(Path(options.plus))
    elif options.reports is not None:
        texts = _read_texts(Path(options.reports))
    rows = [
        _row(folder, line, _FILE_COLUMN[rate_hz], codes_of, texts, options.min_likelihood)
        for line in table.to_dict("records")
    ]
    settings = {"min_likelihood": options.min_likelihood}
    return Source("ptbxl", rows, class_names(TASKS), settings=settings, details=DETAILS)


def _row(
    folder: Path,
    line: Mapping[Hashable, object],
    column: str,
    codes_of: dict[str, dict[str, str]],
    texts: dict[int, str] | None,
    min_likelihood: float,
) -> Row:
    number = int(str(line["ecg_id"]))
    where = f"PTB-XL record {number}"
    fold = _number(line["strat_fold"])
    if fold is None or fold not in range(1, 11):
        raise CohortError(
            f"{where}: strat_fold is {quoted_cell(line['strat_fold'])}, not 1 ... 10; download ptbxl_database.csv again"
        )
    patient = _number(line["patient_id"])
    if patient is None:
        raise CohortError(f"{where}: it has no patient_id; download ptbxl_database.csv again")
    age, sex, site = _number(line["age"]), _number(line["sex"]), _number(line["site"])
    return Row(
        record=f"{number:05d}",
        path=inside(folder, str(line[column]), where),
        patient=f"{patient:.0f}",
        split="test" if fold == 10 else "val" if fold == 9 else "train",
        report=_text(line["report"]) if texts is None else texts.get(number, ""),
        labels=_labels(where, _codes(where, line["scp_codes"]), codes_of, min_likelihood),
        extra={
            "age": None if age is None else min(age, _OLDEST),
            "sex": {0.0: "male", 1.0: "female"}.get(sex) if sex is not None else None,
            "site": None if site is None else f"{site:.0f}",
            "fold": fold,
        },
    )


def _labels(
    where: str, codes: dict[str, float], codes_of: dict[str, dict[str, str]], min_likelihood: float
) -> dict[str, dict[str, int]]:
    """The labels of a record: task -> class -> 0 or 1, for `all` and the tasks in which it has a positive class."""
    positives: dict[str, set[str]] = {task: set() for task in PTBXL}
    for code, likelihood in codes.items():
        if code not in codes_of:
            raise CohortError(
                f"{where}: SCP code {code!r} is not in scp_statements.csv; use the two files of one release"
            )
        tasks = codes_of[code]
        without = tasks.keys() & set(_WITHOUT_LIKELIHOOD)
        for task, name in tasks.items():
            if likelihood >= min_likelihood or task in without or (task == "all" and without):
                positives[task].add(name)
    return {
        task: {name: int(name in positives[task]) for name in PTBXL[task]}
        for task in PTBXL
        if positives[task] or task == "all"
    }


def _read_statements(path: Path) -> dict[str, dict[str, str]]:
    """SCP code -> task -> class, from scp_statements.csv; a code that belongs to no task has none."""
    columns = ("diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass")
    table = _table(path, columns)
    classes_of = {}
    for line in table.to_dict("records"):
        code = str(line[table.columns[0]])  # the column of codes has no name
        classes = {}
        if line["diagnostic"] == 1:
            classes["super"], classes["sub"] = str(line["diagnostic_class"]), str(line["diagnostic_subclass"])
            classes["diag"] = code
        if line["form"] == 1:
            classes["form"] = code
        if line["rhythm"] == 1:
            classes["rhythm"] = code
        if classes:
            classes["all"] = code
        classes = {task: name.strip("_") for task, name in classes.items()}  # NST_ is NST, _AVB is AVB
        for task, name in classes.items():
            if name not in PTBXL[task]:
                raise CohortError(
                    f"{path}: code {code!r} gives class {name!r}, which is not in task {task}; download it again"
                )
        classes_of[code] = classes
    return classes_of


def _codes(where: str, written: object) -> dict[str, float]:
    """Code -> likelihood of a record; the table has the text of a Python dictionary: {'NORM': 100.0, 'SR': 0.0}."""
    try:
        codes = ast.literal_eval(str(written))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        codes = None
    if not isinstance(codes, dict) or not all(
        isinstance(code, str) and isinstance(likelihood, int | float) for code, likelihood in codes.items()
    ):
        raise CohortError(
            f"{where}: scp_codes is not a dictionary of code to likelihood; download ptbxl_database.csv again"
        )
    return {code: float(likelihood) for code, likelihood in codes.items()}


def _read_texts(path: Path) -> dict[int, str]:
    """ecg_id -> report, from the CSV of the option `reports`."""
    table = _table(path, ("ecg_id", "text"))
    unknown = [name for name in table.columns if name not in _REPORT_COLUMNS]
    if unknown:
        raise CohortError(f"{path}: unknown columns {first_few(unknown)}; it must have ecg_id and text")
    if table["ecg_id"].duplicated().any():
        doubled = table["ecg_id"][table["ecg_id"].duplicated()].iloc[0]
        raise CohortError(f"{path}: ecg_id {doubled} appears twice; keep one row")
    return {int(number): join_modifiers(_text(text)) for number, text in zip(table["ecg_id"], table["text"])}


def _read_12sl(folder: Path) -> dict[int, str]:
    """ecg_id -> report, from the labels of PTB-XL+ 1.0.x: a list of acronyms per record, and a table of their texts.

    The texts are joined in the order of the list. An acronym that the table does not have is left out, with one warning
    (2ST, in 822 of 21,799 records).
    """
    labels = folder / "labels" if (folder / "labels").is_dir() else folder
    mapping = labels / "mapping" if (labels / "mapping").is_dir() else labels
    lists = _table(labels / _12SL_STATEMENTS, ("ecg_id", "statements"), "PTB-XL+")
    texts = _table(mapping / _12SL_TABLE, ("Acronym", "FullText"), "PTB-XL+").dropna(subset=["Acronym", "FullText"])
    text_of = dict(zip(texts["Acronym"].str.strip(), texts["FullText"].str.strip()))

    reports: dict[int, str] = {}
    unknown: Counter[str] = Counter()
    for number, written in zip(lists["ecg_id"], lists["statements"]):
        acronyms = _acronyms(f"PTB-XL+ record {number}", written)
        unknown.update(acronym for acronym in acronyms if acronym not in text_of)
        text = "; ".join(text_of[acronym] for acronym in acronyms if acronym in text_of)
        reports[int(number)] = join_modifiers(text)
    if unknown:
        listed = first_few(f"{acronym} ({n} times)" for acronym, n in unknown.most_common())
        log.warning("%s has no text for the acronyms %s; they are left out of the reports", _12SL_TABLE, listed)
    return reports


def _acronyms(where: str, written: object) -> list[str]:
    """The acronyms of a record; the table has the text of a Python list: ['NSR', 'NML']."""
    try:
        acronyms = ast.literal_eval(str(written))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        acronyms = None
    if not isinstance(acronyms, list) or not all(isinstance(acronym, str) for acronym in acronyms):
        raise CohortError(f"{where}: statements is not a list of acronyms; download {_12SL_STATEMENTS} again")
    return [acronym.strip() for acronym in acronyms]


def _present_rate(folder: Path, table: pd.DataFrame) -> int:
    """500 if more than half of the 500 Hz files exist, else 100."""
    n_present = sum((folder / f"{name}.hea").is_file() for name in table["filename_hr"])
    return 500 if 2 * n_present > len(table) else 100


def _table(path: Path, needed: tuple[str, ...], data_set: str = "PTB-XL") -> pd.DataFrame:
    """A CSV table that has the needed columns."""
    if not path.is_file():
        raise CohortError(f"{path} is missing; give the folder that contains {data_set} as it was downloaded")
    try:
        table = pd.read_csv(path, encoding="utf-8-sig")
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise CohortError(f"{path} is not a CSV table in UTF-8 ({type(error).__name__}); download it again") from None
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise CohortError(f"{path}: it has no column {first_few(missing)}; download it again")
    if "ecg_id" in needed and not pd.api.types.is_integer_dtype(table["ecg_id"]):
        raise CohortError(f"{path}: ecg_id is not a whole number in every row; download it again")
    return table


def _number(value: object) -> float | None:
    """A cell as a number; None if it is empty."""
    try:
        number = float(str(value))
    except ValueError:
        return None
    return None if math.isnan(number) else number


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
