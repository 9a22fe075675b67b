"""Simulated ECGs as files in memory, for a first look at the page: findings, and what a page must notice about a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from leadwise.batch import LEADS
from leadwise.data.simulator.acquisition import Device, capture
from leadwise.data.simulator.example_files import aecg_text, draw_example, muse_text
from leadwise.data.simulator.patients import Patient, draw_presentation
from leadwise.data.simulator.tracing import draw_tracing, random_stream

_SEED = 0
_DEVICE = Device(500, 2.5, 0, "mV", LEADS, tuple(range(len(LEADS))))
_FLAT_STEPS = 4  # of an electrode that is off: constant, and not zero
_TOO_LARGE = 1000  # a unit that is wrong by this factor
_ARMS = (
    ("I", "II", "III", "aVR", "aVL", "aVF"),
    ("I", "III", "II", "aVL", "aVR", "aVF"),
)  # lead, and whose samples it gets


@dataclass(frozen=True)
class ServedExample:
    """One file."""

    name: str
    title: str
    file_name: str
    content: bytes


def make_examples() -> list[ServedExample]:
    """Return the files; always the same ones."""
    normal = draw_example(frozenset({"SR", "NORM"}), _DEVICE, _SEED)
    fibrillation = draw_example(frozenset({"AFIB"}), _DEVICE, _SEED)
    block = draw_example(frozenset({"SR", "CLBBB"}), _DEVICE, _SEED)
    person, later = _later_ecg()
    flat = np.full_like(normal[2], _FLAT_STEPS)
    large = replace(_DEVICE, uv_per_step=_DEVICE.uv_per_step * _TOO_LARGE)
    return [
        _example("normal", "Normal rhythm", normal[0], normal[2], muse_text),
        _example("fibrillation", "Atrial fibrillation", fibrillation[0], fibrillation[2], aecg_text),
        _example("left-bundle-branch-block", "Left bundle branch block", block[0], block[2], aecg_text),
        _example("arms-exchanged", "Arm electrodes exchanged", normal[0], exchange_arms(normal[2]), aecg_text),
        _example("unit-doubt", "Amplitudes of a wrong unit", normal[0], normal[2], aecg_text, large),
        _example("flat", "Electrodes off: not interpretable", normal[0], flat, aecg_text),
        _example("person-first", "One person, first ECG", person, later[0], muse_text),
        _example("person-second", "The same person, later", person, later[1], muse_text),
    ]


def _example(
    name: str,
    title: str,
    patient: Patient,
    digital: NDArray[np.int16],
    write: Callable[[dict[str, NDArray[np.int16]], Device, Patient], str],
    device: Device = _DEVICE,
) -> ServedExample:
    text = write(dict(zip(LEADS, digital.T)), device, patient)
    return ServedExample(name, title, f"{name}.xml", text.encode())


def _later_ecg() -> tuple[Patient, tuple[NDArray[np.int16], NDArray[np.int16]]]:
    """Return a person with atrial fibrillation, and two ECGs: with it, and in another stream of the simulator."""
    patient, _, first = draw_example(frozenset({"AFIB"}), _DEVICE, _SEED + 1)
    rng = random_stream(patient, 1, _SEED + 1)
    presentation = draw_presentation(patient, rng)
    second = capture(draw_tracing(patient, rng, _DEVICE.rate_hz, presentation).leads, _DEVICE, rng).digital
    return patient, (first, second)


def exchange_arms(digital: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return an ECG (T, 12) as it is recorded with the arm electrodes exchanged: I changes its sign, II and III, aVR and aVL
    change places."""
    result = digital.copy()
    for lead, source in zip(*_ARMS):
        result[:, LEADS.index(lead)] = digital[:, LEADS.index(source)]
    result[:, LEADS.index("I")] *= -1
    return result
