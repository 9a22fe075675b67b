"""The simulated recorder: electrode noise, the amplifier's pass band, quantisation, and the layout of the file.

Noise arises at nine electrodes (right arm, left arm, left leg, V1 to V6) and reaches the leads as potential
differences, so Einthoven's law still holds; only the rounding to whole steps violates it, by a step or two. Every
artefact is recorded in the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, lfilter

from leadwise.batch import LEADS
from leadwise.data.simulator.heart import Array, twelve_leads

MISSING = -32768  # the value of a missing sample in WFDB format 16

_RATES_HZ = ((100, 0.15), (250, 0.62), (500, 0.18), (1000, 0.05))
_STEPS_UV = ((1.0, 0.25), (2.0, 0.1), (2.5, 0.2), (4.88, 0.15), (5.0, 0.3))
_CHEST_FIRST = (6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5)
_CABRERA = (4, 0, 3, 1, 5, 2, 6, 7, 8, 9, 10, 11)
_EINTHOVEN_LAST = (0, 1, 6, 7, 8, 9, 10, 11, 2, 3, 4, 5)
_ORDERS = ((tuple(range(12)), 0.55), (_CHEST_FIRST, 0.15), (_CABRERA, 0.15), (_EINTHOVEN_LAST, 0.15))

# leads that are lost with the left leg electrode: all limb leads except I
_LEFT_LEG = ("II", "III", "aVR", "aVL", "aVF")


@dataclass(frozen=True)
class Device:
    """How an ECG is recorded and stored."""

    rate_hz: int
    uv_per_step: float
    adc_zero: int
    units: str  # "mV" or "uV"
    names: tuple[str, ...]  # lead names in the order of the file
    order: tuple[int, ...]  # position of each in LEADS


@dataclass(frozen=True)
class Captured:
    """The samples of the file, and their artefacts."""

    digital: NDArray[np.int16]  # (T, 12) in the order of Device.names, MISSING where a sample is missing
    artefacts: dict[str, float | str]


def draw_device(rng: np.random.Generator) -> Device:
    """Draw a recorder: its sampling rate, step, lead order and spelling of lead names."""
    rates, rate_shares = zip(*_RATES_HZ)
    steps, step_shares = zip(*_STEPS_UV)
    order = _ORDERS[int(rng.choice(len(_ORDERS), p=[share for _, share in _ORDERS]))][0]
    names = [LEADS[k] for k in order]
    if rng.random() < 0.35:
        names = [name.upper() for name in names]
    return Device(
        rate_hz=int(rng.choice(rates, p=rate_shares)),
        uv_per_step=float(rng.choice(steps, p=step_shares)),
        adc_zero=int(rng.choice([0, 0, 0, 512])),
        units="uV" if rng.random() < 0.2 else "mV",
        names=tuple(names),
        order=order,
    )


def capture(signal: Array, device: Device, rng: np.random.Generator) -> Captured:
    """Return what the device records of clean leads (T, 8) mV, in the order of heart.INDEPENDENT_LEADS."""
    # noise of the electrodes, and sometimes exchanged arm electrodes
    noise, artefacts = _electrode_noise(len(signal), device.rate_hz, rng)
    signal = signal + _leads_from_electrodes(noise)
    if rng.random() < 0.008:
        signal = _swap_arms(signal)
        artefacts["arms_swapped"] = 1

    # amplifier, converter and lost leads
    signal = _band_limit(signal, device.rate_hz)
    leads = twelve_leads(signal)
    steps = np.rint(leads * (1000 / device.uv_per_step)) + device.adc_zero
    digital = np.clip(steps, MISSING + 1, 32767).astype(np.int16)
    _lose_leads(digital, device, artefacts, rng)
    return Captured(digital[:, list(device.order)], artefacts)


def _electrode_noise(n_samples: int, rate_hz: int, rng: np.random.Generator) -> tuple[Array, dict[str, float | str]]:
    """Return noise at the nine electrodes, (T, 9) mV, and the artefacts in it."""
    at_s = np.arange(n_samples) / rate_hz
    # baseline wander: two slow tones, at a different size in each electrode
    wander_mv = float(rng.gamma(1.6, 0.025))
    pitches = rng.uniform(0.07, 0.45, 2)
    tones = np.sin(2 * np.pi * (at_s[:, None] * pitches + rng.random(2)))
    noise = tones @ (wander_mv * rng.standard_normal((2, 9)))

    # muscle noise
    muscle_mv = float(rng.gamma(1.5, 0.003)) + (0.03 if rng.random() < 0.05 else 0.0)
    noise += muscle_mv * rng.standard_normal((n_samples, 9), dtype=np.float32)

    # mains hum
    mains_hz = int(rng.choice([50, 60]))
    mains_mv = float(rng.gamma(1.2, 0.004)) if rng.random() < 0.5 else 0.0
    if mains_mv and mains_hz < rate_hz / 2:
        hum = np.sin(2 * np.pi * (mains_hz * at_s + rng.random()))
        noise += hum[:, None] * (mains_mv * rng.uniform(0.3, 1.2, 9))
    else:
        mains_mv = 0.0
    artefacts: dict[str, float | str] = {
        "wander_mv": round(wander_mv, 4),
        "muscle_mv": round(muscle_mv, 4),
        "mains_mv": round(mains_mv, 4),
        "mains_hz": mains_hz if mains_mv else 0,
        "arms_swapped": 0,
        "motion_electrode": "",
        "motion_at_s": "",
        "lead_off": "",
        "lead_off_at_s": "",
        "lead_flat": "",
    }

    # a jump of one electrode that decays
    if rng.random() < 0.06:
        electrode, begin_s = int(rng.integers(9)), float(rng.uniform(0.5, at_s[-1] - 1.0))
        since = np.maximum(at_s - begin_s, 0)
        size = float(rng.choice([-1, 1]) * rng.uniform(0.3, 1.2))
        noise[:, electrode] += size * (1 - np.exp(-since / 0.03)) * np.exp(-since / rng.uniform(0.2, 0.8))
        artefacts["motion_electrode"] = ("RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")[electrode]
        artefacts["motion_at_s"] = round(begin_s, 2)
    return noise, artefacts


def _leads_from_electrodes(electrodes: Array) -> Array:
    """Return the leads of heart.INDEPENDENT_LEADS, (T, 8), from the potentials of the nine electrodes, (T, 9)."""
    right, left, leg = electrodes[:, 0], electrodes[:, 1], electrodes[:, 2]
    centre = (right + left + leg) / 3
    return np.column_stack([left - right, leg - right, electrodes[:, 3:] - centre[:, None]])


def _swap_arms(signal: Array) -> Array:
    swapped = signal.copy()
    swapped[:, 0] = -signal[:, 0]
    swapped[:, 1] = signal[:, 1] - signal[:, 0]
    return swapped


def _band_limit(signal: Array, rate_hz: int) -> Array:
    """Return the leads within the amplifier's band, 0.05 to 150 Hz (at low sampling rates, the rate is the upper limit)."""
    decay = np.exp(-2 * np.pi * 0.05 / rate_hz)
    signal = lfilter([decay, -decay], [1, -decay], signal - signal[:1], axis=0)
    if rate_hz > 300:
        b, a = butter(2, 150 / (rate_hz / 2))
        signal = lfilter(b, a, signal, axis=0)
    return np.asarray(signal)


