"""Tests of MELP beyond the contract."""

from __future__ import annotations

import dataclasses

import plain_losses
import pytest
import torch
from conftest import REPORTS, make_batch, unobserve
from test_merl import slow_clip
from test_methods import build
from torch import Tensor

from leadwise.methods import melp
from leadwise.nn import local_alignment as local
from leadwise.nn import text as reports
from leadwise.nn.heads import QueryPool


def test_the_local_similarity_is_that_of_a_slow_loop() -> None:
    torch.manual_seed(0)
    statements, beats, n_statements = torch.randn(4, 3, 5), torch.randn(4, 6, 5), torch.tensor([3, 1, 2, 3])
    fast = local.local_similarity(statements, n_statements, beats)
    for i in range(4):
        for j in range(4):
            slow = plain_losses.local_similarity(statements[i, : n_statements[i]].tolist(), beats[j].tolist())
            assert float(fast[i, j]) == pytest.approx(slow, rel=1e-4)


@pytest.mark.parametrize("treat", ["negative", "ignore", "positive"])
def test_local_cross_entropies_are_those_of_a_slow_loop(treat: str) -> None:
    torch.manual_seed(0)
    similarity, report = (
        torch.randn(4, 4),
        torch.tensor([[0, 5], [1, 6], [2, 5], [3, 7]]),
    )  # 0 and 2 have the same report
    fast = local.local_nce(similarity, report, 2.0, treat)
    slow = plain_losses.local_nce(similarity.tolist(), report.tolist(), 2.0, treat)
    assert fast.tolist() == pytest.approx(slow, rel=1e-4)


def test_groups_contain_each_row_once() -> None:
    assert local.groups(8, 3, slice(None)) == [
        (slice(0, 3), slice(0, 3)),
        (slice(3, 6), slice(0, 3)),
        (slice(6, 8), slice(0, 2)),
    ]
    assert local.groups(8, 3, slice(4, 8)) == [(slice(3, 6), slice(1, 3)), (slice(6, 8), slice(0, 2))]


def test_the_mean_local_loss_of_shares_is_that_of_the_whole_batch() -> None:
    method = build("melp", local_group=3).eval()
    _, features = method.local_terms(make_batch(8))
    whole = method._beat_loss(features, slice(None))
    parts = [method._beat_loss(features, slice(begin, begin + 4)) for begin in (0, 4)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_statements_end_at_periods() -> None:
    tokenizer = reports.train_tokenizer(REPORTS, 400)
    texts = [REPORTS[2], "no period at the end", "", "one. two. three. four."]
    tokens, _ = reports.tokenize(tokenizer, texts, 48)
    closing, special = local.closing_words(tokenizer), torch.tensor(tokenizer.all_special_ids)
    number, inside = local.statement_numbers(tokens, closing, special, 3)

    def statements_of(i: int) -> list[str]:
        chosen = [tokens.ids[i][inside[i] & (number[i] == m)] for m in range(3)]
        return [tokenizer.decode(ids).strip() for ids in chosen if len(ids)]

    assert statements_of(0) == ["sinus bradycardia.", "left bundle branch block.", "abnormal ecg."]
    assert statements_of(1) == ["no period at the end"]
    assert len(statements_of(2)) == 1  # its special tokens: a report without words has one statement, too
    assert statements_of(3) == ["one.", "two.", "three. four."]
    states = torch.randn(4, tokens.ids.shape[1], 5)
    means, n_statements = local.statement_means(states, number, inside, 3)
    assert n_statements.tolist() == [3, 1, 1, 3]
    torch.testing.assert_close(means[0, 1], states[0][inside[0] & (number[0] == 1)].mean(0))
    assert not bool(means[1, 1:].any())


@pytest.mark.parametrize("name", ["melp", "melp resnet"])
def test_the_rhythm_is_the_mean_of_the_beats_and_its_loss_is_symmetric(name: str) -> None:
    method = build(name).eval()
    batch = make_batch(6)
    _, features = method.local_terms(batch)
    torch.testing.assert_close(features["ecg"], features["beats"].mean(1))
    loss = method.batch_terms(features)["L_rhythm"].detach()
    assert float(loss) == pytest.approx(slow_clip(features["ecg"], features["text"], 0.07) / 2, rel=1e-4)
    shared = torch.nn.functional.normalize(features["ecg"], dim=-1)
    torch.testing.assert_close(method.embed_ecg(batch, "shared"), shared)


def test_the_decoder_reads_the_ecg_and_no_later_word() -> None:
    method = build("melp").eval()
    batch = make_batch(2)
    words, _ = method.text.tokenize(list(batch.report))
    memory = method.token_pool(*method._tokens(batch))
    outputs: list[Tensor] = []
    method.decoder.register_forward_hook(lambda _m, _i, out: outputs.append(out))
    method._next_word_errors(words, memory)
    later = dataclasses.replace(words, ids=words.ids.clone())
    later.ids[:, 3] = 40
    method._next_word_errors(later, memory)
    method._next_word_errors(words, memory.flip(0))
    plain, other_word, other_ecg = outputs
    torch.testing.assert_close(plain[:, :3], other_word[:, :3])
    assert not torch.allclose(plain[:, 3:], other_word[:, 3:])
    assert not torch.allclose(plain[:, 0], other_ecg[:, 0])


def test_padding_is_not_scored_and_every_real_word_is() -> None:
    method = build("melp").eval()
    batch = make_batch(4)
    words, _ = method.text.tokenize(list(batch.report))
    errors = method._next_word_errors(words, method.token_pool(*method._tokens(batch)))
    assert errors[:, 1].tolist() == (words.real.sum(-1) - 1).tolist()


def test_queries_do_not_attend_to_unobserved_positions() -> None:
    torch.manual_seed(0)
    pool = QueryPool(6, 8, 2, 3)
    tokens, real = torch.randn(2, 5, 6), torch.tensor([[True] * 5, [True, True, False, False, True]])
    out = pool(tokens, real)
    assert out.shape == (2, 3, 8)
    other = torch.where(real[..., None], tokens, 9.0)
    torch.testing.assert_close(pool(other, real), out)
    torch.testing.assert_close(pool(tokens[1:, [0, 1, 4]]), out[1:])
    method = build("melp resnet").eval()
    batch = unobserve(make_batch(2), after=200)
    _, real = method._tokens(batch)
    assert real.sum(-1).tolist() == [13, 13]  # of 25 positions of 16 samples


@pytest.mark.parametrize(
    ("without", "terms"), [("w_beat", {"L_rhythm", "L_token"}), ("w_token", {"L_rhythm", "L_beat"})]
)
def test_a_weight_of_zero_removes_the_term_and_its_parts(without: str, terms: set[str]) -> None:
    method = build("melp", **{without: 0.0})
    losses = method(make_batch(4))
    assert set(losses) == set(method.weights) == terms
    sum(losses.values()).backward()
    assert [n for n, p in method.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_learnable_scale_is_limited() -> None:
    method = build("melp")
    assert float(method.log_scale.detach().exp()) == pytest.approx(1 / 0.07)
    method.log_scale.data.fill_(9.0)
    method.after_step(0.5)
    assert method.measure(make_batch())["scale"] == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"local_group": 1}, r"local_group = 1 is out of range: it must be >= 2"),
        ({"w_rhythm": 0.0}, r"w_rhythm = 0\.0 is out of range: it must be > 0"),
        ({"w_beat": -1.0}, "w_beat"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        melp.Config(**changes)
