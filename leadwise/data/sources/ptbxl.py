"""PTB-XL (v1.0.3): its folder -> rows, with the tasks super, sub, form and rhythm rebuilt by name.

Any SCP code that a record lists counts, whatever its likelihood, as in the published benchmark; `min_likelihood` is
stricter on the diagnoses. A record belongs to a task only where it has at least one label of it. Folds 1-8 train, 9
validates, 10 tests.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from leadwise.data.cohort.layout import CohortError, inside
from leadwise.data.messages import first_few, quoted_cell
from leadwise.data.reports import join_modifiers
from leadwise.data.sources.source import Row, Source
from leadwise.data.tasks import PTBXL, classes_of

_FILE_COLUMN = {100: "filename_lr", 500: "filename_hr"}
_NEEDED = ("ecg_id", "patient_id", "age", "sex", "site", "report", "scp_codes", "strat_fold", *_FILE_COLUMN.values())
_REPORT_COLUMNS = ("ecg_id", "text", "acronyms")
_WITHOUT_LIKELIHOOD = ("form", "rhythm")  # 20,731 of 21,174 rhythm statements have the likelihood 0
_OLDEST = 90.0  # PTB-XL writes 300 for everybody older than 89


def read_source(
    folder: Path, reports: Path | None = None, rate_hz: float | None = None, min_likelihood: float = 0.0
) -> Source:
    """PTB-XL in `folder` as rows; no waveform is opened.

    `reports` is a CSV with the columns ecg_id and text, read instead of the German and English originals; a record
    that it does not list has no report. `rate_hz` is 100 or 500; unsaid, 500 where most of those files are there.
    `min_likelihood` (0 ... 100) is the least at which a code counts in the tasks super and sub; form and rhythm
    statements mostly have the likelihood 0, which means that nobody stated one, and always count.

    Raises:
        CohortError: a table is absent, lacks a column, or a record lists an SCP code that scp_statements.csv does not.
    """
    folder = Path(folder)
    if rate_hz is not None and rate_hz not in _FILE_COLUMN:  # NaN is in nothing
        raise CohortError(f"PTB-XL comes at 100 or 500 Hz, not {rate_hz}; say one of these")
    if not 0 <= min_likelihood <= 100:
        raise CohortError(f"min_likelihood is {min_likelihood}; it takes 0 to 100")
    table = _table(folder / "ptbxl_database.csv", _NEEDED)
    codes_of = _statements(folder / "scp_statements.csv")
    column = _FILE_COLUMN[_present_rate(folder, table) if rate_hz is None else int(rate_hz)]
    texts = None if reports is None else _report_texts(Path(reports))
    rows = [_row(folder, line, column, codes_of, texts, min_likelihood) for line in table.to_dict("records")]
    return Source("ptbxl", rows, classes_of("ptbxl"), settings={"min_likelihood": min_likelihood})


def _row(
    folder: Path,
    line: Mapping[Hashable, object],
    column: str,
    codes_of: dict[str, Codes],
    texts: dict[int, str] | None,
    min_likelihood: float,
) -> Row:
    number = int(str(line["ecg_id"]))
    where = f"PTB-XL record {number}"
    fold = _number(line["strat_fold"])
    if fold is None or fold not in range(1, 11):
        raise CohortError(
            f"{where}: strat_fold is {quoted_cell(line['strat_fold'])}, not 1 ... 10; fetch ptbxl_database.csv again"
        )
    patient = _number(line["patient_id"])
    if patient is None:
        raise CohortError(f"{where}: it has no patient_id; fetch ptbxl_database.csv again")
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


@dataclass(frozen=True)
class Codes:
    """What an SCP code stands for: task -> class; empty where it belongs to none."""

    classes: dict[str, str]


def _labels(
    where: str, codes: dict[str, float], codes_of: dict[str, Codes], min_likelihood: float
) -> dict[str, dict[str, int]]:
    found: dict[str, set[str]] = {task: set() for task in PTBXL}
    for code, likelihood in codes.items():
        if code not in codes_of:
            raise CohortError(
                f"{where}: SCP code {code!r} is not in scp_statements.csv; use the two files of one release"
            )
        for task, name in codes_of[code].classes.items():
            if likelihood >= min_likelihood or task in _WITHOUT_LIKELIHOOD:
                found[task].add(name)
    return {task: {name: int(name in found[task]) for name in PTBXL[task]} for task in PTBXL if found[task]}


def _statements(path: Path) -> dict[str, Codes]:
    """SCP code -> its class in each task, from scp_statements.csv."""
    columns = ("diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass")
    table = _table(path, columns)
    result = {}
    for line in table.to_dict("records"):
        code = str(line[table.columns[0]])  # the column of codes has no name
        classes = {}
        if line["diagnostic"] == 1:
            classes["super"], classes["sub"] = str(line["diagnostic_class"]), str(line["diagnostic_subclass"])
        if line["form"] == 1:
            classes["form"] = code
        if line["rhythm"] == 1:
            classes["rhythm"] = code
        classes = {task: name.strip("_") for task, name in classes.items()}  # NST_ is NST, _AVB is AVB
        for task, name in classes.items():
            if name not in PTBXL[task]:
                raise CohortError(f"{path}: code {code!r} gives class {name!r}, which task {task} does not have")
        result[code] = Codes(classes)
    return result


def _codes(where: str, written: object) -> dict[str, float]:
    """The codes of a record, written as a Python dictionary: {'NORM': 100.0, 'SR': 0.0}."""
    try:
        codes = ast.literal_eval(str(written))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        codes = None
    if not isinstance(codes, dict) or not all(
        isinstance(code, str) and isinstance(likelihood, int | float) for code, likelihood in codes.items()
    ):
        raise CohortError(
            f"{where}: scp_codes is not a dictionary of code to likelihood; fetch ptbxl_database.csv again"
        )
    return {code: float(likelihood) for code, likelihood in codes.items()}


def _report_texts(path: Path) -> dict[int, str]:
    table = _table(path, ("ecg_id", "text"))
    unknown = [name for name in table.columns if name not in _REPORT_COLUMNS]
    if unknown:
        raise CohortError(f"{path}: unknown columns {first_few(unknown)}; it takes ecg_id and text")
    if table["ecg_id"].duplicated().any():
        raise CohortError(f"{path}: ecg_id {table['ecg_id'][table['ecg_id'].duplicated()].iloc[0]} stands there twice")
    return {int(number): join_modifiers(_text(text)) for number, text in zip(table["ecg_id"], table["text"])}


def _present_rate(folder: Path, table: pd.DataFrame) -> int:
    n_present = sum((folder / f"{name}.hea").is_file() for name in table["filename_hr"])
    return 500 if 2 * n_present > len(table) else 100


def _table(path: Path, needed: tuple[str, ...]) -> pd.DataFrame:
    if not path.is_file():
        raise CohortError(f"{path} is missing; give the folder that holds PTB-XL as it was downloaded")
    try:
        table = pd.read_csv(path, encoding="utf-8-sig")
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise CohortError(f"{path} is not a CSV table in UTF-8 ({type(error).__name__}); fetch it again") from None
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise CohortError(f"{path}: it has no column {first_few(missing)}; fetch it again")
    if "ecg_id" in needed and not pd.api.types.is_integer_dtype(table["ecg_id"]):
        raise CohortError(f"{path}: ecg_id is not a whole number in every row; fetch it again")
    return table


def _number(value: object) -> float | None:
    """A cell as a number; None where it is empty."""
    try:
        number = float(str(value))
    except ValueError:
        return None
    return None if math.isnan(number) else number


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
