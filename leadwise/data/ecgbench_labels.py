"""The label sets of ecgbench's data sets: which column of its label table becomes which task, and its values as class names.

A class has the plain name of the shared dictionary (`codes.toml`), so that a finding has one name in all data sets. A label
that the dictionary does not have keeps the library's own words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from leadwise.data import codes
from leadwise.data.sources.csn import CSN_ACRONYM_CODES

Kind = Literal["snomed", "aha", "scp", "csn", "list", "value", "flags"]


@dataclass(frozen=True)
class LabelSet:
    """A task: the column that has its labels, and how a cell is written.

    `snomed`, `aha`, `scp` and `csn` cells list codes, `list` cells list texts, a `value` cell has one text. Of `flags`, each
    column of `names` is 0 or 1. A record without any label is in the task where an empty cell means that nothing was found.
    """

    task: str
    column: str
    kind: Kind
    names: Mapping[str, str] = field(
        default_factory=dict
    )  # label of the library -> class, where the dictionary differs
    separator: str = ","
    empty_is_negative: bool = False  # a record without a label is in the task
    text_column: str = ""  # the library's words for the codes, in the same order
    text_separator: str = ""


_CODE = {
    "1dAVb": "first degree av block",
    "RBBB": "right bundle branch block",
    "LBBB": "left bundle branch block",
    "SB": "sinus bradycardia",
    "ST": "sinus tachycardia",
    "AF": "atrial fibrillation",
}
_CPSC = {
    "426783006": "normal ecg",
    # the first release of the headers has names instead of codes
    "Normal": "normal ecg",
    "AF": "atrial fibrillation",
    "I-AVB": "first degree av block",
    "LBBB": "left bundle branch block",
    "RBBB": "right bundle branch block",
    "PAC": "premature atrial beats",
    "PVC": "premature ventricular beats",
    "STD": "st depression",
    "STE": "st elevation",
}
_BRUGADA = {"0": "normal ecg", "1": "brugada pattern", "2": "other or atypical brugada findings"}
_ECHO = (
    "shd_moderate_or_greater_flag", "lvef_lte_45_flag", "lvwt_gte_13_flag", "aortic_stenosis_moderate_or_greater_flag",
    "aortic_regurgitation_moderate_or_greater_flag", "mitral_regurgitation_moderate_or_greater_flag",
    "tricuspid_regurgitation_moderate_or_greater_flag", "pulmonary_regurgitation_moderate_or_greater_flag",
    "rv_systolic_dysfunction_moderate_or_greater_flag", "pericardial_effusion_moderate_large_flag", "pasp_gte_45_flag",
    "tr_max_gte_32_flag",
)  # fmt: skip
_LUDB = {
    "rhythm": "rhythms",
    "conduction": "conduction_abnormalities",
    "extrasystoles": "extrasystolies",
    "hypertrophy": "hypertrophies",
    "pacing": "cardiac_pacing",
    "ischemia": "ischemia",
    "repolarization": "repolarization_abnormalities",
    "other": "other_states",
}
_AXIS = {
    "normal": "normal axis",
    "vertical": "vertical axis",
    "horizontal": "horizontal axis",
}
_CHALLENGE = LabelSet("diagnoses", "dx", "snomed", text_column="dx_names", text_separator="|")


def _drug_trial() -> tuple[LabelSet, ...]:
    return (LabelSet("treatment", "treatment", "value"),)


LABEL_SETS: dict[str, tuple[LabelSet, ...]] = {
    "brugada_huca": (LabelSet("brugada", "brugada", "value", _BRUGADA),),
    "challenge2020": (_CHALLENGE,),
    "challenge2021": (_CHALLENGE,),
    "chapman_shaoxing": (
        LabelSet("rhythm", "Rhythm", "csn", separator=" "),
        LabelSet("beat", "Beat", "csn", {"NONE": ""}, separator=" ", empty_is_negative=True),
    ),
    "code15": (
        LabelSet("abnormalities", "abnormality_codes", "list", _CODE, empty_is_negative=True),
        LabelSet("normal", "", "flags", {"normal_ecg": "normal ecg"}),
    ),
    "code_test": (LabelSet("abnormalities", "abnormality_codes", "list", _CODE, empty_is_negative=True),),
    # the challenge's own name for 426783006, which is sinus rhythm elsewhere
    "cpsc_2018": (LabelSet("diagnoses", "dx", "snomed", _CPSC),),
    "ecg_arrhythmia": (LabelSet("diagnoses", "dx", "snomed", text_column="dx_acronyms", text_separator=","),),
    "ecgcipa": _drug_trial(),
    "ecgdmmld": _drug_trial(),
    "ecgrdvq": _drug_trial(),
    # a flag of 0 may mean that nothing was measured: one task each, of the measured records
    "echonext": tuple(LabelSet(flag.removesuffix("_flag"), "", "flags", {flag: ""}) for flag in _ECHO),
    "ikem": (),
    "incartdb": (LabelSet("diagnosis", "diagnosis", "value"),),
    "leipzig_heart_center_ecg": (
        LabelSet(
            "diagnosis",
            "diagnosis",
            "value",
            {
                "AVRT": "atrioventricular reentrant tachycardia",
                "AVNRT": "atrioventricular nodal reentrant tachycardia",
            },
        ),
    ),
    "ludb": (
        *(LabelSet(task, column, "list", empty_is_negative=True) for task, column in _LUDB.items()),
        LabelSet("axis", "electric_axis", "value", _AXIS),
    ),
    "medalcare_xl": (LabelSet("pathology", "pathology_name", "value"),),
    "mimic_iv_ecg_demo": (),
    "norwegian_athlete_ecg": (
        LabelSet("findings", "cardiologist_findings", "list", empty_is_negative=True),
        LabelSet("verdict", "cardiologist_verdict", "value"),
    ),
    "ptbdb": (LabelSet("diagnosis", "diagnosis", "value", {"Hypertrophy": "left ventricular hypertrophy"}),),
    "ptbxl": (
        LabelSet("diagnoses", "diagnostic_codes", "scp"),
        LabelSet("form", "form_codes", "scp"),
        LabelSet("rhythm", "rhythm_codes", "scp"),
    ),
    "sami_trop": (
        LabelSet("normal", "", "flags", {"normal_ecg": "normal ecg"}),
        LabelSet("death", "", "flags", {"death": "death in follow-up"}),
    ),
    "sph": (
        LabelSet(
            "statements",
            "aha_primary_codes",
            "aha",
            separator=";",
            text_column="aha_primary_descriptions",
            text_separator=";",
        ),
    ),
    "zzu_pecg": (
        LabelSet("findings", "ecg_findings", "list", separator=";"),
        LabelSet("disease", "disease_groups", "list", separator=";"),
    ),
}
"""Name of the library -> its tasks: its resting 12-lead data sets, and the longer 12-lead recordings of INCART and Leipzig."""


def positives(labels: LabelSet, line: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The classes of a record in one task, in the order of the cell; None if the record is not in the task.

    Of `flags`, only those that are 1.
    """
    if labels.kind == "flags":
        return _flags(labels, line)
    cells = _cells(line.get(labels.column), labels.separator, single=labels.kind == "value")
    texts = _cells(line.get(labels.text_column), labels.text_separator) if labels.text_column else []
    words = dict(zip(cells, texts)) if len(cells) == len(texts) else {}
    classes = [class_name(labels, cell, words.get(cell)) for cell in cells]
    named = tuple(dict.fromkeys(filter(None, classes)))
    return named if named or labels.empty_is_negative else None


