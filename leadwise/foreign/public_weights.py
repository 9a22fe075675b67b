"""An encoder with public weights, "NAME:FOLDER": an adapter of `leadwise.encoders`, and a folder with its weights."""

from __future__ import annotations

from leadwise import digests
from leadwise.encoders.catalogue import encoder_names, load
from leadwise.encoders.contract import PublishedEncoder
from leadwise.foreign.foreign_run import ForeignMethod, ForeignRun, PretrainingData, behaviour_digest
from leadwise.run import choose_device


def is_public(word: str) -> bool:
    """Return whether a word is the name of an encoder with public weights, ":" and something."""
    name, colon, folder = word.partition(":")
    return bool(colon and folder) and name in encoder_names()


def open_public(word: str, device: str = "auto") -> ForeignRun:
    """Return the encoder of "NAME:FOLDER".

    Raises:
        WeightsError: the weights do not fit.
    """
    name, _, folder = word.partition(":")
    encoder = load(name, folder)
    method = _method(encoder)
    method.to(choose_device(device)).eval()
    digest = f"{digests.of_tensors(method.state_dict())} {behaviour_digest(method)}"
    data = PretrainingData(encoder.trained_on)
    state = "" if encoder.tried_with_real_weights else ", not tried with real weights"
    origin = f"adapter of public weights{state}"
    return ForeignRun(name, origin, method, digest, data, untrained=lambda: _method(encoder.untrained()))


def _method(encoder: PublishedEncoder) -> ForeignMethod:
    return ForeignMethod(encoder.name, encoder.signal, encoder, encoder.normalizes)
