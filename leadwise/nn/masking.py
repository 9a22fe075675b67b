"""Random masks of the patches that an encoder receives, as pure functions of boolean tensors; True = visible.

A lead has round(N * (1 - ratio)) visible patches; truncation instead of rounding would hide 82 of 100 at ratio 0.81.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from leadwise.batch import to_device

Masking = Literal["uniform", "global", "lead", "time"]


def n_visible(n_patches: Tensor, ratio: float) -> Tensor:
    """The number of visible patches among `n_patches` usable ones: round(n (1 - ratio)), at least one of one or more."""
    return (n_patches.double() * (1.0 - ratio)).round().long().clamp(min=1).minimum(n_patches)


def draw_visible(usable: Tensor, ratio: float, how: Masking = "uniform") -> Tensor:
    """A random (B, L, N) mask of visible patches among the `usable` ones, (B, L, N) bool.

    uniform: the same count in every lead, positions drawn independently for each lead (CG-DMER's "uniformly across leads").
    global: one draw over all leads and times. lead: whole leads. time: the same times in every lead.
    The random numbers are drawn on the host: a run's masks do not depend on its device.
    """
    b, n_leads, _ = usable.shape
    noise = to_device(torch.rand(usable.shape), usable.device)
    if how == "global":
        flat = _keep_lowest(noise.reshape(b, 1, -1), usable.reshape(b, 1, -1), ratio)
        return flat.reshape(usable.shape)
    if how == "lead":
        leads = _keep_lowest(noise[:, :, 0][:, None], usable.any(-1)[:, None], ratio)  # (B, 1, L)
        return usable & leads.reshape(b, n_leads, 1)
    if how == "time":
        times = _keep_lowest(noise[:, :1], usable.any(1)[:, None], ratio)  # (B, 1, N)
        return usable & times
    return _keep_lowest(noise, usable, ratio)


def draw_visible_counted(
    usable: Tensor, on_host: Tensor, ratio: float, how: Masking = "uniform"
) -> tuple[Tensor, Tensor]:
    """`draw_visible`, and the number of visible patches of each lead, (B, L) int64 on the host; a GPU is not read.

    on_host: `usable` on the host.
    """
    if how == "uniform":
        return draw_visible(usable, ratio, how), n_visible(on_host.sum(-1), ratio)
    # what is drawn determines the numbers
    visible = draw_visible(on_host, ratio, how)
    return to_device(visible, usable.device), visible.sum(-1)


def draw_hidden_times(usable: Tensor, low: float, high: float, n_blocks: int) -> Tensor:
    """Random times that all leads hide, (B, N) bool, of `usable` patches (B, L, N) bool on the host (ECG-JEPA).

    n_blocks = 0: of each record's usable times a random share between `low` and `high`, rounded down. Otherwise so many blocks of
    consecutive times, each as long as such a share of N, which may overlap. A record that would have no visible patch hides
    nothing.
    """
    (b, _, n), times = usable.shape, usable.any(1)
    share = low + (high - low) * torch.rand(b, max(n_blocks, 1))
    if n_blocks:
        length = (share * n).long()  # (B, K)
        begin = (torch.rand(b, n_blocks) * (n - length + 1)).long()
        place = torch.arange(n)
        hidden = ((place >= begin[..., None]) & (place < (begin + length)[..., None])).any(1)
    else:
        rank = torch.rand(b, n).masked_fill(~times, torch.inf).argsort(dim=-1, stable=True).argsort(dim=-1)
        hidden = rank < (share * times.sum(-1, keepdim=True)).long()
    return hidden & (times & ~hidden).any(-1, keepdim=True)


def _keep_lowest(noise: Tensor, usable: Tensor, ratio: float) -> Tensor:
    """Along the last axis, select the usable places with the lowest noise, as many as `n_visible` returns."""
    order = noise.masked_fill(~usable, torch.inf).argsort(dim=-1, stable=True)  # stable: the same on every device
    rank = order.argsort(dim=-1)
    return usable & (rank < n_visible(usable.sum(-1, keepdim=True), ratio))


def interleaved_parts(usable: Tensor, n_parts: int) -> Tensor:
    """The usable patches (B, L, N) split into K = `n_parts` disjoint parts, (K, B, L, N) bool.

    A part holds every K-th patch of each lead, with a start that moves by one patch from lead to lead.
    """
    _, n_leads, n_patches = usable.shape
    place = torch.arange(n_leads, device=usable.device)[:, None] + torch.arange(n_patches, device=usable.device)
    return torch.stack([usable & ((place + number) % n_parts == 0) for number in range(n_parts)])


def part_indices(n_leads: int, n_patches: int, n_parts: int) -> list[list[int]]:
    """K lists of equal length: the places among L N that each of the `interleaved_parts` has if all patches are usable.

    A shorter list is padded with places of another part.
    """
    parts: list[list[int]] = [[] for _ in range(n_parts)]
    for place in range(n_leads * n_patches):
        parts[-(place // n_patches + place % n_patches) % n_parts].append(place)
    longest = max(parts, key=len)
    return [part + longest[: len(longest) - len(part)] for part in parts]


def places(keep: Tensor, among: Tensor | None = None, count: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Indices (B, M) of the True places of `keep` (B, S), in order, and which of the M are real (None = all).

    M is the largest count in the batch. Shorter rows are padded with indices of other places, which the second mask marks
    as not real. While a graph is exported, whose lengths cannot depend on the data, the indices are `among` (B, M), which
    must contain every True place (None = all of S). `count` (B,) on the host is the number of True places of each record, if
    it is known; otherwise the device is read.
    """
    if torch.compiler.is_exporting():
        if among is None:
            return torch.arange(keep.shape[1], device=keep.device).expand(keep.shape), keep
        return among, keep.gather(1, among)
    count = keep.sum(-1) if count is None else count
    m = int(count.max())
    index = torch.argsort(~keep, dim=-1, stable=True)[:, :m]
    if bool((count == m).all()):
        return index, None
    return index, torch.arange(m, device=keep.device)[None] < to_device(count, keep.device)[:, None]


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows of x (B, S, D) at index (B, M): (B, M, D)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def any_in_bins(flags: Tensor, n_bins: int) -> Tensor:
    """(B, n_bins) bool: whether any of `flags` (B, T) bool is True in each bin.

    Bin i is [floor(i T / n), ceil((i + 1) T / n)), as in adaptive max-pooling, which ONNX lacks.
    """
    n = flags.shape[-1]
    bins = torch.arange(n_bins, device=flags.device)
    begin, end = bins * n // n_bins, -(-(bins + 1) * n // n_bins)
    count = F.pad(flags.long().cumsum(-1), (1, 0))  # (B, T + 1), the number of True flags before each place
    return count[:, end] > count[:, begin]
