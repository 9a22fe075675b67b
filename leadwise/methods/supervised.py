"""Supervised: an encoder with random initial weights and one linear map, trained on the labels of a task.
No paper: a reference for pre-training.

    L_bce       binary cross-entropy of K logits with K labels, mean over records and classes

This reference measures what the labels alone are worth: its encoder, label subset and test split are those of a probe of a
pre-trained encoder (`reproduce/references.py` compares them). All classes have equal weight, frequent or rare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from leadwise.batch import Batch, Signal
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn.encoder import EcgEncoder, EncoderSettings, WithEcgEncoder, check_part
from leadwise.nn.views import PairViewSettings, pair_view


@dataclass(frozen=True)
class Config(EncoderSettings, PairViewSettings, MethodConfig):
    classes: tuple[str, ...] = ()  # K names, in the order of the scores; empty: the classes of data.task


# Settings for two CPU cores: the encoders and views of MERL's small settings.
_VIEWS = {"shift_s": 0.4, "gain": 0.1, "noise_mv": 0.02}
SMALL = {"encoder": "resnet", "resnet_width": 16, **_VIEWS}
ALSO_SMALL = ({"encoder": "vit", "n_patches": 50, "width": 96, "depth": 4, "heads": 3, **_VIEWS},)
NEEDS = "labels: a task in data.task"
# The smallest settings, for the contract tests.
TINY = {
    "": {"resnet_width": 8, "classes": ("normal", "afib", "brady", "tachy")},
    "lead_time": {
        "encoder": "lead_time", "n_patches": 10, "width": 32, "depth": 2, "heads": 4,
        "classes": ("normal", "afib", "brady", "tachy"),
    },
}  # fmt: skip


class Method(WithEcgEncoder, PretrainingMethod):
    config: Config
    learns_labels = True
    parts = ("backbone", "scores")

    def __init__(
        self, config: Config, signal: Signal, tokenizer: object = None, saved_folder: Path | None = None
    ) -> None:
        super().__init__(config, signal)
        if not config.classes:
            raise ValueError("classes is empty, so there is nothing to train on: set data.task to a task of the cohort")
        self.weights = {"L_bce": 1.0}
        self.ecg = EcgEncoder(config, signal)
        self.scores = nn.Linear(self.ecg.width, len(config.classes))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss, by name.

        Raises:
            ValueError: the batch has no labels, or labels of another task.
        """
        if batch.label is None:
            raise ValueError("the batch has no labels: set data.task to a task of the cohort")
        if batch.label.shape[1] != len(self.config.classes):
            raise ValueError(
                f"labels of {batch.label.shape[1]} classes, but the method has {len(self.config.classes)}: set data.task"
            )
        # no changes in validation
        view = pair_view(batch, self.config, self.signal, self.ecg.grid) if self.training else batch
        logits = self.scores(self.ecg(view)).float()  # (B, K)
        return {"L_bce": F.binary_cross_entropy_with_logits(logits, batch.label)}

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of ECGs; any subset of leads may be observed.

        backbone: the encoder's vector. scores: (B, K) logits, in the order of `config.classes`.

        Raises:
            ValueError: an unknown part, or a record without an observed sample.
        """
        return self.embed_parts(batch, (part,))[0]

    def embed_parts(self, batch: Batch, parts: Sequence[str]) -> list[Tensor]:
        """Return `embed_ecg` of each of `parts`, from one pass of the encoder."""
        for part in parts:
            check_part(part, self.parts)
        out: Tensor = self.ecg(batch)
        return [self.scores(out) if part == "scores" else out for part in parts]
