"""TAMER: A Tri-Modal Contrastive Alignment and Multi-Scale Embedding Refinement Framework for Zero-Shot ECG Diagnosis.
CVPR 2026 (zhouxw12345/TAMER).

    L = w_report L_report + w_global L_global + w_local L_local

    clip(a, b)  cross-entropy a -> b plus cross-entropy b -> a over the batch's pairs, halved; cosine / tau
    waveform    encoder over time -> vectors over time, t
    spectrum    short-time Fourier transform of each lead -> convolutions over frequency and time -> vectors over time, s
    L_global    clip(mean of t, mean of s), each by its own linear map: the two views of one ECG
    L_local     t and s of the same second among all seconds of the record, both ways
    attention   t' = t reads s, s' = s reads t
    L_report    clip(z_ecg, z_text); z_ecg is an MLP of the means of t' and s' side by side

The abstract states three encoders, global and local contrast of waveform and spectrogram, attention between the two, alignment
with the report at the level of the diagnosis, and refinement at that of waves. Code and settings were not accessible, so these
are ours: frames of 0.5 s every 0.1 s, frequencies up to 50 Hz, log-power, the encoder of the spectrogram, one block of attention
each way, segments of one second, weights, tau and sizes.

This implementation departs from the paper as follows:
- The refinement at the level of waves by the report is left out: its form is not stated where it could be read.
- The spectrogram is of observed samples only: gaps have no edge, and a frame of a lead with less than half of its samples is 0.
- ECGs with identical reports are negatives of each other in L_report; same_report = "ignore" or "positive" changes this.
- text_encoder = "" is a small BERT with fresh weights, which is trained.
- Any of the five ECG encoders can read the waveform: setting `encoder`.

A caution: heartbeats repeat, so that L_local can be solved by position and slow drift as well as by waves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise import distributed
from leadwise.batch import Batch, Signal
from leadwise.config import check_ranges
from leadwise.methods.contract import MethodConfig, PretrainingMethod, nonzero_weights
from leadwise.nn.encoder import EcgEncoder, EncoderSettings, WithEcgEncoder, check_part, mean_of, scaled
from leadwise.nn.heads import Head
from leadwise.nn.losses import multimodal, series
from leadwise.nn.losses.multimodal import SameReport
from leadwise.nn.report_tower import SMALL_REPORTS, ReportTower, TextSettings, WithReports
from leadwise.nn.spectrogram import Spectrogram, SpectrogramEncoder, segment_means
from leadwise.nn.text import Tokenizer
from leadwise.nn.token_scale import signal_rms
from leadwise.nn.transformer import CrossBlock
from leadwise.nn.views import PairViewSettings, report_ids


@dataclass(frozen=True)
class Config(EncoderSettings, TextSettings, PairViewSettings, MethodConfig):
    # spectrogram
    frame_s: float = 0.5  # length of a frame
    hop_s: float = 0.1  # from one frame to the next
    highest_hz: float = 50.0
    spectrum_channels: int = 32  # of the first of three convolutions; each further one has twice as many
    # what joins both
    fused_width: int = 256  # of t and s
    fused_heads: int = 4
    segment_s: float = 1.0  # of L_local
    # alignment
    shared_width: int = 256  # of all contrasts
    temperature: float = 0.07  # tau
    same_report: SameReport = "negative"  # pairs of records with identical reports, in L_report
    w_report: float = 1.0
    w_global: float = 1.0  # 0 removes a term
    w_local: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, temperature="> 0", frame_s="> 0", hop_s="> 0", highest_hz="> 0", segment_s="> 0")
        check_ranges(self, w_report="> 0", w_global=">= 0", w_local=">= 0")


# Settings for two CPU cores; views and report branch are those of the other methods with reports.
SMALL = {
    "encoder": "resnet", "resnet_width": 16, "spectrum_channels": 8, "fused_width": 64, **SMALL_REPORTS,
}  # fmt: skip
# The smallest settings, for the contract tests.
_TINY = {
    "spectrum_channels": 4, "fused_width": 16, "fused_heads": 2, "text_width": 32, "text_depth": 1, "text_heads": 2,
    "vocab_size": 400, "max_tokens": 48, "shared_width": 16,
}  # fmt: skip
TINY = {
    "": {**_TINY, "resnet_width": 8},
    "lead_time": {**_TINY, "encoder": "lead_time", "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "w_local": 0.0},
    "s4": {
        **_TINY, "encoder": "s4", "s4_width": 16, "s4_depth": 2, "s4_states": 4, "s4_stride": 4, "w_global": 0.0,
    },
}  # fmt: skip


class Method(WithEcgEncoder, WithReports, PretrainingMethod):
    falling_terms = ("L_report",)
    config: Config

    def __init__(self, config: Config, signal: Signal, tokenizer: Tokenizer, saved_folder: Path | None = None) -> None:
        """`saved_folder` is the folder to which `save_extra` wrote, when saved weights will be loaded into this method."""
        super().__init__(config, signal, tokenizer)
        c = config
        self.weights = nonzero_weights(L_report=c.w_report, L_global=c.w_global, L_local=c.w_local)

        # the waveform, and the spectrogram of its leads
        self.ecg = EcgEncoder(c, signal)
        self.spectrogram = Spectrogram(signal.rate_hz, c.frame_s, c.hop_s, c.highest_hz, signal_rms(signal.normalize))
        self.n_frames = self.spectrogram.n_frames(signal.n_samples)
        self.spectrum = SpectrogramEncoder(
            len(signal.leads), self.spectrogram.n_frequencies, c.spectrum_channels, c.fused_width
        )
        self.enter = nn.Linear(self.ecg.width, c.fused_width)
        self.n_segments = max(1, round(signal.duration_s / c.segment_s))

        # attention between them, and the heads of the contrasts
        self.read_spectrum = CrossBlock(c.fused_width, c.fused_heads)
        self.read_waveform = CrossBlock(c.fused_width, c.fused_heads)
        self.norm = nn.LayerNorm(2 * c.fused_width)
        self.ecg_head = Head(2 * c.fused_width, c.shared_width)
        if c.w_global:
            self.global_heads = nn.ModuleList([nn.Linear(c.fused_width, c.shared_width) for _ in range(2)])
        if c.w_local:
            self.local_heads = nn.ModuleList([nn.Linear(c.fused_width, c.shared_width) for _ in range(2)])
        self.text = ReportTower(c, tokenizer, saved_folder)
        self.text_head = nn.Linear(self.text.width, c.shared_width)

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """L_local of each record by itself, and the features that `batch_terms` compares, one row per record."""
        c, view = self.config, self.training_view(batch)
        waveform, has_wave, spectrum, has_frame = self._branches(view)
        fused = self._fuse(waveform, has_wave, spectrum, has_frame)
        features = {
            "ecg": self.ecg_head(fused), "text": self.text_head(self.text.read(list(view.report))),
            "report": report_ids(batch, view),
        }  # fmt: skip
        if c.w_global:
            means = (mean_of(waveform, has_wave), mean_of(spectrum, has_frame))
            features |= {name: head(x) for name, head, x in zip(("waveform", "spectrum"), self.global_heads, means)}
        if not c.w_local:
            return {}, features

        # one vector of each branch for each segment that both have
        of_waveform, in_waveform = segment_means(waveform, has_wave, self._place(waveform), self.n_segments)
        of_spectrum, in_spectrum = segment_means(spectrum, has_frame, self._frame_place(waveform), self.n_segments)
        first, second = (head(x) for head, x in zip(self.local_heads, (of_waveform, of_spectrum)))
        local = series.same_time_contrast(first, second, in_waveform & in_spectrum, 1 / c.temperature)
        return {"L_local": c.w_local * local}, features

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted terms over the whole batch, including other processes' records."""
        c, every = self.config, distributed.gather_features(features)
        scale, rows = 1 / c.temperature, distributed.local_rows(len(every["report"]))
        report = multimodal.aligned(every["ecg"], every["text"], every["report"], scale, c.same_report, rows)
        terms = {"L_report": c.w_report * report}
        if c.w_global:
            # as report ids: the only positive of a waveform is its own spectrogram
            own = torch.arange(len(every["report"]), device=every["report"].device)[:, None]
            views = multimodal.aligned(every["waveform"], every["spectrum"], own, scale, "negative", rows)
            terms["L_global"] = c.w_global * views
        return terms

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of ECGs; any subset of leads may be observed.

        backbone: the normalised means of both branches side by side (the probe's feature). shared: unit vectors in the space of
        `embed_text`.

        Raises:
            ValueError: an unknown part, or a record without an observed sample.
        """
        return self.embed_parts(batch, (part,))[0]

    def embed_parts(self, batch: Batch, parts: Sequence[str]) -> list[Tensor]:
        """Return `embed_ecg` of each of `parts`, from one pass of the encoders."""
        for part in parts:
            check_part(part, self.parts)
        feature = self._fuse(*self._branches(batch))
        return [feature if part == "backbone" else F.normalize(self.ecg_head(feature), dim=-1) for part in parts]

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """Figures that a run logs in addition to its losses, for one held-out batch."""
        tokens, cut = self.text.tokenize(list(batch.report))
        z_text = self.text_head(self.text(tokens)[1])
        z_ecg = self.ecg_head(self._fuse(*self._branches(batch)))
        return multimodal.effective_ranks(z_ecg, z_text) | {"reports_cut": cut}

    def _branches(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Vectors over time of the waveform (B, N, D) and of the spectrogram (B, M, D), each with (B, ...) bool, observed."""
        tokens, has_wave = self.ecg.tokens(batch)
        log_power, enough = self.spectrogram(scaled(batch, self.signal), batch.observed)
        return self.enter(tokens), has_wave, self.spectrum(log_power), enough.any(1)

    def _fuse(self, waveform: Tensor, has_wave: Tensor, spectrum: Tensor, has_frame: Tensor) -> Tensor:
        """(B, 2 D): the normalised means of both branches, after each has read the other."""
        # attention needs a token, also where no frame was observed: those of such a record are all 0
        spectrum = spectrum * has_frame[..., None]
        read = self.read_spectrum(waveform, spectrum, has_frame | ~has_frame.any(1, keepdim=True))
        reading = self.read_waveform(spectrum, waveform, has_wave)
        out: Tensor = self.norm(torch.cat([mean_of(read, has_wave), mean_of(reading, has_frame)], dim=-1))
        return out

    def _place(self, tokens: Tensor) -> Tensor:
        """Time (N,) of each token of the waveform, from 0 to 1 of the recording."""
        n = tokens.shape[1]
        return (torch.arange(n, device=tokens.device) + 0.5) / n

    def _frame_place(self, like: Tensor) -> Tensor:
        """Time (M,) of the middle of each frame, from 0 to 1 of the recording."""
        s = self.spectrogram
        return (torch.arange(self.n_frames, device=like.device) * s.hop + 0.5 * s.length) / self.signal.n_samples
