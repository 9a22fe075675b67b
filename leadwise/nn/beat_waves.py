"""The waves that a report implies for the differential equation of a beat: where P, Q, R, S and T are, and how wide.

The values for a normal beat are those of ECGSYN (McSharry and Clifford). Angles and widths change with the heart rate as there:
P and T move with the square root of the rate, so that they do not come too near to the QRS. What a finding changes is in
FINDINGS; amplitudes are not here, because they follow from a beat by least squares.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leadwise.nn.losses.beat_ode import BeatWaves

WAVES = ("P", "Q", "R", "S", "T")
_ANGLE = (-70.0, -15.0, 0.0, 15.0, 100.0)  # degrees at 60 bpm
_WIDTH = (0.25, 0.1, 0.1, 0.1, 0.4)  # rad at 60 bpm
_NO_P, _WIDE = ("P",), 1.8


@dataclass(frozen=True)
class _Change:
    words: tuple[str, ...]  # a statement with one of them has the finding
    absent: tuple[str, ...] = ()  # waves that a beat does not have at a fixed place
    qrs: float = 1.0  # factor on angles and widths of Q, R and S
    p_deg: float = 0.0  # added to the angle of P
    t_deg: float = 0.0  # added to the angle of T
    t_width: float = 1.0


FINDINGS = (
    _Change(("atrial fibrillation",), _NO_P),
    _Change(("atrial flutter",), _NO_P),
    _Change(("supraventricular tachycardia", "svt"), _NO_P),
    _Change(("junctional",), _NO_P),
    _Change(("third degree av block", "complete heart block", "complete av block"), _NO_P),
    _Change(("paced", "pacemaker"), _NO_P, qrs=2.2),
    _Change(("ventricular tachycardia", "idioventricular"), _NO_P, qrs=2.2),
    _Change(("left bundle branch block", "lbbb"), qrs=_WIDE),
    _Change(("right bundle branch block", "rbbb"), qrs=_WIDE),
    _Change(("intraventricular conduction",), qrs=1.5),
    _Change(("pre-excitation", "preexcitation", "wolff"), qrs=1.6, p_deg=15.0),
    _Change(("first degree av block", "prolonged pr"), p_deg=-30.0),
    _Change(("short pr",), p_deg=15.0),
    _Change(("prolonged qt", "long qt"), t_deg=25.0),
    _Change(("short qt",), t_deg=-20.0),
    _Change(("st elevation", "stemi", "acute"), t_deg=-10.0, t_width=1.4),
    _Change(("st depression",), t_deg=-10.0, t_width=1.2),
    _Change(("hyperkalemia", "hyperkalaemia", "peaked t"), t_width=0.7),
    _Change(("infarct", "infarction", "q waves"), qrs=1.2),
    _Change(("ventricular hypertrophy",), qrs=1.15),
)
"""The findings with waves of their own; every other report has normal waves."""

_STATEMENT = re.compile(r"[.;,\n]+")
_NEGATED = re.compile(r"\b(no|not|without|absent|denies|negative)\b")


def waves_of(reports: Sequence[str], heart_rate_bpm: Tensor) -> BeatWaves:
    """Return the waves of beats with these reports and heart rates (B,); an unknown rate counts as 60 bpm."""
    device = heart_rate_bpm.device
    angle, width, present = torch.tensor([_ANGLE] * len(reports)), torch.tensor([_WIDTH] * len(reports)), []
    for row, report in enumerate(reports):
        changes = _changes(report)
        present.append([not any(wave in change.absent for change in changes) for wave in WAVES])
        qrs = max([change.qrs for change in changes], default=1.0)
        angle[row, 1:4] *= qrs
        width[row, 1:4] *= qrs
        angle[row, 0] += sum(change.p_deg for change in changes)
        angle[row, 4] += sum(change.t_deg for change in changes)
        width[row, 4] *= math.prod(change.t_width for change in changes)

    # with the rate: the QRS in proportion, so that its duration changes little; P and T with the root
    rate = (heart_rate_bpm.nan_to_num(60.0).clamp(20, 240) / 60).sqrt()[:, None]  # (B, 1)
    angle, width = angle.to(device), width.to(device)
    power = torch.tensor([0.5, 1.0, 1.0, 1.0, 0.5], device=device)
    return BeatWaves(torch.deg2rad(angle) * rate**power, width * rate, torch.tensor(present, device=device))


def _changes(report: str) -> list[_Change]:
    """Return the findings of a report: a word counts only as a whole, and not in a statement that negates."""
    statements = [one for one in _STATEMENT.split(report.lower()) if not _NEGATED.search(one)]
    return [
        change
        for change in FINDINGS
        if any(re.search(rf"\b{re.escape(word)}\b", one) for word in change.words for one in statements)
    ]
