"""The method of another run, named by `data.init`, as the ECG encoder of a method that starts from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn

from leadwise.batch import Batch
from leadwise.methods.contract import PretrainingMethod
from leadwise.nn.encoder import check_part
from leadwise.nn.views import View


class WrappedEncoder(nn.Module):
    """The method of another run as an ECG encoder: only what its embedding needs is trained, and all of it is saved."""

    def __init__(self, method: PretrainingMethod, parts: Sequence[str], frozen: bool) -> None:
        super().__init__()
        self.method, self.embedded, self.frozen = method, tuple(parts), frozen
        for part in parts:
            check_part(part, method.parts)
        # an embedding of zeros: its widths, and which weights it depends on
        device = next(method.parameters()).device
        ecg = torch.zeros(2, len(method.signal.leads), method.signal.n_samples, device=device)
        blank = Batch(ecg, torch.ones_like(ecg, dtype=torch.bool), ("", ""), ("", ""), ("", ""))
        method.eval().requires_grad_(True)
        embeddings = method.embed_parts(blank, self.embedded)
        self.widths = [embedding.shape[1] for embedding in embeddings]
        weights = [p for p in method.parameters() if p.is_floating_point()]
        used = torch.autograd.grad(torch.cat(embeddings, 1).sum(), weights, allow_unused=True)
        for p, gradient in zip(weights, used):
            p.requires_grad_(gradient is not None and not frozen)
        n_patches = getattr(method.config, "n_patches", 0)
        self.grid = ecg.shape[-1] // n_patches if n_patches and not ecg.shape[-1] % n_patches else 1

    def train(self, mode: bool = True) -> Self:
        """Set training mode, except for a frozen encoder and the text encoder, which is never trained here."""
        super().train(mode)
        self.method.train(mode and not self.frozen)
        if self.method.embeds_text:
            for module in self.method.text_branch:
                module.eval()
        return self

    def forward(self, view: View) -> list[Tensor]:
        """The embeddings of the parts. A crop is put at its place in a recording of which nothing else is observed."""
        n, (ecg, observed) = self.method.signal.n_samples, (view.batch.ecg, view.batch.observed)
        if ecg.shape[-1] < n:
            place = (view.start[:, None] + torch.arange(ecg.shape[-1], device=ecg.device))[:, None].expand(ecg.shape)
            ecg = ecg.new_zeros(*ecg.shape[:2], n).scatter(2, place, ecg)
            observed = observed.new_zeros(ecg.shape).scatter(2, place, observed)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.method.embed_parts(replace(view.batch, ecg=ecg, observed=observed), self.embedded)
