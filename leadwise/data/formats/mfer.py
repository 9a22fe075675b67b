"""MFER files (ISO 22077) with ecgdatakit. A monitor's file also holds pressures and respiration: these are not used."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from leadwise.data.formats.channels import choose_channels
from leadwise.data.formats.given import Given, check_size, checked_rate, mv_per_unit
from leadwise.data.formats.parsing import as_file, library_errors, of_one_rate, scaled, without_empty_slots
from leadwise.data.formats.stated import stated
from leadwise.data.recordings.recording import Recording

SUFFIXES = (".mwf", ".mfer", ".mfr")


def matches(first_bytes: bytes) -> bool:
    """Whether a file that begins with these bytes has the preamble of MFER."""
    return first_bytes[:1] == b"@" and first_bytes[2:6] == b"MFR "


def decode(content: bytes, path: Path, given: Given) -> Recording:
    """The leads of an MFER file.

    Raises:
        RecordError: the file is damaged or compressed, or a channel that is used is not a voltage.
    """
    from ecgdatakit.parsing.parsers.mfer import MFERParser

    with library_errors(path, "MFER"), as_file(content, ".mwf") as file:
        record = MFERParser().parse(file)

        # the channels that are leads, of one rate
        names = [lead.label for lead in record.leads]
        rates = list(
            map(float, record.raw_metadata.get("sampling_rates") or [lead.sampling_rate for lead in record.leads])
        )
        channels, rate_hz = of_one_rate(choose_channels(path, names, given), names, rates)
        leads = [record.leads[number] for number in channels.used]
        n_samples = max(len(lead.samples) for lead in leads)
        check_size(path, n_samples, len(leads))

        # samples, NaN = missing, and their unit: the library has the unit of a pressure as that of its converter
        samples = np.full((n_samples, len(leads)), np.nan)
        for column, lead in enumerate(leads):
            samples[: len(lead.samples), column] = lead.samples
        factors = [
            1000.0 * mv_per_unit(path, lead.resolution_unit or lead.adc_resolution_unit or None, given.units)
            for lead in leads
        ]
        steps = [lead.resolution * factor for lead, factor in zip(leads, factors)]
        offsets = [lead.offset * factor for lead, factor in zip(leads, factors)]
        signal, _ = scaled(path, samples, channels.leads, steps, offsets)
        patient, device, date = record.patient, record.recording.device, record.recording.date
        facts = stated(
            patient.age, patient.sex, (device.manufacturer, device.model), None if date is None else date.year
        )
    recording = Recording(
        path.stem, signal, channels.leads, checked_rate(path, rate_hz), unused=channels.unused, stated=facts,
        remarks=channels.remarks,
    )  # fmt: skip
    return without_empty_slots(path, recording)
