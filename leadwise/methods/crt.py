"""CRT: Self-Supervised Time Series Representation Learning via Cross Reconstruction Transformer.
arXiv 2205.09928 (IEEE Transactions on Neural Networks and Learning Systems, 2023).

    L = L_rec + w_idc L_idc

    domains   time (T samples), and the first T / 2 magnitudes and phases of the ECG's Fourier transform
    tokens    patches of all leads in each domain, with a patch encoder, position and embedding per domain, and one class token
              per domain
    dropping  a share of the times, and a share of the frequencies, the same for magnitude and phase: these get no token
    L_rec     squared error over the patches of all three domains, dropped or not
    L_idc     log sum over i != j of exp(cos(P_1 token_i, P_2 encoded_j)): keeps the tokens of a record distinguishable
    ratio     the dropped share: the progress of training, at least 0.3 and at most 0.8

This implementation departs from the paper as follows (in brackets: the setting that restores the paper's text):
- L_idc is that of the released code, among the tokens of one record. The abstract describes it as discriminating between
  records; the code's term does not compare records, and its weight is small in either reading.
- Each record draws its own dropped patches; the released code draws once per batch.
- Magnitudes are those of the orthonormal transform, on the scale of samples, and phases are divided by pi: with the plain
  transform a few low frequencies would dominate the loss. For the same reason L_rec is relative to each record's deviation in
  time and magnitude. The paper gives no scale.
- The paper's dropout (0.2) is omitted: leadwise's Transformer blocks have none. A head has width / heads channels, not 64.
  Patches that were not dropped pass the decoder too; the released code predicts them directly from the encoder.
- When the released code embeds, it adds a domain's embedding to the records of the batch instead of the tokens; here it is
  added to the tokens.
- Unobserved samples are 0 in the input of all domains and excluded from the loss; a time without an observed sample has no
  token. If a lead is missing for part of the time, its spectrum is that of the lead with zeros there.
- Validation uses the last ratio, 0.8, so that a run's validation losses are comparable.
- The optimiser is AdamW with leadwise's cosine schedule, not Adam with a rate that is reduced on plateaus.
- SMALL has one linear map per domain in place of three ResNets over 20 samples [patch_encoder = "resnet"]. The maps start so
  that tokens are as large as the embeddings of their places (nn/token_scale.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from leadwise.batch import Batch, Signal
from leadwise.config import check_ranges
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn import masking
from leadwise.nn.encoder import check_part, scaled
from leadwise.nn.lead_time import lead_embeddings, positions
from leadwise.nn.losses import masked
from leadwise.nn.patches import patchify
from leadwise.nn.resnet import ResNet18
from leadwise.nn.token_scale import signal_rms, start_at_unit_scale
from leadwise.nn.transformer import Transformer

DOMAINS = ("time", "magnitude", "phase")


@dataclass(frozen=True)
class Config(MethodConfig):
    n_patches: int = 250  # patches in time, even: 20 samples each for 10 s at 500 Hz; half as many in each other domain
    patch_encoder: Literal["resnet", "linear"] = "resnet"  # of each domain: a ResNet18 over a patch, or one linear map
    width: int = 128  # D; for "resnet" a multiple of 8
    depth: int = 6  # Transformer layers
    heads: int = 8
    mlp_ratio: float = 1.0  # hidden width of the feed-forward layers, relative to D
    decoder_depth: int = 2
    first_ratio: float = 0.3  # dropped share of a domain's patches at the beginning of training
    last_ratio: float = 0.8  # dropped share at the end of training
    w_idc: float = 1e-4  # weight of L_idc

    def __post_init__(self) -> None:
        check_ranges(self, last_ratio="(0, 1)", first_ratio=f"(0, {self.last_ratio}]", w_idc="> 0")
        if self.n_patches % 2:
            raise ValueError(
                f"n_patches must be even, because magnitude and phase have half as many; got {self.n_patches}"
            )

    @property
    def whole_batch(self) -> str:
        """The setting that forbids gradient accumulation (batch norm needs all records of a process in one pass), or ''."""
        return "method.patch_encoder = 'resnet'" if self.patch_encoder == "resnet" else ""


# Settings for two CPU cores.
SMALL = {"n_patches": 50, "patch_encoder": "linear", "width": 128, "depth": 4, "heads": 4}
# The smallest settings, for the contract tests.
TINY = {
    "": {"n_patches": 20, "patch_encoder": "linear", "width": 32, "depth": 2, "heads": 4, "decoder_depth": 1},
    "resnet": {"n_patches": 20, "width": 32, "depth": 1, "heads": 4, "decoder_depth": 1},
}  # fmt: skip


class Method(PretrainingMethod):
    falling_terms = ("L_rec", "L_idc")
    config: Config
    progress: Tensor

    def __init__(
        self, config: Config, signal: Signal, tokenizer: object = None, saved_folder: Path | None = None
    ) -> None:
        super().__init__(config, signal)
        c = config
        self.weights = {"L_rec": 1.0, "L_idc": c.w_idc}
        n_leads, n_samples = len(signal.leads), signal.n_samples
        if n_samples % c.n_patches:
            raise ValueError(f"n_patches = {c.n_patches} does not divide the {n_samples} samples of a lead")
        samples = n_samples // c.n_patches
        self.n_of = (c.n_patches, c.n_patches // 2, c.n_patches // 2)  # patches of each domain

        # by Parseval, magnitudes have the root mean square of the ECG; phases / pi are evenly spread over -1 to 1
        ecg_rms = signal_rms(signal.normalize)
        rms_of = (ecg_rms, ecg_rms, 1 / math.sqrt(3))
        self.tokenizers = nn.ModuleList(_patch_encoder(c, n_leads, samples, rms) for rms in rms_of)
        self.positions = nn.ParameterList(positions("learnable", n, c.width) for n in self.n_of)
        self.domains = lead_embeddings(len(DOMAINS), c.width)
        self.cls = nn.Parameter(0.02 * torch.randn(len(DOMAINS), c.width))
        self.encoder = Transformer(c.width, c.depth, c.heads, c.mlp_ratio)

        self.mask = nn.Parameter(0.02 * torch.randn(len(DOMAINS), c.width))
        self.decoder_positions = nn.ParameterList(positions("learnable", n, c.width) for n in self.n_of)
        self.decoder_domains = lead_embeddings(len(DOMAINS), c.width)
        self.decoder = Transformer(c.width, c.decoder_depth, c.heads, c.mlp_ratio)
        self.leave = nn.ModuleList(nn.Linear(c.width, n_leads * samples) for _ in DOMAINS)
        self.before, self.after = nn.Linear(c.width, c.width), nn.Linear(c.width, c.width)  # P_1, P_2
        self.register_buffer("progress", torch.zeros(()))  # a buffer, so that a resumed run continues from it

    def after_step(self, progress: float) -> None:
        """Store the progress of training, 0 to 1, which determines the dropped share."""
        self.progress.fill_(progress)

    @property
    def ratio(self) -> float:
        """The currently dropped share of patches; in eval mode the last one."""
        c = self.config
        return min(max(float(self.progress), c.first_ratio), c.last_ratio) if self.training else c.last_ratio

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted terms, by name."""
        # encode the visible patches of all domains; magnitude and phase share their visible frequencies
        patches, usable = self._patches(batch)
        times, frequencies = self._drop(usable[0]), self._drop(usable[1])
        visible = torch.cat([times, frequencies.repeat(1, 2)], dim=1)  # (B, S), S patches of all domains
        tokens, index, real = self._tokens(patches, visible)
        encoded = self._encode(tokens, index, real)

        # the two terms
        predicted = self._decode(encoded, index, real, torch.cat(usable, dim=1))
        n_cls = len(DOMAINS)
        l_idc = masked.instance_discrimination(self.before(tokens), self.after(encoded[:, n_cls:]), real)
        target, counts = self._targets(patches, batch)
        return {
            "L_rec": masked.reconstruction(predicted, target, counts),
            "L_idc": self.config.w_idc * l_idc,
        }

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of whole ECGs, the mean of the three class tokens; any subset of leads may be observed.

        Raises:
            ValueError: an unknown part, or a record without an observed sample.
        """
        check_part(part, self.parts)
        patches, usable = self._patches(batch)
        encoded = self._encode(*self._tokens(patches, torch.cat(usable, dim=1)))
        return encoded[:, : len(DOMAINS)].mean(1)

    # --- patches, tokens, encoder and decoder

    def _patches(self, batch: Batch) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Each domain's patches of all leads, (B, N, L P), and which of them are usable, (B, N) bool."""
        n = self.config.n_patches
        domains = spectra(scaled(batch, self.signal))
        patches = tuple(_of_all_leads(domain, count) for domain, count in zip(domains, self.n_of))
        observed = _of_all_leads(batch.observed, n).any(-1)
        every = torch.ones_like(observed[:, : n // 2])
        return patches, (observed, every, every)

    def _drop(self, usable: Tensor) -> Tensor:
        """The visible ones (B, N) among a domain's usable patches (B, N)."""
        return masking.draw_visible(usable[:, None], self.ratio)[:, 0]

    def _tokens(self, patches: tuple[Tensor, ...], visible: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Tokens of the visible patches (B, M, D), their places among the patches of all domains, and which are not padding."""
        parts = []
        for tokenize, patch, mask in zip(self.tokenizers, patches, torch.split(visible, list(self.n_of), dim=1)):
            if torch.compiler.is_exporting():  # a graph cannot have a length that depends on the data
                parts.append(tokenize(patch.flatten(0, 1)).reshape(*mask.shape, self.config.width) * mask[..., None])
                continue
            tokens = tokenize(patch[mask])  # (M', D): dropped patches do not enter a batch norm either
            grid = tokens.new_zeros(*mask.shape, self.config.width)
            parts.append(grid.masked_scatter(mask[..., None], tokens))
        index, real = masking.places(visible)
        return masking.take(torch.cat(parts, dim=1), index), index, real

    def _encode(self, tokens: Tensor, index: Tensor, real: Tensor | None) -> Tensor:
        """The encoder's output for class tokens and tokens, (B, 3 + M, D)."""
        x = tokens + self._place(self.positions, self.domains)[index]
        x = torch.cat([(self.cls + self.domains).expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1)
        out: Tensor = self.encoder(x, _with_cls(real))
        return out

    def _decode(self, encoded: Tensor, index: Tensor, real: Tensor | None, usable: Tensor) -> Tensor:
        """The predicted values of every patch of all domains, (B, S, L P)."""
        n_cls = len(DOMAINS)
        # encoded tokens at their places, mask tokens at the others
        tokens = encoded[:, n_cls:]
        x = self._spread(self.mask).expand(len(tokens), -1, -1).to(tokens.dtype)  # (B, S, D)
        if real is not None:  # padding must not overwrite the place of its index
            tokens = torch.where(real[..., None], tokens, masking.take(x, index))
        x = x.scatter(1, index[..., None].expand_as(tokens), tokens)
        x = x + self._place(self.decoder_positions, self.decoder_domains)

        # decode, and one output map per domain
        x = torch.cat([encoded[:, :n_cls], x], dim=1)
        x = self.decoder(x, None if bool(usable.all()) else _with_cls(usable))[:, n_cls:]
        parts = [leave(part) for leave, part in zip(self.leave, torch.split(x, list(self.n_of), dim=1))]
        return torch.cat(parts, dim=1)

    def _targets(self, patches: tuple[Tensor, ...], batch: Batch) -> tuple[Tensor, Tensor]:
        """L_rec's target for the patches of all domains, (B, S, L P), and which of its values were observed."""
        lead = batch.observed.any(-1, keepdim=True).expand_as(batch.observed)  # a missing lead has no spectrum
        half = lead[..., : lead.shape[-1] // 2]
        real = [_of_all_leads(each, n) for each, n in zip((batch.observed, half, half), self.n_of)]
        n = real[0].sum((1, 2), keepdim=True).clamp(min=1)
        # the mean of an ECG is near 0, so its deviation is that of its magnitudes too (Parseval)
        spread = ((patches[0].square() * real[0]).sum((1, 2), keepdim=True) / n + 1e-6).sqrt()
        return torch.cat([patches[0] / spread, patches[1] / spread, patches[2]], dim=1), torch.cat(real, dim=1)

    def _place(self, places: nn.ParameterList, domains: Tensor) -> Tensor:
        """Position plus domain embedding of each patch, (S, D)."""
        return torch.cat([*places]) + self._spread(domains)

    def _spread(self, domains: Tensor) -> Tensor:
        """One vector per domain (3, D), repeated for all patches of the domain: (S, D)."""
        return torch.cat([row.expand(n, -1) for row, n in zip(domains, self.n_of)])


def spectra(ecg: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The ECG (B, L, T), and magnitudes and phases / pi of its orthonormal Fourier transform, both (B, L, T / 2)."""
    if torch.compiler.is_exporting():
        real, imaginary = _spectrum_in_graph(ecg)
        magnitude = (real.square() + imaginary.square()).sqrt()
    else:
        spectrum = torch.fft.rfft(ecg.float(), norm="ortho")[..., : ecg.shape[-1] // 2]
        real, imaginary, magnitude = spectrum.real, spectrum.imag, spectrum.abs()
    # the phase of a magnitude near 0 is noise and set to 0; adding 0.0 turns -0.0 into 0.0, whose phase differs by pi
    phase = torch.atan2(imaginary + 0.0, real + 0.0) / torch.pi
    return ecg, magnitude, phase.masked_fill(magnitude < 1e-6, 0.0)


def _spectrum_in_graph(ecg: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of the transform in `spectra`, in a form that ONNX Runtime computes well.

    Its transform of 32-bit samples has errors up to 3e-4, which would change the phases of small magnitudes. ONNX has no
    atan2, and the exporter's form gives -pi instead of pi where the imaginary part is 0, as it is at frequency 0.
    """
    spectrum = torch.fft.rfft(ecg.double(), norm="ortho")[..., : ecg.shape[-1] // 2]
    is_zero = torch.arange(spectrum.shape[-1], device=ecg.device) == 0
    return spectrum.real.float(), spectrum.imag.float().masked_fill(is_zero, 1e-30)


class _Convolved(nn.Module):
    """Tokens (M, D) of patches (M, L P): a ResNet18 over their samples, all leads mixed, and the mean over positions.

    Its batch norms weight all processes equally, although with gaps in the recordings one may have a few more patches.
    """

    def __init__(self, n_leads: int, width: int) -> None:
        super().__init__()
        if width % 8:
            raise ValueError(f"patch_encoder = 'resnet' needs a width that is a multiple of 8; got {width}")
        self.n_leads = n_leads
        self.model = ResNet18(n_leads, width // 8)

    def forward(self, patches: Tensor) -> Tensor:
        out: Tensor = self.model(patches.reshape(patches.shape[0], self.n_leads, -1)).mean(-1)
        return out


def _patch_encoder(config: Config, n_leads: int, samples: int, input_rms: float) -> nn.Module:
    if config.patch_encoder == "resnet":
        return _Convolved(n_leads, config.width)
    linear = nn.Linear(n_leads * samples, config.width)
    start_at_unit_scale(linear, input_rms)
    return linear


def _of_all_leads(signal: Tensor, n_patches: int) -> Tensor:
    """Patches of all leads together: (B, L, T) -> (B, N, L P)."""
    return patchify(signal, n_patches).transpose(1, 2).flatten(2)


def _with_cls(real: Tensor | None) -> Tensor | None:
    return None if real is None else nn.functional.pad(real, (len(DOMAINS), 0), value=True)
