"""Tests of ETP beyond the contract."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import REPORTS, SIGNAL, TINY, make_batch
from test_merl import slow_clip
from test_methods import build
from torch import nn

from leadwise.methods import etp
from leadwise.nn import text as reports
from leadwise.nn.losses import multimodal


def test_the_loss_is_the_mean_of_both_directions() -> None:
    method = build("etp", temperature=0.1).eval()
    _, features = method.local_terms(make_batch(7))
    loss = method.batch_terms(features)["L_align"].detach()
    assert float(loss) == pytest.approx(slow_clip(features["ecg"], features["text"], 0.1) / 2, rel=1e-4)


def test_alignment_depends_on_neither_vector_length_nor_autocast() -> None:
    torch.manual_seed(0)
    a, b, report = torch.randn(6, 4), torch.randn(6, 4), torch.arange(6)[:, None]
    exact = multimodal.aligned(a, b, report, 10.0, "negative")
    torch.testing.assert_close(multimodal.aligned(3 * a, 0.1 * b, report, 10.0, "negative"), exact)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(multimodal.aligned(a, b, report, 10.0, "negative"), exact)
    rows = [multimodal.aligned(a, b, report, 10.0, "negative", slice(i, i + 2)) for i in (0, 2, 4)]
    torch.testing.assert_close(torch.stack(rows).mean(), exact)


def test_both_projectors_are_one_linear_map_and_the_feature_comes_before_it() -> None:
    method = build("etp").eval()
    assert isinstance(method.ecg_head, nn.Linear)
    assert isinstance(method.text_head, nn.Linear)
    batch = make_batch(3)
    feature = method.embed_ecg(batch)
    shared = torch.nn.functional.normalize(method.ecg_head(feature), dim=-1)
    torch.testing.assert_close(method.embed_ecg(batch, "shared"), shared)


def test_a_pretrained_text_encoder_is_frozen(tmp_path) -> None:
    tokenizer = reports.train_tokenizer(REPORTS, 400)
    reports.bert_from_nothing(len(tokenizer), 32, 2, 2, 64).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    config = etp.Config(**{**TINY["etp"], "text_encoder": str(tmp_path / "bert")})
    method = etp.Method(config, SIGNAL, etp.Method.make_tokenizer(config, []))
    sum(method(make_batch()).values()).backward()
    for name, p in method.named_parameters():
        assert (p.grad is None) == name.startswith("text."), name


def test_equal_reports_may_be_left_out() -> None:
    batch = make_batch(4)
    batch = dataclasses.replace(batch, report=(batch.report[0],) * 4)
    assert float(build("etp", same_report="ignore").eval()(batch)["L_align"].detach()) == pytest.approx(0.0, abs=1e-6)
    assert float(build("etp").eval()(batch)["L_align"].detach()) > 1.0


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"temperature = 0\.0 is out of range: it must be > 0"):
        etp.Config(temperature=0.0)
