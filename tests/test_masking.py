from __future__ import annotations

import pytest
import torch

from leadwise.nn import masking


@pytest.mark.parametrize("n", [25, 50, 100, 200])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.6, 0.75, 0.8, 0.9, 0.95])
def test_uniform_masking_keeps_the_rounded_count_in_every_lead(n: int, ratio: float) -> None:
    usable = torch.ones(3, 12, n, dtype=torch.bool)
    visible = masking.draw_visible(usable, ratio)
    assert (visible.sum(-1) == max(1, round(n * (1 - ratio)))).all()


def test_paper_setting_shows_300_of_1200_tokens() -> None:
    visible = masking.draw_visible(torch.ones(1, 12, 100, dtype=torch.bool), 0.75)
    assert int(visible.sum()) == 300
    assert (visible.sum(-1) == 25).all()


def test_unusable_patches_are_never_visible_and_counts_follow_what_is_usable() -> None:
    usable = torch.ones(2, 3, 20, dtype=torch.bool)
    usable[0, 1] = False  # a lead that is missing
    usable[1, :, 8:] = False  # a short record
    visible = masking.draw_visible(usable, 0.5)
    assert not (visible & ~usable).any()
    assert visible[0].sum(-1).tolist() == [10, 0, 10]
    assert visible[1].sum(-1).tolist() == [4, 4, 4]


def test_masks_differ_between_leads_and_draws() -> None:
    usable = torch.ones(1, 12, 100, dtype=torch.bool)
    torch.manual_seed(0)
    a, b = masking.draw_visible(usable, 0.75), masking.draw_visible(usable, 0.75)
    assert (a != b).any()
    assert not (a[0, 0] == a[0, 1]).all()


def test_other_ways_of_masking() -> None:
    usable = torch.ones(4, 12, 20, dtype=torch.bool)
    time = masking.draw_visible(usable, 0.75, "time")
    assert (time == time[:, :1]).all()
    assert (time.sum(-1) == 5).all()
    lead = masking.draw_visible(usable, 0.75, "lead")
    assert (lead.any(-1).sum(-1) == 3).all()
    assert (lead.all(-1) == lead.any(-1)).all()
    whole = masking.draw_visible(usable, 0.75, "global")
    assert (whole.flatten(1).sum(-1) == 60).all()
    assert (whole.sum(-1) != 5).any()


@pytest.mark.parametrize("n_parts", [2, 4, 7])
def test_interleaved_parts_hold_each_usable_patch_once(n_parts: int) -> None:
    usable = torch.rand(3, 12, 20) < 0.7
    parts = masking.interleaved_parts(usable, n_parts)
    assert parts.shape == (n_parts, *usable.shape)
    assert torch.equal(parts.sum(0), usable.long())
    whole = masking.interleaved_parts(torch.ones(1, 12, 20, dtype=torch.bool), 4)
    assert (whole.sum(-1) == 5).all()
    assert whole[0, 0, 0].nonzero().flatten().tolist() == [0, 4, 8, 12, 16]
    assert whole[0, 0, 1].nonzero().flatten().tolist() == [3, 7, 11, 15, 19]


def test_places_of_ragged_rows_say_which_are_real() -> None:
    keep = torch.tensor([[True, False, True, True], [False, True, False, False]])
    index, real = masking.places(keep)
    assert real is not None
    assert index[0].tolist() == [0, 2, 3]
    assert index[1, 0] == 1
    assert real.tolist() == [[True, True, True], [True, False, False]]
    index, real = masking.places(torch.ones(2, 4, dtype=torch.bool))
    assert real is None
    assert index.tolist() == [[0, 1, 2, 3]] * 2