def _lose_leads(
    digital: NDArray[np.int16], device: Device, artefacts: dict[str, float | str], rng: np.random.Generator
) -> None:
    """Sometimes remove the leads of an electrode from some time on, or make a channel flat. In place."""
    if rng.random() < 0.03:
        names = _LEFT_LEG if rng.random() < 0.2 else (f"V{rng.integers(1, 7)}",)
        begin = 0 if rng.random() < 0.5 else int(rng.uniform(0.2, 0.9) * len(digital))
        digital[begin:, [LEADS.index(name) for name in names]] = MISSING
        artefacts["lead_off"] = " ".join(names)
        artefacts["lead_off_at_s"] = round(begin / device.rate_hz, 3)
    elif rng.random() < 0.012:
        name = f"V{rng.integers(1, 7)}"
        digital[:, LEADS.index(name)] = device.adc_zero
        artefacts["lead_flat"] = name


def write_wfdb(stem: Path, digital: NDArray[np.int16], device: Device, comments: tuple[str, ...] = ()) -> None:
    """Write `stem`.dat (WFDB format 16) and `stem`.hea."""
    per_unit = 1000 / device.uv_per_step if device.units == "mV" else 1 / device.uv_per_step
    # checksum of the format: 16 signed bits
    sums = digital.sum(axis=0, dtype=np.int64).astype(np.uint16).view(np.int16)
    lines = [f"{stem.name} {len(device.names)} {device.rate_hz} {len(digital)}"]
    for name, first, checksum in zip(device.names, digital[0], sums):
        gain = f"{per_unit:.10g}({device.adc_zero})/{device.units}"
        lines.append(f"{stem.name}.dat 16 {gain} 16 {device.adc_zero} {first} {checksum} 0 {name}")
    lines += [f"# {comment}" for comment in comments]
    stem.with_name(stem.name + ".dat").write_bytes(digital.astype("<i2").tobytes())
    stem.with_name(stem.name + ".hea").write_text("\n".join(lines) + "\n")
