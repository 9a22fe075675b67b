"""Write a recording of any format as a WFDB record in format 16."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from leadwise.data.messages import channel_names
from leadwise.data.recordings.recording import MISSING, Digital, RecordError, Recording
from leadwise.files import naming_full_disk, sync, temporary_folder

_LARGEST = 32767
_UNSAFE = re.compile(r"[^\w\-]")  # characters that a WFDB record's name may not have


def write_wfdb(recording: Recording, folder: Path, name: str | None = None, overwrite: bool = False) -> Path:
    """Write `NAME.dat` and `NAME.hea` to `folder` and return the header's path.

    The integers of the file are written as they are. Other samples are rounded to 1 uV, or to the smallest whole number
    of uV at which the lead fits int16. Age, sex, format and remarks become comments; no name, date or statement does.

    Raises:
        RecordError: the record exists and `overwrite` is False.
    """
    import wfdb

    name = _UNSAFE.sub("_", recording.name if name is None else name)
    header = folder / f"{name}.hea"
    if header.exists() and not overwrite:
        raise RecordError(f"{header} exists already; pass --overwrite to replace it, or choose another folder")
    digital = recording.digital or _rounded(recording.signal)

    # both files are complete before either has its final name; there is no header while the samples are replaced
    with naming_full_disk(header), temporary_folder(folder / "wfdb") as temporary:
        wfdb.wrsamp(
            name,
            fs=int(recording.rate_hz) if float(recording.rate_hz).is_integer() else recording.rate_hz,
            units=["mV"] * len(recording.leads),
            sig_name=list(recording.leads),
            d_signal=digital.samples.astype(np.int64),
            fmt=["16"] * len(recording.leads),
            adc_gain=[1000.0 / step for step in digital.uv_per_step.tolist()],
            baseline=digital.baseline.tolist(),
            comments=_comments(recording),
            write_dir=str(temporary),
        )
        for file in (temporary / f"{name}.dat", temporary / header.name):
            sync(file)
        is_replaced = header.exists()
        if is_replaced:  # a power cut must not leave the header of one and the samples of the other
            header.unlink()
            sync(folder)
        (temporary / f"{name}.dat").replace(folder / f"{name}.dat")
        if is_replaced:
            sync(folder)
        (temporary / header.name).replace(header)
    return header


def with_derived_leads(recording: Recording) -> Recording:
    """The recording with the limb leads that follow from two of I, II and III, rounded to 1 uV, and a remark on them."""
    from leadwise.data.recordings.lead_algebra import LIMB_LEADS, derive, lead_pair

    pair = lead_pair(recording.leads)
    missing = [] if pair is None else [lead for lead in LIMB_LEADS if lead not in recording.leads]
    if pair is None or not missing:
        return recording
    sides = {lead: recording.signal[:, recording.leads.index(lead)] for lead in pair}
    derived = np.stack([derive(lead, sides) for lead in missing], axis=1)
    leads = (*recording.leads, *missing)
    remark = f"derived leads: {', '.join(missing)} from {pair[0]} and {pair[1]}"
    remarks = (*recording.remarks, remark)
    if recording.digital is None:
        return replace(recording, given=np.hstack([recording.signal, derived]), leads=leads, remarks=remarks)
    more, old = _rounded(derived), recording.digital
    digital = Digital(
        np.hstack([old.samples, more.samples]),
        np.concatenate([old.uv_per_step, more.uv_per_step]),
        np.concatenate([old.baseline, more.baseline]),
    )
    return replace(recording, digital=digital, leads=leads, remarks=remarks)


def _rounded(signal: np.ndarray) -> Digital:
    """Samples (T0, L0) in mV as integers of 1 uV or a whole number of uV."""
    microvolts = signal * 1000.0
    observed = np.isfinite(microvolts)
    largest = np.where(observed, np.abs(np.nan_to_num(microvolts)), 0.0).max(axis=0)
    steps = np.maximum(1.0, np.ceil(largest / _LARGEST))
    samples = np.where(observed, np.rint(np.nan_to_num(microvolts) / steps), MISSING).astype(np.int16)
    return Digital(samples, steps, np.zeros(signal.shape[1], dtype=np.int32))


def _comments(recording: Recording) -> list[str]:
    comments = [f"{key}: {recording.stated[key]}" for key in ("age", "sex") if recording.stated.get(key) is not None]
    comments.append(f"converted from: {recording.format}")
    if recording.unused:
        comments.append(
            f"channels left out: {channel_names((name for name in recording.unused if name.isprintable()), most=64)}"
        )
    return [*comments, *(f"remark: {remark}" for remark in recording.remarks)]