def class_name(labels: LabelSet, label: str, words: str | None = None) -> str:
    """The class of a label: of the data set's own names, else of the dictionary, else the library's words for it."""
    if label in labels.names:
        return labels.names[label]
    entry = _LOOK_UP[labels.kind](label) or (codes.by_name(words) if words else None)
    if entry is not None:
        return entry.name
    fallback = words if words and words != "UNMAPPED" else label
    is_text = labels.kind in ("list", "value") or not fallback.isdigit()
    return codes.plain(fallback) if is_text else f"{labels.kind} {fallback}"


def _by_csn_acronym(label: str) -> codes.CodeEntry | None:
    code = CSN_ACRONYM_CODES.get({"SI": "SA"}.get(label, label))
    return codes.by_code("snomed", code) if code else None


_LOOK_UP: dict[str, Callable[[str], codes.CodeEntry | None]] = {
    "snomed": lambda label: codes.by_code("snomed", label),
    "aha": lambda label: codes.by_code("aha", label),
    "scp": lambda label: codes.by_code("scp", label),
    "csn": _by_csn_acronym,
    "list": codes.by_name,
    "value": codes.by_name,
}


def _flags(labels: LabelSet, line: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The flags that are 1; None if one of them was not measured."""
    named = []
    for column, name in labels.names.items():
        value, measured = line.get(column), line.get(f"{column}_measured", True)
        if _is_empty(value) or not bool(measured):
            return None
        if bool(value):
            entry = codes.by_name(column)
            named.append(name or (entry.name if entry else codes.plain(column)))
    return tuple(named)


def flag_classes(labels: LabelSet) -> tuple[str, ...]:
    """The classes of a task of flags, which all exist whether a record has them or not."""
    return tuple(name or getattr(codes.by_name(column), "name", column) for column, name in labels.names.items())


def _cells(value: Any, separator: str, single: bool = False) -> list[str]:
    """The labels in a cell: a list, a text with separators, or one text."""
    if isinstance(value, (list, tuple)):
        return [str(one).strip() for one in value if str(one).strip()]
    if _is_empty(value):
        return []
    text = str(value).strip().removesuffix(".0") if isinstance(value, float) else str(value).strip()
    parts: Sequence[str] = [text] if single or not separator else text.split(separator)
    return [part.strip() for part in parts if part.strip()]


def _is_empty(value: Any) -> bool:
    """Whether a cell of a table has no value."""
    return (
        value is None
        or str(value) in ("", "nan", "None", "<NA>", "NaT")
        or (isinstance(value, float) and math.isnan(value))
    )
