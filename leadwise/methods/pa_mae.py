"""PA-MAE: a masked autoencoder with a ResNet, which also predicts the phase of the cardiac cycle.
arXiv 2601.20904 (ECGFlowCMR, KDD 2026), its first stage.

    L_rec     squared error of the rebuilt ECG; the target is scaled to the mean and deviation of the record
    L_phase   squared error of (sin, cos) of the phase between two R peaks, at each position of the encoder [w_phase > 0]

    encoder   ResNet over time, (B, L, T) -> (B, D, T / 16); its mean over positions is the embedding
    decoder   time is doubled four times, each time with a convolution; a linear map to the leads

What is hidden depends on `masking`:

    positions   a random part of the encoder's positions is 0 for the decoder, as in the paper; all samples are predicted
    time        stretches of the ECG, at the same times in every lead, before the encoder; the hidden samples are predicted
    uniform     stretches of each lead at its own times, before the encoder; the hidden samples are predicted

This implementation departs from the paper and its code as follows (in brackets: the setting that restores them):
- The encoder is this package's ResNet, with a stride of 16; the paper's has a stride of 8 and a projection to 768.
- Samples before the first R peak and after the last have no phase as target; the paper's code gives them phase 0.
- The weights of the loss are 1 and 0.1, as in the code, whose target has another scale: 100 and 10.
- SMALL hides stretches of each lead before the encoder, so that other leads have to rebuild them. A hidden position is rebuilt
  from its neighbours, whose samples it shares [masking = "positions"].
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from leadwise.batch import Batch, Signal
from leadwise.config import check_ranges
from leadwise.methods.contract import MethodConfig, PretrainingMethod, nonzero_weights
from leadwise.nn import masking, phase, targets
from leadwise.nn.batch_norm import BatchNorm
from leadwise.nn.encoder import EcgEncoder, EncoderSettings, WithEcgEncoder, check_part, scaled
from leadwise.nn.losses import masked
from leadwise.nn.patches import patchify
from leadwise.nn.resnet import ResNet18

_HALVINGS = 4  # of time, in the ResNet


@dataclass(frozen=True)
class Config(MethodConfig):
    resnet_width: int = 64  # channels of the first stage; the feature is eight times as wide
    masking: Literal["positions", "time", "uniform"] = "positions"
    mask_ratio: float = 0.5  # hidden share of the positions, of the times, or of each lead's stretches
    n_patches: int = 25  # stretches of a lead, for masking "time" and "uniform"; must divide its number of samples
    decoder_width: int = 256  # channels after the first doubling; each further one halves them
    w_phase: float = 0.1  # weight of L_phase; 0: without it

    def __post_init__(self) -> None:
        check_ranges(self, mask_ratio="(0, 1)", n_patches=">= 2", resnet_width=">= 1", w_phase=">= 0")
        least = 2 ** (_HALVINGS - 1)
        if self.decoder_width < least or self.decoder_width % least:
            raise ValueError(
                f"decoder_width = {self.decoder_width}: must be a multiple of {least}, because three of the decoder's steps "
                "halve it"
            )

    @property
    def whole_batch(self) -> str:
        """The batch norm of the ResNet needs a process's share of a batch in one pass."""
        return "method.name = 'pa_mae'"


# Settings for two CPU cores.
SMALL = {"resnet_width": 16, "masking": "uniform", "decoder_width": 64}
SMALL_OPTIM = {"batch_size": 64, "lr": 1e-3}
# The smallest settings, for the contract tests.
_TINY = {"resnet_width": 8, "decoder_width": 16, "n_patches": 10}
TINY = {
    "": _TINY,
    "time": {**_TINY, "masking": "time", "w_phase": 0.0},
    "uniform": {**_TINY, "masking": "uniform", "w_phase": 0.0},
}


