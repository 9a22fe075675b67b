"""Word-overlap metrics against values by hand and against slow plain versions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from leadwise.generate.bert_score import bert_score
from leadwise.generate.pairs import ReportScoreError
from leadwise.generate.text_metrics import CiderD, bleu, meteor, rouge_l, score_texts, words

LEFT = "sinus rhythm. left bundle branch block. abnormal ecg."
RIGHT = "sinus rhythm. right bundle branch block. abnormal ecg."
TRAINING = [
    "sinus rhythm. normal ecg.",
    "sinus rhythm. left bundle branch block. abnormal ecg.",
    "atrial fibrillation. abnormal ecg.",
    "sinus bradycardia. first degree av block. borderline ecg.",
]


def test_words_are_lower_case_without_punctuation() -> None:
    assert words("Sinus rhythm, QTc 450.5 ms; RSR' in V1-V2.") == (
        ["sinus", "rhythm", "qtc", "450.5", "ms", "rsr'", "in", "v1", "v2"]
    )


# ------------------------------------------------------------------------------------------------------ BLEU, ROUGE-L


def test_bleu_by_hand() -> None:
    pytest.importorskip("sacrebleu", reason="needs the extra reports")
    # 4 tokens against 5: matches 3 of 4 words, 2 of 3 pairs, 1 of 2 triples, none of four; brevity exp(1 - 5/4)
    values = bleu(["a b c d e"], ["A b c x"])
    brevity = math.exp(1 - 5 / 4)
    assert values == pytest.approx(
        (brevity * 3 / 4, brevity * (3 / 4 * 2 / 3) ** (1 / 2), brevity * (3 / 4 * 2 / 3 / 2) ** (1 / 3), 0.0)
    )


def test_bleu_is_pooled_over_the_corpus_and_counts_empty_reports() -> None:
    pytest.importorskip("sacrebleu", reason="needs the extra reports")
    # precision 4/4 over both reports, and the length of the second is missing: exp(1 - 8/4)
    assert bleu(["a b c d", "a b c d"], ["a b c d", ""])[0] == pytest.approx(math.exp(-1))
    assert bleu(["a b"], [""]) == (0.0, 0.0, 0.0, 0.0)


def test_rouge_l_by_hand() -> None:
    pytest.importorskip("rouge_score", reason="needs the extra reports")
    # longest common subsequence "a c d": precision 3/4, recall 3/5
    assert rouge_l(["A b c, d e"], ["a c x d"]) == pytest.approx([2 * 3 / (4 + 5)])
    assert rouge_l(["a b", "a b"], ["", "a b"]) == [0.0, 1.0]


# ------------------------------------------------------------------------------------------------------ METEOR


def test_meteor_by_hand() -> None:
    pytest.importorskip("nltk", reason="needs the extra reports")
    # six equal words in one chunk
    assert meteor(["a b c d e f"], ["A b c d e f"]) == pytest.approx([1 - 0.5 / 6**3])
    # three of four words in one of two chunks: "a b" and "d"; precision 3/4, recall 3/5
    precision, recall = 3 / 4, 3 / 5
    fmean = precision * recall / (0.9 * precision + 0.1 * recall)
    assert meteor(["a b c d e"], ["a b x d"]) == pytest.approx([fmean * (1 - 0.5 * (2 / 3) ** 3)])


def test_meteor_matches_stems_and_no_synonyms() -> None:
    pytest.importorskip("nltk", reason="needs the extra reports")
    assert meteor(["inverted waves"], ["inverts wave"]) == pytest.approx([1 - 0.5 / 2**3])
    assert meteor(["big heart"], ["large"]) == [0.0]
    assert meteor(["a b"], [""]) == [0.0]


# ------------------------------------------------------------------------------------------------------ CIDEr-D


def plain_cider_d(reference: str, text: str, training: list[str]) -> float:
    """CIDEr-D by loops over every n-gram, as its equations are written."""
    total = 0.0
    for n in (1, 2, 3, 4):

        def grams(of: str, n: int = n) -> list[tuple[str, ...]]:
            tokens = words(of)
            return [tuple(tokens[k : k + n]) for k in range(len(tokens) - n + 1)]

        vocabulary = sorted(set(grams(reference)) | set(grams(text)))
        idf = [math.log(len(training) / max(1, sum(gram in grams(one) for one in training))) for gram in vocabulary]
        a = [grams(reference).count(gram) * weight for gram, weight in zip(vocabulary, idf)]
        b = [grams(text).count(gram) * weight for gram, weight in zip(vocabulary, idf)]
        norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
        if norms:
            total += sum(min(x, y) * x for x, y in zip(a, b)) / norms
    gap = len(words(reference)) - len(words(text))
    return 10 * math.exp(-(gap**2) / 72) * total / 4


def test_cider_d_is_that_of_the_plain_version() -> None:
    texts = [*TRAINING, LEFT, RIGHT, "ecg", "", "abnormal ecg. abnormal ecg. left left left"]
    metric = CiderD(TRAINING)
    for reference, text in itertools.product([text for text in texts if text], texts):
        assert metric.scores([reference], [text])[0] == pytest.approx(plain_cider_d(reference, text, TRAINING))


def test_cider_d_does_not_depend_on_the_test_set() -> None:
    metric = CiderD(TRAINING)
    assert metric.scores([LEFT, "normal ecg."], [RIGHT, "normal ecg."])[0] == metric.scores([LEFT], [RIGHT])[0]
    assert metric.scores([LEFT], [LEFT])[0] == pytest.approx(10)
    assert metric.scores([LEFT], [""]) == [0.0]


def test_cider_d_needs_training_reports() -> None:
    with pytest.raises(ReportScoreError, match="training split"):
        CiderD([])


# ------------------------------------------------------------------------------------------------------ all together


def test_word_overlap_is_high_for_a_wrong_side() -> None:
    pytest.importorskip("sacrebleu", reason="needs the extra reports")
    pytest.importorskip("rouge_score", reason="needs the extra reports")
    scores = score_texts([LEFT, LEFT], [RIGHT, RIGHT], TRAINING)
    assert scores.rouge_l > 0.8
    assert scores.meteor > 0.8
    assert scores.bleu[0] > 0.8
    assert (scores.n_reports, scores.n_empty, scores.n_training_reports) == (2, 0, 4)


def test_an_empty_report_counts() -> None:
    pytest.importorskip("sacrebleu", reason="needs the extra reports")
    whole, half = score_texts([LEFT], [LEFT], TRAINING), score_texts([LEFT, LEFT], [LEFT, " "], TRAINING)
    assert half.n_empty == 1
    for name in ("rouge_l", "meteor", "cider_d"):
        assert getattr(half, name) == pytest.approx(getattr(whole, name) / 2), name
    assert set(half.row()) >= {"BLEU-4", "METEOR (no WordNet)", "CIDEr-D"}
    assert half.to_json()["meteor_without_wordnet"] == half.meteor


@pytest.mark.parametrize(
    ("references", "generated", "message"),
    [
        (["a"], [], "1 references and 0 generated"),
        ([], [], "no report to score"),
        (["a", " "], ["a", "b"], "1 references are empty, first: number 1"),
    ],
)
def test_texts_that_do_not_pair_are_refused(references: list[str], generated: list[str], message: str) -> None:
    for metric in (bleu, rouge_l, meteor, CiderD(TRAINING).scores):
        with pytest.raises(ReportScoreError, match=message):
            metric(references, generated)


# ------------------------------------------------------------------------------------------------------ BERTScore


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory):
    import torch
    from transformers import BertConfig, BertModel

    from leadwise.nn import text

    folder = tmp_path_factory.mktemp("bert")
    tokenizer = text.train_tokenizer(TRAINING, 300)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def test_bert_score_by_hand(bert_folder) -> None:
    import torch
    from transformers import AutoModel

    from leadwise.nn import text

    model, tokenizer = AutoModel.from_pretrained(bert_folder).eval(), text.load_tokenizer(bert_folder)

    def vectors(one: str) -> np.ndarray:
        batch = tokenizer(one, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**batch, output_hidden_states=True).hidden_states[1][0].numpy()
        rows = [k for k, token in enumerate(batch["input_ids"][0].tolist()) if token not in tokenizer.all_special_ids]
        return hidden[rows] / np.linalg.norm(hidden[rows], axis=1, keepdims=True)

    a, b = vectors(LEFT), vectors(RIGHT)
    recall = np.mean([max(x @ y for y in b) for x in a])
    precision = np.mean([max(x @ y for x in a) for y in b])
    scores = bert_score([LEFT], [RIGHT], bert_folder, layer=1)
    assert scores.recall == pytest.approx(recall, abs=1e-5)
    assert scores.precision == pytest.approx(precision, abs=1e-5)
    assert scores.f1 == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-5)


def test_bert_score_counts_an_empty_report(bert_folder) -> None:
    scores = bert_score([LEFT, LEFT], [LEFT, ""], bert_folder, layer=2, batch_size=1)
    assert scores.f1 == pytest.approx(0.5, abs=1e-5)
    assert scores.to_json()["layer"] == 2


def test_bert_score_names_what_is_wrong(bert_folder, tmp_path) -> None:
    with pytest.raises(ReportScoreError, match="layers 0 to 2"):
        bert_score([LEFT], [LEFT], bert_folder, layer=3)
    with pytest.raises(ReportScoreError, match="folder of a saved model"):
        bert_score([LEFT], [LEFT], tmp_path / "absent", layer=1)


def test_bert_score_cuts_long_texts_at_the_length_of_the_model(bert_folder, tmp_path) -> None:
    import torch
    from transformers import RobertaConfig, RobertaModel

    from leadwise.nn import text

    tokenizer = text.load_tokenizer(bert_folder)
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=20, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(tmp_path)
    for folder in (bert_folder, tmp_path):
        assert bert_score([LEFT * 30], [LEFT * 30], folder, layer=1).f1 == pytest.approx(1.0, abs=1e-5)


def test_a_row_of_scores_has_bert_score_where_a_model_is_given(bert_folder, tmp_path) -> None:
    from leadwise.generate.bert_score import BertLayer
    from leadwise.generate.evaluate_writer import score_row

    given = ("w", [RIGHT, LEFT], [LEFT, LEFT], ["a", "b"], TRAINING)
    row = score_row(*given, BertLayer(bert_folder, 1))
    assert 0.5 < row.cells()["BERTScore (" + bert_folder.name + ", layer 1)"] < 1
    assert row.to_json()["bert_score"]["n_reports"] == 2
    assert "bert_score" not in score_row(*given).to_json()
    with pytest.raises(ReportScoreError, match="no model and tokenizer that transformers can load"):
        BertLayer(tmp_path, 1).check()
