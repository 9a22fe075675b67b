from __future__ import annotations

import subprocess
import sys
import unicodedata

import pytest
import torch
from conftest import REPORTS

from leadwise.nn import text
from leadwise.nn.text import Tokens


@pytest.fixture(scope="module")
def tokenizer():
    return text.train_tokenizer(REPORTS, 400)


@pytest.mark.parametrize(
    "prompt", ["v2-v4; qtc 480ms?", "RSR'(V1) – wahrscheinlich Normvariante ÄÖÜß", "ST↑ 0.2 mV µV \U0001fac0"]
)
def test_no_character_is_unknown(tokenizer, prompt: str) -> None:
    ids = tokenizer(prompt)["input_ids"]
    assert tokenizer.unk_token is None
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == unicodedata.normalize("NFKC", prompt).lower()


def test_tokenizer_survives_a_folder(tokenizer, tmp_path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = text.load_tokenizer(tmp_path)
    assert len(again) == len(tokenizer)
    assert again(list(REPORTS))["input_ids"] == tokenizer(list(REPORTS))["input_ids"]
    assert again.convert_tokens_to_ids(text.SENTINELS) == tokenizer.convert_tokens_to_ids(text.SENTINELS)


def test_reports_are_cut_and_the_share_is_told(tokenizer) -> None:
    tokens, cut = text.tokenize(tokenizer, ["atrial fibrillation " * 30, "normal"], 16)
    assert tokens.ids.shape[1] == 16
    assert cut == 0.5


def test_tokens_are_those_of_the_tokenizer(tokenizer) -> None:
    texts = [*REPORTS, "", "atrial fibrillation " * 30]
    tokens, _ = text.tokenize(tokenizer, texts, 24)
    expected = tokenizer(texts, padding=True, truncation=True, max_length=24, return_tensors="pt")
    assert torch.equal(tokens.ids, expected["input_ids"])
    assert torch.equal(tokens.real, expected["attention_mask"].bool())


def test_masked_choice_is_the_share_of_ordinary_tokens_and_at_least_one(tokenizer) -> None:
    tokens, _ = text.tokenize(tokenizer, [*REPORTS, "ok"], 64)
    special = torch.tensor(tokenizer.all_special_ids)
    masked = text.choose_masked(tokens, special, 0.15)
    ordinary = tokens.real & ~torch.isin(tokens.ids, special)
    assert not (masked & ~ordinary).any()
    assert masked.sum(-1).tolist() == [max(1, round(0.15 * n)) for n in ordinary.sum(-1).tolist()]


def test_masking_in_place_hides_eighty_ten_ten(tokenizer) -> None:
    ids = torch.full((200, 50), 60)
    torch.manual_seed(0)
    out = text.mask_in_place(Tokens(ids, torch.ones_like(ids, dtype=torch.bool)), torch.ones_like(ids).bool(), 3, 400)
    assert float((out.question.ids == 3).float().mean()) == pytest.approx(0.8, abs=0.02)
    assert float((out.question.ids == 60).float().mean()) == pytest.approx(0.1, abs=0.02)
    assert (out.answer == ids).all()


def test_freezing_finds_the_layers_or_says_that_it_cannot() -> None:
    from transformers import DistilBertConfig, DistilBertModel

    distilled = DistilBertModel(DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=32))
    text.freeze(distilled, 1)
    trainable = {name for name, p in distilled.named_parameters() if p.requires_grad}
    assert trainable
    assert all(name.startswith("transformer.layer.1.") for name in trainable)
    with pytest.raises(ValueError, match="has 2 layers"):
        text.freeze(distilled, 3)
    text.freeze(torch.nn.Linear(2, 2), 0)
    with pytest.raises(ValueError, match="not where BERT has them; use 0"):
        text.freeze(torch.nn.Linear(2, 2), 1)


def slow_cloze(ids: list[int], masked: list[bool], sentinels: list[int]) -> tuple[list[int], list[int], list[bool]]:
    question, answer, scored, run, inside = [], [], [], -1, False
    for token, hide in zip(ids, masked):
        if hide and not inside:
            run += 1
            question.append(sentinels[run])
            answer.append(sentinels[run])
            scored.append(False)
        if hide:
            answer.append(token)
            scored.append(True)
        else:
            question.append(token)
        inside = hide
    return question, answer, scored


