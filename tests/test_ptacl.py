"""PTACL beyond the contract: phases of ECG and images, and the test for the shortcut."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import make_batch
from test_methods import build

from leadwise.methods.ptacl import another_person


def test_a_record_without_beats_has_no_local_term() -> None:
    method, batch = build("ptacl").eval(), make_batch(4)
    terms = method(batch)
    assert list(method.weights) == list(terms) == ["L_global", "L_local"]
    assert float(terms["L_local"].detach()) > 0
    flat = dataclasses.replace(batch, ecg=torch.zeros_like(batch.ecg))
    assert float(method(flat)["L_local"].detach()) == 0
    assert list(build("ptacl global-only").weights) == ["L_global"]


def test_a_record_without_a_phase_has_no_local_term_but_a_global_one() -> None:
    method, batch = build("ptacl").eval(), make_batch(4)
    tokens, real = method.ecg.tokens(batch)
    images = method.volumes(batch.volume, batch.has_volume)
    *_, both = method._phases(batch, tokens, real, images, batch.has_volume)
    assert both.tolist() == [True, False, True, True]
    torch.testing.assert_close(method.embed_volume(batch)[1], method.embed_volume(batch, "ed")[1])
    with pytest.raises(ValueError, match="no image of es"):
        method.embed_volume(batch, "es")


@pytest.mark.slow
def test_the_shortcut_is_measured_with_the_ecg_of_another_person() -> None:
    """The local term alone is solved by the place in the heartbeat: the ECG of another person does as well."""
    torch.manual_seed(0)
    method = build("ptacl lead_time", view_crop=1.0)
    optimizer = torch.optim.AdamW(method.parameters(), lr=5e-3)
    for step in range(25):
        method(make_batch(8, seed=step % 3))["L_local"].backward()
        optimizer.step()
        optimizer.zero_grad()
    figures = method.eval().measure(make_batch(16, seed=7))
    assert set(figures) == {"effective_rank", "global_top1", "local_top1", "local_top1_other"}
    assert figures["local_top1"] > 0.75
    assert figures["local_top1_other"] > 0.6


def test_settings_need_both_phases_for_the_local_term() -> None:
    volume = dataclasses.replace(build("ptacl").config.volume, phases=("ed",))
    with pytest.raises(ValueError, match="set w_local=0"):
        build("ptacl", volume=volume)
    assert build("ptacl", volume=volume, w_local=0.0).volume_parts == ("ed", "both")


def test_the_other_ecg_is_of_another_person_and_has_beats() -> None:
    person = torch.tensor([1, 1, 2, 2, 3, 1])
    usable = torch.tensor([True, True, False, True, True, True])
    other, has_other = another_person(person, usable)
    assert other.tolist() == [3, 3, 4, 4, 5, 3]
    assert has_other.all()
    alone = torch.tensor([1, 1, 1, 2])
    other, has_other = another_person(alone, torch.tensor([True, True, True, False]))
    assert has_other.tolist() == [False, False, False, True]
    method, batch = build("ptacl").eval(), make_batch(4)
    assert method.measure(dataclasses.replace(batch, patient=("one",) * 4))["local_top1_other"] == 0
