"""Residual vector quantisation: a vector as a short list of code numbers, with codebooks that follow a moving average.

Level 1 replaces a vector with the nearest of K codes, level 2 replaces what is left with the nearest of its own K codes, and
so on (SoundStream: Zeghidour et al. 2021, arXiv 2107.03312). The codes are not trained by gradient: each is the moving average
of the vectors that chose it (van den Oord et al. 2017, arXiv 1711.00937, appendix A.1). A code that few vectors choose is
dead; it restarts at a vector of the current batch.

Vectors have places, such as the number of a query. The codes are those of centred vectors: the moving mean of each place is
subtracted, and the moving deviation of all is divided out. Otherwise the first level would code the place, which the reader of
the codes knows, and a place whose vectors differ little would have one code for all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leadwise import distributed

TEMPERATURE = 0.05
"""Of soft assignments: softmax(-d^2 / (D TEMPERATURE)) over the codes, for vectors whose entries have a scale of about 1."""
N_START = 2
"""Updates after the first in which all codes restart: centre and spread are those of the vectors only from then on."""


@dataclass(frozen=True)
class Quantized:
    """Quantised vectors (..., D)."""

    vectors: Tensor  # (..., D) the sum of the chosen codes; its gradient goes to the input (`rotate`)
    codes: Tensor  # (..., R) int64, the number of the chosen code at each of R levels
    commitment: Tensor  # (...,) squared distance of the input of each level to its code: mean over D, sum over levels
    soft: Tensor  # (..., R, K) soft assignments to the codes, with a gradient


def nearest(vectors: Tensor, book: Tensor) -> Tensor:
    """Return the number (M,) of the code in `book` (K, D) that is nearest to each of `vectors` (M, D)."""
    return _distances(vectors, book).argmin(dim=-1)


def _distances(vectors: Tensor, book: Tensor) -> Tensor:
    """Return squared distances (M, K) without the squared length of the vectors, which is the same for all codes."""
    return book.square().sum(-1) - 2 * vectors @ book.T


def rotate(vectors: Tensor, codes: Tensor) -> Tensor:
    """Return `codes` (..., D), with the gradient that the rotation and scaling of `vectors` (..., D) to them have.

    The rotation trick (Fifty et al. 2024, arXiv 2410.06424): the rotation that turns a vector to its code, and the ratio of
    their lengths, are constants of the backward pass. The straight-through gradient would ignore both.
    """
    with torch.no_grad():
        length, target = (x.norm(dim=-1, keepdim=True).clamp(min=1e-8) for x in (vectors, codes))
        start, end = vectors / length, codes / target
        between = start + end
        between = between / between.norm(dim=-1, keepdim=True).clamp(min=1e-8)
        ratio = target / length
    along = (vectors * between).sum(-1, keepdim=True)
    from_start = (vectors * start).sum(-1, keepdim=True)
    out: Tensor = ratio * (vectors - 2 * along * between + 2 * from_start * end)
    return out


def perplexity(counts: Tensor) -> Tensor:
    """Return exp(entropy) (...) of how often each of K codes was chosen (..., K): K if all are equally frequent."""
    share = counts / counts.sum(-1, keepdim=True).clamp(min=1)
    out: Tensor = torch.special.entr(share.double()).sum(-1).exp()
    return out


class ResidualQuantizer(nn.Module):
    """R codebooks of K codes. In training, `forward` collects what was chosen, and `update` moves the codes after a step."""

    centre: Tensor
    spread: Tensor
    codebook: Tensor
    size: Tensor
    total: Tensor
    n_updates: Tensor
    chosen_count: Tensor
    chosen_sum: Tensor
    offered: Tensor
    place_sum: Tensor
    place_count: Tensor
    away_sum: Tensor

    def __init__(self, n_levels: int, n_codes: int, n_places: int, width: int, decay: float, dead_below: float) -> None:
        """
        Args:
            n_places: Q, places of the vectors, which are (..., Q, D); 0: vectors (..., D) are not centred.
            decay: of the moving averages, for each step.
            dead_below: a code is dead if its moving number of vectors is below this share of the mean over codes.
        """
        super().__init__()
        self.n_places, self.decay, self.dead_below = n_places, decay, dead_below
        shape = (n_levels, n_codes, width)
        self.register_buffer("centre", torch.zeros(max(1, n_places), width))
        self.register_buffer("spread", torch.ones(()))
        # random codes, smaller at each level; the second update replaces them with vectors of the batch
        self.register_buffer("codebook", torch.randn(shape) * 0.5 ** torch.arange(n_levels)[:, None, None])
        self.register_buffer("size", torch.zeros(shape[:2]))
        self.register_buffer("total", torch.zeros(shape))
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.long))
        # of the current step; buffers, because the loop restores those after a forward pass that trains nothing
        self.register_buffer("chosen_count", torch.zeros(shape[:2]), persistent=False)
        self.register_buffer("chosen_sum", torch.zeros(shape), persistent=False)
        self.register_buffer("offered", torch.zeros(shape), persistent=False)
        self.register_buffer("place_sum", torch.zeros(max(1, n_places), width), persistent=False)
        self.register_buffer("place_count", torch.zeros(max(1, n_places), 1), persistent=False)
        self.register_buffer("away_sum", torch.zeros(()), persistent=False)

    @property
    def n_levels(self) -> int:
        """R, the number of codebooks."""
        return self.codebook.shape[0]

    @property
    def n_codes(self) -> int:
        """K, the number of codes of a codebook."""
        return self.codebook.shape[1]

    def forward(self, vectors: Tensor, real: Tensor | None = None) -> Quantized:
        """Quantise vectors (..., Q, D), after centring. Those that are not `real` (..., Q) get codes too, but move none."""
        shape, width = vectors.shape[:-1], vectors.shape[-1]
        collects = self.training and torch.is_grad_enabled()
        if collects and self.n_places:
            self._collect_places(vectors.detach().float(), real)
        centred = (vectors.float() - self.centre) / self.spread
        left = centred.reshape(-1, width)  # (M, D), what the next level gets
        codes, soft, commitment = [], [], left.new_zeros(left.shape[0])
        for level, book in enumerate(self.codebook):
            distances = _distances(left, book)
            number = distances.argmin(dim=-1)
            chosen = book[number]
            if collects:
                self._collect(level, left.detach(), number, None if real is None else real.reshape(-1))
            codes.append(number)
            soft.append((-distances / (width * TEMPERATURE)).softmax(-1))
            commitment = commitment + (left - chosen).square().mean(-1)
            left = left - chosen
        numbers = torch.stack(codes, dim=-1).reshape(*shape, self.n_levels)
        return Quantized(
            vectors=rotate(centred, self.lookup(numbers)),
            codes=numbers,
            commitment=commitment.reshape(shape),
            soft=torch.stack(soft, dim=-2).reshape(*shape, self.n_levels, self.n_codes),
        )

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the vectors (..., D) of codes (..., R)."""
        return torch.stack([book[codes[..., level]] for level, book in enumerate(self.codebook)]).sum(0)

    @torch.no_grad()
    def _collect_places(self, vectors: Tensor, real: Tensor | None) -> None:
        """Add the vectors (..., Q, D) to what the next centre and spread are computed from."""
        flat = vectors.flatten(0, -3)  # (M, Q, D)
        weight = torch.ones_like(flat[..., :1]) if real is None else real.reshape(*flat.shape[:2], 1).to(flat.dtype)
        self.place_sum += (flat * weight).sum(0)
        self.place_count += weight.sum(0)
        self.away_sum += ((flat - self.centre).square().mean(-1, keepdim=True) * weight).sum()

    @torch.no_grad()
    def _collect(self, level: int, vectors: Tensor, number: Tensor, real: Tensor | None) -> None:
        """Add the vectors (M, D) and their codes (M,) to what `update` uses."""
        if real is not None:
            vectors, number = vectors[real], number[real]
        n = len(vectors)
        if not n:
            return
        every = torch.arange(self.n_codes, device=number.device)
        is_chosen = (number[:, None] == every).to(vectors.dtype)  # (M, K): sums by matrix products repeat to the bit
        self.chosen_count[level] += is_chosen.sum(0)
        self.chosen_sum[level] += is_chosen.T @ vectors
        self.offered[level] = vectors[every * n // self.n_codes]

    @torch.no_grad()
    def update(self) -> None:
        """Move centre, spread and codes to the vectors of the step, of all processes; restart dead codes.

        The result is the same on all processes.
        """
        # what all processes chose
        count, total = (distributed.gather(x[None]).sum(0) for x in (self.chosen_count, self.chosen_sum))
        offered = distributed.gather(self.offered[None]).transpose(0, 1).flatten(1, 2)  # (R, processes K, D)
        if not bool(count.any()):
            return
        n_updates = int(self.n_updates)
        if self.n_places:
            self._update_places(n_updates)

        # moving averages; the codes of the first steps, which have another centre and spread, are all new
        is_start = n_updates <= (N_START if self.n_places else 0)
        self.size.lerp_(count, 1 - self.decay)
        self.total.lerp_(total, 1 - self.decay)
        mean = (count if is_start else self.size).mean(-1, keepdim=True)  # (R, 1)
        is_dead = torch.ones_like(self.size, dtype=torch.bool) if is_start else self.size < self.dead_below * mean
        self.codebook.copy_(
            torch.where(is_dead[..., None], self.codebook, self.total / self.size.clamp(min=1e-8)[..., None])
        )

        # dead codes restart; the draw is the same on all processes
        generator = torch.Generator().manual_seed(n_updates)
        order = torch.randperm(offered.shape[1], generator=generator)[: self.n_codes].to(offered.device)
        fresh = offered[:, order]
        self.codebook.copy_(torch.where(is_dead[..., None], fresh, self.codebook))
        self.size.copy_(torch.where(is_dead, mean, self.size))
        self.total.copy_(torch.where(is_dead[..., None], fresh * mean[..., None], self.total))
        self.n_updates += 1
        for collected in (self.chosen_count, self.chosen_sum, self.place_sum, self.place_count, self.away_sum):
            collected.zero_()

    def _update_places(self, n_updates: int) -> None:
        """Move the centre of each place, and the spread around the centres, which the first step does not have yet."""
        total, count, away = (
            distributed.gather(x[None]).sum(0) for x in (self.place_sum, self.place_count, self.away_sum)
        )
        mean = torch.where(count > 0, total / count.clamp(min=1), self.centre)
        self.centre.lerp_(mean, 1.0 if n_updates == 0 else 1 - self.decay)
        deviation = (away / count.sum()).sqrt().clamp(min=1e-4)
        self.spread.lerp_(deviation, (0.0, 1.0)[n_updates] if n_updates < 2 else 1 - self.decay)