def test_cloze_equals_the_plain_loop() -> None:
    g = torch.Generator().manual_seed(0)
    lengths, s = [9, 5, 7], 9
    ids = torch.randint(10, 99, (3, s), generator=g)
    real = torch.arange(s)[None] < torch.tensor(lengths)[:, None]
    ids = ids.masked_fill(~real, 0)
    masked = (torch.rand(3, s, generator=g) < 0.4) & real
    masked[1] = False
    masked[1, 1:3] = True
    sentinels = torch.arange(200, 232)
    got = text.cloze(Tokens(ids, real), masked, sentinels, start_id=1, pad_id=0)
    for j, n in enumerate(lengths):
        question, answer, scored = slow_cloze(ids[j, :n].tolist(), masked[j, :n].tolist(), sentinels.tolist())
        q = got.question
        assert q.ids[j][q.real[j]].tolist() == question
        assert got.answer[j, : len(answer)].tolist() == answer
        assert got.scored[j, : len(answer)].tolist() == scored
        assert not got.scored[j, len(answer) :].any()
        assert got.prompt[j, : len(answer)].tolist() == [1, *answer[:-1]]


def test_more_runs_than_sentinels_leaves_the_rest_unhidden() -> None:
    ids = torch.arange(10, 20)[None]
    masked = torch.tensor([[True, False] * 5])
    got = text.cloze(Tokens(ids, torch.ones_like(ids).bool()), masked, torch.tensor([90, 91]), 1, 0)
    assert got.question.ids[0].tolist() == [90, 11, 91, 13, 14, 15, 16, 17, 18, 19]
    assert got.answer[0].tolist() == [90, 10, 91, 12]


def test_the_decoder_cannot_see_what_it_has_to_write() -> None:
    torch.manual_seed(0)
    decoder = text.ReportDecoder(16, 2, 2, 8).eval()
    words, memory = torch.randn(1, 6, 16), torch.randn(1, 4, 16)
    changed = words.clone()
    changed[:, 4:] += torch.randn(1, 2, 16)
    a, b = decoder(words, memory, None), decoder(changed, memory, None)
    torch.testing.assert_close(a[:, :4], b[:, :4])
    assert not torch.allclose(a[:, 4:], b[:, 4:])


def test_shuffled_statements_stay_statements() -> None:
    g = torch.Generator().manual_seed(0)
    report = "sinus rhythm. left axis deviation. abnormal ecg."
    orders = {text.shuffled(text.split(report), 0.5, g) for _ in range(60)}
    assert len(orders) > 5
    assert all(set(s.rstrip(".").split(". ")) <= set(report.rstrip(".").split(". ")) for s in orders)
    assert text.shuffled(text.split("normal ecg."), 0.9, g) == "normal ecg."


def test_reports_of_like_length_are_encoded_together_with_the_same_result() -> None:
    torch.manual_seed(0)
    encoder = text.ReportEncoder(text.bert_from_nothing(60, 16, 2, 2, 24), "mean")
    lengths = torch.randint(2, 25, (70,))
    lengths[3] = 24
    real = torch.arange(24)[None] < lengths[:, None]
    tokens = text.Tokens(torch.randint(5, 60, real.shape) * real, real)
    n_tokens = []
    encode = encoder.bert.forward

    def spy(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> object:
        n_tokens.append(input_ids.shape)
        return encode(input_ids=input_ids, attention_mask=attention_mask)

    encoder.bert.forward = spy
    states, pooled = encoder(tokens)
    assert len(n_tokens) == 4
    assert n_tokens[0][1] < n_tokens[-1][1] == 24
    weight = torch.randn(70, 24, 16)
    ((states * weight)[real].sum() + pooled.square().sum()).backward()
    grouped = [p.grad.clone() for p in encoder.parameters() if p.grad is not None]
    encoder.zero_grad()
    whole_states, whole_pooled = encoder._encoded(tokens)
    ((whole_states * weight)[real].sum() + whole_pooled.square().sum()).backward()
    torch.testing.assert_close(states[real], whole_states[real])
    torch.testing.assert_close(pooled, whole_pooled)
    for got, expected in zip(grouped, [p.grad for p in encoder.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_a_method_without_reports_does_not_import_transformers() -> None:
    program = "import sys, leadwise.run, leadwise.model; print('transformers' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False"]