class Method(WithEcgEncoder, PretrainingMethod):
    config: Config

    def __init__(
        self, config: Config, signal: Signal, tokenizer: object = None, saved_folder: Path | None = None
    ) -> None:
        super().__init__(config, signal)
        if config.masking != "positions" and signal.n_samples % config.n_patches:
            raise ValueError(f"n_patches = {config.n_patches} does not divide the {signal.n_samples} samples of a lead")
        self.weights = nonzero_weights(L_rec=1.0, L_phase=config.w_phase)
        self.ecg = EcgEncoder(EncoderSettings(encoder="resnet", resnet_width=config.resnet_width), signal)
        self.decoder = Decoder(self.ecg.width, config.decoder_width, len(signal.leads))
        if config.w_phase:
            half = self.ecg.width // 2
            self.phase_head = nn.Sequential(nn.Conv1d(self.ecg.width, half, 1), nn.GELU(), nn.Conv1d(half, 2, 1))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss, by name."""
        target, encoded, predicted, hidden = self._rebuild(batch)
        terms = {"L_rec": masked.reconstruction(predicted.float(), target, hidden)}
        if self.config.w_phase:
            terms["L_phase"] = self.config.w_phase * self._phase_error(encoded, batch)
        return terms

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of whole, unmasked ECGs; any subset of leads may be observed.

        Raises:
            ValueError: an unknown part, or a record without an observed sample.
        """
        check_part(part, self.parts)
        out: Tensor = self.ecg(batch)
        return out

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The decoder's ECG (B, L, T) in mV, and the mask (B, L, T) of the samples that it had to predict.

        Raises:
            ValueError: a signal scale that cannot be converted back to mV.
        """
        targets.refuse_other_scales(self.signal.normalize)
        _, _, predicted, hidden = self._rebuild(batch)
        level, spread = self._level_and_spread(batch)
        return targets.in_mv(predicted[:, :, None], level, spread, batch), hidden

    def _rebuild(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Target (B, L, T), encoder output (B, D, N), prediction (B, L, T), and which samples are predicted, (B, L, T) bool."""
        ecg = scaled(batch, self.signal)
        level, spread = self._level_and_spread(batch)
        assert isinstance(self.ecg.model, ResNet18)
        if self.config.masking == "positions":
            encoded, hidden = self.ecg.model(ecg), batch.observed
            everywhere = encoded.new_ones(len(batch), 1, encoded.shape[2], dtype=torch.bool)
            visible = encoded * masking.draw_visible(everywhere, self.config.mask_ratio)
        else:
            # the scale is that of the whole ECG: what is hidden has to be predicted, and not to be guessed from the scale
            hidden = self._hidden_stretches(batch)
            encoded = visible = self.ecg.model(ecg * ~hidden)
        predicted = self.decoder(visible)[..., : ecg.shape[-1]]
        return (ecg - level[..., 0]) / spread[..., 0], encoded, predicted, hidden

    def _hidden_stretches(self, batch: Batch) -> Tensor:
        """(B, L, T) bool: the observed samples of a random part of the stretches."""
        usable = patchify(batch.observed, self.config.n_patches).any(-1)  # (B, L, N)
        how: masking.Masking = "time" if self.config.masking == "time" else "uniform"
        visible = masking.draw_visible(usable, self.config.mask_ratio, how)
        return batch.observed & ~visible.repeat_interleave(batch.ecg.shape[-1] // self.config.n_patches, dim=-1)

    def _level_and_spread(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The mean and deviation of each record on the model's scale, (B, 1, 1, 1) each."""
        return targets.level_and_spread(scaled(batch, self.signal)[:, :, None], batch.observed[:, :, None], "record")

    def _phase_error(self, encoded: Tensor, batch: Batch) -> Tensor:
        """L_phase: the mean over the positions of a record that have a phase, then over records."""
        now = phase.phase_of(batch, self.signal)
        target = phase.phase_target(now).transpose(1, 2)  # (B, 2, T)
        # the convolutions are centred: a position is that of its first sample
        sample = torch.arange(encoded.shape[2], device=encoded.device) * 2**_HALVINGS
        known = now.known[:, None, sample].expand(-1, 2, -1)
        return masked.reconstruction(self.phase_head(encoded).float(), target[:, :, sample], known)


class Decoder(nn.Module):
    """(B, D, N) -> (B, L, 16 N): time is doubled four times, each time followed by a convolution over five positions."""

    def __init__(self, width_in: int, width: int, n_leads: int) -> None:
        super().__init__()
        widths = [width_in, *(width // 2**number for number in range(_HALVINGS))]
        self.steps = nn.ModuleList(
            nn.Sequential(nn.Conv1d(before, after, 5, padding=2, bias=False), BatchNorm(after), nn.GELU())
            for before, after in pairwise(widths)
        )
        self.leads = nn.Conv1d(widths[-1], n_leads, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, D, N) -> (B, L, 16 N)."""
        for step in self.steps:
            x = step(x.repeat_interleave(2, dim=-1))
        out: Tensor = self.leads(x)
        return out
