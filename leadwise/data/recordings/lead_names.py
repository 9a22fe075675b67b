"""Names of ECG leads: from the spelling of a file to one of the twelve standard names.

Devices and export tools name a lead `ECG I`, `Lead I`, `I (mV)`, `MDC_ECG_LEAD_I`, `lead_i`, `aVR lead`, `D1` or `C4`.
A name that contains any other word, such as `ECG I filtered` or `V3R`, is a different channel.
"""

from __future__ import annotations

import difflib
import re
from functools import lru_cache

from leadwise.batch import LEADS

_OTHER_SPELLINGS = {
    "l1": "I", "l2": "II", "l3": "III",
    "d1": "I", "d2": "II", "d3": "III", "di": "I", "dii": "II", "diii": "III",
    "c1": "V1", "c2": "V2", "c3": "V3", "c4": "V4", "c5": "V5", "c6": "V6",
    "ml2": "II", "mlii": "II", "ml1": "I", "mli": "I",
}  # fmt: skip
_LEAD_OF = {name.casefold(): name for name in LEADS} | _OTHER_SPELLINGS
_MODIFIED = ("ml1", "mli", "ml2", "mlii")  # limb electrodes on the torso, as in a Holter recording

# words around a lead's name that do not change which channel it is
_DROPPED_WORDS = frozenset(
    (
        *("mdc", "ecg", "ekg", "elec", "potl", "lead", "leads", "ableitung", "derivation", "derivacion", "derivacao"),
        *("scpecg", "ref", "einthoven", "goldberger", "wilson"),
        *("mv", "uv", "v", "microvolt", "microvolts", "millivolt", "millivolts", "volt", "volts"),
    )
)
_SEPARATORS = re.compile(r"[\s_\-:.,;/()\[\]{}\"']+")


@lru_cache(maxsize=4096)
def standard_name(name: str) -> str:
    """The standard name of a lead; a name that is none of the twelve is returned without spaces around it."""
    return _LEAD_OF.get(_core(name), name.strip())


def is_lead(name: str) -> bool:
    """Whether `name` is one of the twelve leads, in any spelling that `standard_name` knows."""
    return _core(name) in _LEAD_OF


def alias_remark(name: str) -> str:
    """A remark if the channel is a lead of modified electrode positions, such as MLII; '' otherwise."""
    if _core(name) in _MODIFIED:
        return f"{name.strip()}, recorded from the torso, is used as lead {standard_name(name)}"
    return ""


def nearest(name: str) -> str:
    """The standard name that resembles `name` most."""
    core = _core(name)
    return _LEAD_OF[difflib.get_close_matches(core, _LEAD_OF, n=1, cutoff=0.0)[0]]


@lru_cache(maxsize=4096)
def _core(name: str) -> str:
    """The name in lower case without the words that do not change which channel it is; words are joined."""
    text = name.strip().replace("\u00b5", "u").replace("\u03bc", "u").casefold()
    if text in _LEAD_OF:
        return text
    if text.startswith("-"):
        return text  # "-aVR" is the inverted lead
    words = [word for word in _SEPARATORS.split(text) if word and word not in _DROPPED_WORDS]
    return _without_prefix("".join(words))


def _without_prefix(core: str) -> str:
    """`leadi` and `ecgv1`, written without a separator, as `i` and `v1`."""
    for prefix in ("lead", "ecg", "ekg"):
        if core.startswith(prefix) and core.removeprefix(prefix) in _LEAD_OF:
            return core.removeprefix(prefix)
    return core
