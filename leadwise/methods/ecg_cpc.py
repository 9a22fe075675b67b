"""ECG-CPC: contrastive predictive coding of ECGs with a state-space model.
arXiv 2509.25095 (ICLR 2026); CPC: arXiv 1807.03748, for ECGs: arXiv 2103.12676.

    L_CPC       -log exp(p_tk . z_(t+k) / tau) / sum_z exp(p_tk . z / tau)                            (Eq. 4 of 1807.03748)

    z_t         latent of one piece of all leads: convolutions within the piece
    c_t         context: causal state-space layers over z_1 ... z_t
    p_tk        W_k c_t, a linear map for each number k of pieces ahead [steps]
    z           candidates: z_(t+k) and the latents of other times of the record; with n_elsewhere above 0, of other records too

The embedding is the mean of c_t. The bodies of the two ECG papers could not be read: sizes are those of the released weights as
others describe them (2.5 s at 240 Hz, pieces of two samples, four S4 layers of width 512 with 8 states), and the loss is that of
the released code of 2103.12676 (one number of pieces ahead, 12, products without scaling, other times of the record only).

This implementation departs from them as follows (in brackets: the setting that restores theirs):
- All observed times of the record are candidates; the code draws 128 of them.
- The state-space layers are S4D with a GELU and a gated map, pre-norm, not S4; latents come from two convolutions, not four.
- Leads may be removed from a record, and gain and noise added (nn/views.py); off by default, as in theirs.
- Records train on a random part [view_crop = 1: on the whole]; an embedding is that of the whole signal, and not the mean over
  crops of 2.5 s.
- Latents of other records are drawn once per batch, the same for all predictions.
- SMALL predicts several numbers of pieces ahead by cosines, as in later versions of that code, with half of the leads removed.
- The optimiser is AdamW with leadwise's schedule.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise import distributed
from leadwise.batch import Batch, Signal, to_device
from leadwise.config import check_ranges
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn import masking
from leadwise.nn.encoder import EcgEncoder, EncoderSettings, WithEcgEncoder, check_part, scaled
from leadwise.nn.losses import series
from leadwise.nn.s4 import S4Encoder
from leadwise.nn.views import UnchangedViewSettings, Views


@dataclass(frozen=True)
class Config(UnchangedViewSettings, MethodConfig):
    width: int = 512  # D, of latents and context
    depth: int = 4  # state-space layers
    n_states: int = 8  # of each channel
    stride: int = 2  # samples per piece
    steps: tuple[int, ...] = (12,)  # pieces ahead that are predicted, each by its own linear map
    n_elsewhere: int = 0  # latents drawn from each other record of the batch, as further candidates
    cosine: bool = False  # compare by cosines, not by products
    temperature: float = 1.0  # tau
    view_crop: float = 0.25  # share of the recording that a step sees, in one piece

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, temperature="> 0", n_elsewhere=">= 0")
        if not self.steps or min(self.steps) < 1 or len(set(self.steps)) != len(self.steps):
            raise ValueError(f"steps = {list(self.steps)}: must be one or more different numbers of 1 or more")


# Settings for two CPU cores.
SMALL = {
    "width": 96, "depth": 4, "stride": 8, "steps": (2, 5, 10), "n_elsewhere": 4, "cosine": True, "temperature": 0.1,
    "view_crop": 0.5, "view_gain": 0.1, "view_lead_mask": 0.5,
}  # fmt: skip
SMALL_OPTIM = {"lr": 2e-3}
# The smallest settings, for the contract tests.
TINY = {
    "": {
        "width": 16, "depth": 2, "n_states": 4, "stride": 4, "steps": (1, 3), "n_elsewhere": 2, "cosine": True,
        "temperature": 0.2, "view_crop": 0.5,
    },
}  # fmt: skip


class Method(WithEcgEncoder, PretrainingMethod):
    compares_records = True
    falling_terms = ("L_CPC",)
    config: Config

    def __init__(
        self, config: Config, signal: Signal, tokenizer: object = None, saved_folder: Path | None = None
    ) -> None:
        super().__init__(config, signal)
        c = config
        self.weights = {"L_CPC": 1.0}
        sizes = EncoderSettings("s4", s4_width=c.width, s4_depth=c.depth, s4_states=c.n_states, s4_stride=c.stride)
        self.ecg = EcgEncoder(sizes, signal, causal=True)
        self.view = Views(c, signal)
        length = self.ecg.n_positions(self.view.n_crop)
        if length <= max(c.steps):
            raise ValueError(
                f"steps = {list(c.steps)}: each must be less than the {length} pieces of {c.stride} samples that view_crop = "
                f"{c.view_crop:g} leaves"
            )
        self.ahead = nn.Linear(c.width, len(c.steps) * c.width, bias=False)  # W_k of all steps in one map

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """No terms per record; latents and context (B, N, D), which are real (B, N), and drawn latents (B, J, D)."""
        c = self.config
        view = self.view(batch).batch
        latents = self._encoder.latents(scaled(view, self.signal))
        context, real = self._encoder.context(latents), self._encoder.observed(view.observed)
        features = {"latents": latents, "context": context, "real": real.long()}
        if c.n_elsewhere:
            # the host draws, so that a run's candidates do not depend on its device
            noise = to_device(torch.rand(real.shape), real.device).masked_fill(~real, torch.inf)
            index = noise.argsort(dim=-1, stable=True)[:, : c.n_elsewhere]
            features |= {"drawn": masking.take(latents, index), "drawn_real": real.gather(1, index).long()}
        return {}, features

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of this process's records, with candidates of all processes' records."""
        c = self.config
        latents, real = features["latents"].float(), features["real"].bool()
        others, is_other = latents.new_zeros(0, c.width), real[:, :0]
        if c.n_elsewhere:
            drawn = distributed.gather_features({name: features[name] for name in ("drawn", "drawn_real")})
            n_records = len(drawn["drawn_real"])
            place = torch.arange(n_records, device=real.device)
            elsewhere = place[distributed.local_rows(n_records)][:, None] != place  # (b, B)
            is_other = (elsewhere[..., None] & drawn["drawn_real"].bool()).flatten(1)
            others = drawn["drawn"].float().flatten(0, 1)
        with torch.autocast(real.device.type, enabled=False):
            predicted = self.ahead(features["context"].float()).unflatten(-1, (len(c.steps), c.width)).transpose(1, 2)
            if c.cosine:
                predicted, latents, others = (F.normalize(x, dim=-1) for x in (predicted, latents, others))
            loss = series.predictive_contrast(predicted, latents, real, c.steps, c.temperature, others, is_other)
        return {"L_CPC": loss}

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of whole ECGs, the mean of the context; any subset of leads may be observed.

        Raises:
            ValueError: an unknown part, or a record without an observed sample.
        """
        check_part(part, self.parts)
        out: Tensor = self.ecg(batch)
        return out

    @property
    def _encoder(self) -> S4Encoder:
        """The state-space encoder within `ecg`."""
        assert isinstance(self.ecg.model, S4Encoder)
        return self.ecg.model
