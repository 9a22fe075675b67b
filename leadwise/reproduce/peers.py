"""The target `peers`: the strongest methods of 2026 on the same recordings, with the same budget and the same judge."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from leadwise.config import Config
from leadwise.methods.catalogue import all_small_settings, small_optim_settings
from leadwise.reproduce.variants import Variant

METHODS = ("cg_dmer", "etp", "merl", "melp", "simclr", "ecg_cpc", "ecg_jepa", "merit", "st_mem")
N_WITH_SEEDS = 5  # the first of METHODS have all SEEDS, the others and the rows with S4 the first one
SEEDS = (0, 1, 2)

_WITH_S4 = ("merl", "simclr")  # also have a row with the encoder that the benchmarks of 2026 put first
_S4 = {"encoder": "s4", "s4_width": 64, "s4_depth": 4, "s4_stride": 4}
_OPTIM: dict[str, Any] = {"batch_size": 64, "lr": 1e-3}  # of methods whose small settings have no other

TITLE = "Peers of 2026: one judge for all"

_PAIRS = "pre-trained on 780,000 pairs of MIMIC-IV-ECG"
_HEADING = ("system", "its number", "of", "why it cannot be compared")
PUBLISHED = [
    dict(zip(_HEADING, line))
    for line in (
        ("CG-DMER", "70.16 / 83.01 / 89.10", "probe at 1, 10, 100 % of the labels, mean of six tasks", _PAIRS),
        ("D-BETA", "80.93", "probe at 1 %, mean of six tasks", f"{_PAIRS}; wider features"),
        (
            "MELP",
            "87.63, 89.44",
            "probe of PTB-XL super at 1 and 100 %",
            f"{_PAIRS}; its code scores probabilities that compete",
        ),
        ("MELP", "79.0", "zero-shot, mean of six tasks", _PAIRS),
        ("SuPreME", "77.2", "zero-shot, mean of six tasks", f"{_PAIRS}, with extracted entities"),
        ("D-BETA", "77.1", "zero-shot, mean of six tasks", _PAIRS),
        ("CG-DMER", "76.0", "zero-shot, mean of six tasks", _PAIRS),
        (
            "MERL",
            "75.25",
            "zero-shot, mean of six tasks",
            f"{_PAIRS}; faults of its label files (docs/legacy-protocol.md)",
        ),
        ("TAMER", "76.5", "zero-shot of PTB-XL super", _PAIRS),
        ("MERIT", "93.26 / 93.79 / 87.76", "PTB-XL super, sub, form", "fine-tuned on the whole of PTB-XL"),
        ("ECG-CPC", "94.9", "PTB-XL, all statements", "pre-trained on 10 million ECGs, fine-tuned"),
        ("S4, from random weights", "94.1", "PTB-XL, all statements", "supervised on the whole of PTB-XL"),
        ("xResNet, from random weights", "92.5", "PTB-XL, all statements", "supervised on the whole of PTB-XL"),
        ("MS-ECG-FM", "93.6", "probe of its own broad set of labels", "720,000 ECGs and other labels"),
        ("ECGFounder", "91.5", "probe of the same set", "pre-trained on 10 million ECGs with labels"),
    )
]
REMARK = "Published numbers, as printed; none is comparable with ours"


def small_configs(name: str, shared: Config) -> list[Config]:
    """Return the configs of a method's rows: its small settings, and these with S4 where it is compared.

    Each method is trained with the batch size and learning rate that go with its small settings.
    """
    small = all_small_settings(name)[:1]
    optim = dataclasses.replace(shared.optim, **{**_OPTIM, **small_optim_settings(name)})
    tables = [*small, *({**table, **_S4} for table in small if name in _WITH_S4)]
    return [dataclasses.replace(shared, method=table, optim=optim) for table in tables]


def seeds_of(variant: Variant, seeds: Sequence[int]) -> tuple[int, ...]:
    """Return the seeds of a row: the given ones, else SEEDS for the methods that have all of them."""
    if seeds:
        return tuple(seeds)
    method = variant.config.method
    has_all = method["name"] in METHODS[:N_WITH_SEEDS] and method.get("encoder") != _S4["encoder"]
    return SEEDS if has_all else SEEDS[:1]
