"""Targets of masked patches against plain loops."""

from __future__ import annotations

import pytest
import torch
from conftest import make_batch, unobserve

from leadwise.nn import targets
from leadwise.nn.normalize import normalize
from leadwise.nn.patches import patchify


@pytest.mark.parametrize("floor", [0.0, 0.01])
def test_a_patch_is_relative_to_itself_and_a_floor_of_the_record(floor: float) -> None:
    batch = unobserve(make_batch(2), leads=[5], after=250)
    patches, real = patchify(normalize(batch.ecg, batch.observed, "mv"), 10), patchify(batch.observed, 10)
    level, spread = targets.level_and_spread(patches, real, "patch", floor)
    for b in range(2):
        samples = patches[b][real[b]]
        record = float(((samples - samples.mean()) ** 2).mean())
        for lead, n in ((0, 0), (3, 4), (11, 5)):
            patch = patches[b, lead, n]
            variance = float(((patch - patch.mean()) ** 2).mean())
            assert float(level[b, lead, n]) == pytest.approx(float(patch.mean()), abs=1e-6)
            assert float(spread[b, lead, n]) == pytest.approx((variance + floor * record + 1e-6) ** 0.5, rel=1e-4)


@pytest.mark.parametrize("how", ["patch", "record", "raw"])
def test_what_is_predicted_right_comes_back_in_millivolts(how: targets.Target) -> None:
    batch = make_batch(2)
    patches = patchify(normalize(batch.ecg, batch.observed, "mv"), 10)
    level, spread = targets.level_and_spread(patches, patchify(batch.observed, 10), how)
    back = targets.in_mv((patches - level) / spread, level, spread, batch)
    torch.testing.assert_close(back, batch.ecg, atol=1e-5, rtol=1e-4)


def test_only_millivolts_have_a_way_back() -> None:
    targets.refuse_other_scales("mv")
    with pytest.raises(ValueError, match="record_zscore"):
        targets.refuse_other_scales("record_zscore")
