"""A second reader's values of a mutated file: where both read it, they must agree (a differential oracle).

A file that the other library refuses, or reads with a unit or a lead name that it does not know, is not compared.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from leadwise.data.recordings.recording import Recording

_MV = {"mV": 1.0, "uV": 1e-3, "V": 1e3, "nV": 1e-6}


def check_wfdb(recording: Recording, path: Path) -> None:
    """Compare a recording with what the library wfdb reads."""
    import wfdb

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            record = wfdb.rdrecord(str(path.with_suffix("")))
        except Exception:
            return
    if record.p_signal is None:
        return
    others = {
        name: record.p_signal[:, k] * _MV[record.units[k]]
        for k, name in enumerate(record.sig_name)
        if record.units[k] in _MV and record.sig_name.count(name) == 1
    }
    _check(recording, others)


def check_dicom(recording: Recording, content: bytes) -> None:
    """Compare a recording with the first group of waveforms that pydicom reads."""
    import pydicom

    logging.getLogger("pydicom").disabled = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(io.BytesIO(content))
            group = dataset.WaveformSequence[0]
            values = dataset.waveform_array(0)
            names = [channel.ChannelSourceSequence[0].CodeMeaning for channel in group.ChannelDefinitionSequence]
            units = [
                channel.ChannelSensitivityUnitsSequence[0].CodeValue for channel in group.ChannelDefinitionSequence
            ]
        except Exception:
            return
    _check(recording, {n: values[:, k] * _MV[units[k]] for k, n in enumerate(names) if units[k] in _MV})


def check_edf(recording: Recording, path: Path) -> None:
    """Compare a recording with what pyedflib reads."""
    import pyedflib

    try:
        with pyedflib.EdfReader(str(path)) as file:
            others = {}
            for k, label in enumerate(file.getSignalLabels()):
                unit = file.getPhysicalDimension(k)
                if unit in _MV:
                    others[label.removeprefix("ECG ")] = file.readSignal(k) * _MV[unit]
    except Exception:
        return
    _check(recording, others)


def _check(recording: Recording, others: Mapping[str, np.ndarray]) -> None:
    """Both have a lead of this name, of one length, and neither says that a sample is missing: the values are equal."""
    for column, lead in enumerate(recording.leads):
        other = others.get(lead)
        ours = recording.signal[:, column]
        if other is None or other.shape != ours.shape:
            continue
        both = np.isfinite(ours) & np.isfinite(other)
        scale = max(1.0, float(np.abs(other[both]).max(initial=0)))
        difference = float(np.abs(ours[both] - other[both]).max(initial=0))
        assert difference <= 1e-5 * scale, f"lead {lead} differs by {difference:g} mV of {scale:g}"
