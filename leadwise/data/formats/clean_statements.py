"""Statements of a device or a reader without what may identify a person: signatures, names, numbers, dates and times.

Files contain such text in free statements: "Confirmed by NAME (123) on 1/2/2020", "When compared with ECG of
30-MAR-2023 10:21,". The rules below remove these; they cannot recognise every name that a person typed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# acts of signing, and the words before a name, in the languages of common devices
_SIGNED = (
    r"(?:electronically\s+|digitally\s+|also\s+|re-?)?"
    r"(?:(?:un)?confirmed|signed|verified|reviewed|over-?read|read|edited|interpreted|approved|authenticated|dictated|"
    r"transcribed|acquired|recorded|performed|ordered|requested|referred|reported|analy[sz]ed|entered|validated|attested)\s*by\b|"
    r"(?:confirm[ée]e?|valid[ée]e?|sign[ée]e?|relue?|interpr[ée]t[ée]e?)\s+par\b|"
    r"(?:confirmado|firmado|validado|revisado|assinado|interpretado|laudado)\s+por\b|"
    r"(?:confermato|firmato|validato|refertato)\s+da\b|"
    r"(?:best[äa]tigt|befundet|freigegeben|unterzeichnet|validiert)\s+(?:von|durch)\b|"
    r"(?:bevestigd|beoordeeld|ondertekend)\s+door\b"
)
_LABELLED = (
    r"(?:(?:referring|ordering|attending|reading|requesting|confirming|interpreting|overreading|primary|consulting|admitting)\s+"
    r"(?:physician|doctor|provider|clinician|cardiologist|md|dr)|referr(?:ed|al)|technician|tech|operator|cardiologist|"
    r"physician|doctor|provider|clinician|patient(?:\s+(?:id|name|number|no))?|name|mrn|medical\s+record\s+(?:number|no)|"
    r"visit\s+(?:number|no|id)|account(?:\s+(?:number|no))?|order\s+(?:number|no)|case\s+(?:number|no)|id|d\.?o\.?b|"
    r"date\s+of\s+birth|birth\s*date|born|ro{2}m|bed|ward|phone|tel|pager|arzt|m[ée]decin|m[ée]dico)\.?\s*[:#=]"
)
_NUMBERED = r"\b(?:mrn|dob|patient\s+id|visit\s+(?:number|no|id)|account\s+(?:number|no))\b"
_TITLED = (
    r"\bM\.?D\b|\b[Bb][Yy]:?\s+[A-Z][a-z'-]+,?\s+(?:[A-Z]\.?\s*)?[A-Z][a-z'-]+"
    r"|[A-Z][\w'-]+,\s*(?:[A-Z][\w'-]*(?:,\s*|\s+)){0,4}(?:M\.?D|D\.?O|PhD|FACC|RN|NP|PA-C)\b"
)
_TO_THE_END = re.compile(rf"(?i:\b{_SIGNED}|\b{_LABELLED}|{_NUMBERED})|(?i:\b(?:dr|prof|drs)\b\.?)\s*[A-Z]|{_TITLED}")
_NAME_FOLLOWS = re.compile(rf"(?i)\b(?:{_SIGNED})\W*$")
_ACT_ONLY = re.compile(r"(?i)^\W*(?:reviewed|read|signed|edited|verified|interpreted|approved|acquired|recorded)\W*$")
_STATUS = re.compile(
    r"(?i)^\W*(?:un-?\s*confirmed|confirmed|not\s+confirmed|preliminary|non\s+confirm[ée]|diagnostic\s+non\s+confirm[ée]|"
    r"unbest[äa]tigt(?:er\s+befund)?|no\s+confirmado|unconfirmed\s+(?:diagnosis|report|ecg|interpretation))\W*$"
)

_MONTH = r"(?:jan|feb|mar|m[äa]r|apr|may|mai|jun|jul|aug|sep|sept|oct|okt|nov|dec|dez|xxx)[a-zé]*\.?"
_DATE = (
    rf"(?:\d{{1,2}}(?:st|nd|rd|th)?[-/. ]{{1,2}}{_MONTH}[-/., ]{{1,2}}\d{{2,4}}\b"
    rf"|{_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?,?\s+\d{{4}}\b"
    r"|\d{4}[-/.]\d{1,2}[-/.]\d{1,2}\b"
    r"|\d{1,2}([-/.])\d{1,2}\1(?:\d{4}|\d{2})\b"
    r"|\b(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])(?:\d{4,6})?\b)"
)
_TIME = (
    r"(?:\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?:\s*[ap]\.?m\b\.?)?"
    r"(?:\s*\(?(?:utc|gmt|est|edt|cst|cdt|mst|pst|pdt|cet)\)?\b)?)"
)
_MOMENT = re.compile(
    rf"(?i)(?:\b(?:on|at|of|from|since|dated|date|time|the|vom|am|du|del)\b:?\s+)*"
    rf"(?<!\d)(?:{_DATE}(?:[\s,T]*(?:at\s+)?{_TIME})?|{_TIME})(?!\d)\s*,?"
)
_COMPARISON = re.compile(
    r"(?i)\b(?:(?:when|as)\s+)?compared\s+(?:with|to)\s+(?:the\s+)?(?:previous\s+|prior\s+)?(?:ecg|ekg|tracing)s?"
    r"(?:\s+(?:of|from|on|dated|taken)\b)*"
)
_LONGEST = 1000  # characters of one statement
_EDGES = " \t-_=*<>.,;:|/\\#+~"


def clean_statements(statements: Iterable[str]) -> tuple[str, ...]:
    """The statements without signatures, names after "by", dates and times; those without content left are dropped."""
    cleaned, is_name = [], False
    for statement in statements:
        if not is_name:
            cleaned.append(clean_statement(statement))
        # a line that ends with "by" is followed by a line with the name
        is_name = not is_name and bool(_NAME_FOLLOWS.search(statement))
    return tuple(dict.fromkeys(filter(None, cleaned)))


def clean_statement(statement: str) -> str:
    """One statement without what may identify a person; '' if nothing else remains."""
    text = " ".join(statement.split())[:_LONGEST]
    if _STATUS.match(text):
        return ""
    # dates first, since they may separate an act of signing from "by"
    text = " ".join(_COMPARISON.sub(" ", _MOMENT.sub(" ", text)).split())
    # what follows the act of signing, or a label such as "Technician:", is a name: cut to the end
    if end := _TO_THE_END.search(text):
        text = text[: end.start()]
    text = re.sub(r"\s+([,;.])", r"\1", text)
    text = text.strip(_EDGES)
    return text if re.search(r"[^\W\d_]{2}", text) and not _ACT_ONLY.match(text) else ""
