"""Steps that all methods share which complete leads: what is given, hidden patches in mV, and the recorded samples on top."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from leadwise.batch import Batch, Signal
from leadwise.nn import targets
from leadwise.nn.lead_map import linear_estimate, obey_limb_law, population_covariance
from leadwise.nn.normalize import median, normalize
from leadwise.nn.patches import patchify

HIDDEN_SHARE = 0.25  # of the given patches that a draw of `fill_patches` hides

# patches (B, L, N, P) and the visible ones among them (B, L, N) -> predicted targets of all patches (B, L, N, P)
DecodePatches = Callable[[Tensor, Tensor], Tensor]


def given_part(batch: Batch, observed: Tensor) -> tuple[Batch, Tensor]:
    """Return the batch with only the leads `observed` (B, L) bool, and which leads (B, L) have an observed sample then.

    Raises:
        ValueError: the shape does not fit, or a record has no observed sample in these leads.
    """
    if observed.shape != batch.observed.shape[:2]:
        raise ValueError(f"observed has shape {tuple(observed.shape)}; it must be {tuple(batch.observed.shape[:2])}")
    real = batch.observed & observed.to(batch.observed.device, torch.bool)[..., None]
    given = real.any(-1)
    for record, has_any in zip(batch.record, given.any(-1).tolist()):
        if not has_any:
            raise ValueError(f"record {record}: no sample was observed in the given leads; name other leads")
    return replace(batch, ecg=batch.ecg.masked_fill(~real, 0.0), observed=real), given


def recorded_on_top(filled: Tensor, part: Batch, given: Tensor, leads: Sequence[str]) -> Tensor:
    """Return completed ECGs (n, B, L, T) in mV: recorded samples unchanged, and limb leads that obey their law.

    filled: (n, B, L, T) on the scale "mv", millivolts minus each lead's median. Gaps of a given lead get its median back;
    the level of a lead that was not given is 0, because nothing determines it.
    """
    out = torch.where(part.observed, part.ecg, filled + median(part.ecg, part.observed))
    # a gap of a given lead follows from the other limb leads no better than from the model
    return obey_limb_law(out, given, leads)


def fill_patches(
    decode: DecodePatches,
    batch: Batch,
    observed: Tensor,
    signal: Signal,
    n_patches: int,
    target: targets.Target,
    floor: float,
    n_draws: int,
) -> Tensor:
    """Return ECGs (n_draws, B, L, T) in mV whose other leads a patch decoder fills in, for `complete`.

    A decoder predicts a patch relative to a level and a spread, which it does not predict. The rule: they are those of the
    linear map of a population (`lead_map`), so the amplitude of a patch is the linear map's and its shape the decoder's.
    The first draw has all given patches; further draws hide a random quarter of them.

    target, floor: as in `targets.level_and_spread`.

    Raises:
        ValueError: a scale that cannot be converted back to mV, or a record without a completely observed patch.
    """
    # the given patches
    targets.refuse_other_scales(signal.normalize)
    part, given = given_part(batch, observed)
    ecg = normalize(part.ecg, part.observed, "mv")
    patches, usable = patchify(ecg, n_patches), patchify(part.observed, n_patches).all(-1)
    for record, has_any in zip(batch.record, usable.flatten(1).any(-1).tolist()):
        if not has_any:
            raise ValueError(f"record {record}: no patch of the given leads was observed completely; name other leads")

    # level and spread of every patch by the linear map
    base = patchify(linear_estimate(ecg, given, population_covariance(signal.leads)), n_patches)
    level, spread = targets.level_and_spread(base, torch.ones_like(base, dtype=torch.bool), target, floor)

    # one pass per draw
    draws = []
    for number in range(n_draws):
        visible = usable if number == 0 else _partly_hidden(usable)
        draws.append((decode(patches, visible) * spread + level).flatten(2))
    return recorded_on_top(torch.stack(draws), part, given, signal.leads)


def _partly_hidden(usable: Tensor) -> Tensor:
    """The usable patches (B, L, N) without a random share of them, at least one of each record; random numbers of the host."""
    noise = torch.rand(usable.shape).to(usable.device).masked_fill(~usable, 2.0)
    visible = usable & (noise < 1 - HIDDEN_SHARE)
    lowest = noise.flatten(1).argmin(1, keepdim=True)  # a usable patch
    return visible.flatten(1).scatter(1, lowest, True).reshape(usable.shape)
