"""MoCo v3: An Empirical Study of Training Self-Supervised Vision Transformers.
arXiv 2104.02057 (ICCV 2021).

    L_MoCo = ctr(q_1, k_2) + ctr(q_2, k_1),    ctr(q, k) = -2 tau log [exp(q k+ / tau) / sum_k exp(q k / tau)]     (Eq. 1)

    q    queries: encoder, projector and predictor of a view
    k    keys: momentum encoder and its projector, without gradient. Their weights are an exponential moving average,
         m k + (1 - m) q, with m from 0.99 to 1 along a half cosine

Products are cosines. The other records of the batch are the negatives; there is no queue. The map from patches to tokens stays
at its random initialisation: training it makes a Transformer unstable (section 4.2).

This implementation departs from the paper as follows:
- Inputs are ECGs, not images: one of five ECG encoders, and views that preserve the diagnosis (nn/views.py), both drawn from
  the same distribution, in place of two different sets of crops and colour changes.
- The ECG's vector is the mean over the encoder's tokens, not a class token. Position embeddings are those of the encoder.
- encoder = "resnet" has the projector of three layers and tau = 0.2 too; the released code has two layers and tau = 1 for a
  ResNet. A ResNet has no patches, so all of it is trained.
- The momentum encoder is updated after the optimiser's step, not before the next forward pass: the same except for the first
  step.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from leadwise import distributed
from leadwise.batch import Batch, Signal
from leadwise.config import check_ranges
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn import momentum
from leadwise.nn.encoder import Kind
from leadwise.nn.heads import Projector
from leadwise.nn.losses import view_agreement
from leadwise.nn.two_views import Tower, TwoViewSettings, TwoViewsInPairs
from leadwise.nn.views import Views


@dataclass(frozen=True)
class Config(TwoViewSettings, MethodConfig):
    encoder: Kind = "vit"
    hidden_width: int = 4096  # of projector and predictor
    out_width: int = 256  # of q and k
    temperature: float = 0.2  # tau
    momentum: float = 0.99  # m at the first step, 1 at the last
    freeze_patches: bool = True  # do not train the map from patches to tokens

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, temperature="> 0", momentum="[0, 1]")


# Settings for two CPU cores. Runs have hundreds of steps, not hundreds of thousands, so the momentum encoder follows faster. The
# encoder is a ResNet, as in the other small settings: a small ViT, the paper's encoder, was not better than an untrained one
# after 236 steps (NOTES.md).
SMALL = {"encoder": "resnet", "resnet_width": 16, "hidden_width": 256, "out_width": 128, "momentum": 0.97}
# The smallest settings, for the contract tests.
TINY = {
    "": {"encoder": "resnet", "resnet_width": 8, "hidden_width": 32, "out_width": 16},
    "vit": {"n_patches": 10, "width": 32, "depth": 2, "heads": 4, "hidden_width": 32, "out_width": 16},
    "lead_time_conv": {
        "encoder": "lead_time_conv", "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "hidden_width": 32, "out_width": 16,
    },
}  # fmt: skip


class Method(TwoViewsInPairs, PretrainingMethod):
    config: Config

    def __init__(
        self, config: Config, signal: Signal, tokenizer: object = None, saved_folder: Path | None = None
    ) -> None:
        c = config
        super().__init__(config, signal)
        self.tower = Tower(c, signal, c.hidden_width, c.hidden_width, c.out_width, ends="bare_norm")
        self.view = Views(c, signal, self.tower.ecg.grid)
        self.weights = {"L_MoCo": 1.0}
        if c.freeze_patches and self.tower.ecg.tokenizer is not None:
            self.tower.ecg.tokenizer.requires_grad_(False)
        self.predictor = Projector(c.out_width, c.hidden_width, c.out_width, ends="bare_norm")
        self.teacher = momentum.Teacher(self.tower)

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """No terms per record; features q_1, k_1, q_2 and k_2 (B, D), the queries and keys of two views."""
        features: dict[str, Tensor] = {}
        for number, view in enumerate(self.two_views(batch), start=1):
            features |= {f"q_{number}": self.predictor(self.tower(view)), f"k_{number}": self.teacher(view)}
        return {}, features

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of this process's queries, each compared with the keys of the whole batch."""
        one = self._contrast(features["q_1"], features["k_2"])
        other = self._contrast(features["q_2"], features["k_1"])
        return {"L_MoCo": one + other}

    def after_step(self, progress: float) -> None:
        """Update the momentum encoder."""
        self.teacher.follow(self.tower, momentum.rising(progress, self.config.momentum))

    def _contrast(self, query: Tensor, key: Tensor) -> Tensor:
        """Eq. 1 of this process's queries (b, D); its keys (b, D) are gathered with those of the other processes."""
        keys = distributed.gather(key.detach().float())
        return view_agreement.momentum_nce(
            query.float(), keys, self.config.temperature, distributed.local_rows(len(keys))
        )
