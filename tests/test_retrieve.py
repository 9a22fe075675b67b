"""Retrieval against a slow plain version, its controls, the search, and the reports that the command may print."""

import json

import numpy as np
import plain_metrics
import pyarrow as pa
import pytest
import tomli_w
from conftest import REPORTS, config_table
from page_order import assert_pictures_first
from planted import WORDS, PlantedCohort, PlantedRun, SeeingMethod
from typer.testing import CliRunner

from leadwise.cli import app
from leadwise.data.cohort.cohort import TextColumn
from leadwise.evaluate.metrics.bootstrap import permute_across_patients
from leadwise.evaluate.retrieve import (
    KS,
    MatchRanks,
    RetrievalError,
    rank_matches,
    run_retrieval,
    score_directions,
)
from leadwise.evaluate.search import SearchError, rows, search
from leadwise.evaluate.text_embeddings import NoTextEncoderError
from leadwise.nn.text import train_tokenizer
from leadwise.pages.search import build_page


def test_ranks_agree_with_all_orders_of_ties():
    rng = np.random.default_rng(1)
    items = rng.integers(-1, 2, size=(6, 2)).astype(float)  # few directions: many ties
    items[(items == 0).all(axis=1)] = (1.0, 1.0)
    queries = rng.integers(-1, 2, size=(12, 2)).astype(float)
    queries[(queries == 0).all(axis=1)] = (1.0, 0.0)
    right = [sorted(rng.choice(6, size=rng.integers(1, 4), replace=False)) for _ in queries]
    pairs = np.array([(query, item) for query, few in enumerate(right) for item in few])
    (ranks,) = rank_matches(queries, items, [(pairs[:, 0], pairs[:, 1])])
    unit = [array / np.linalg.norm(array, axis=1, keepdims=True) for array in (queries, items)]
    scores = np.round(unit[0] @ unit[1].T, 9)
    assert (ranks.n_correct + ranks.n_wrong > 1).sum() >= 4  # there are ties
    for k in (1, 2, 3, 6):
        expected_hits, expected_ranks = plain_metrics.all_orders(scores, right, k)
        np.testing.assert_allclose(ranks.hits(k), expected_hits, atol=1e-12)
        np.testing.assert_allclose(ranks.ranks(), expected_ranks, atol=1e-12)


def test_blocks_of_queries_are_ranked_like_all_queries():
    rng = np.random.default_rng(2)
    queries, items = rng.normal(size=(1100, 3)), rng.normal(size=(40, 3))
    truth = np.arange(1100), rng.integers(40, size=1100)
    (ranks,) = rank_matches(queries, items, [truth])
    unit = [array / np.linalg.norm(array, axis=1, keepdims=True) for array in (queries, items)]
    scores = np.round(unit[0] @ unit[1].T, 9)
    np.testing.assert_array_equal(ranks.n_above, (scores > scores[truth][:, None]).sum(axis=1))
    np.testing.assert_allclose(ranks.ranks(), ranks.n_above + 1)


def data(n=60, n_reports=12, seed=0, width=16):
    rng = np.random.default_rng(seed)
    report_of = np.concatenate([np.arange(n_reports), rng.integers(n_reports, size=n - n_reports)])
    texts = rng.normal(size=(n_reports, width))
    return texts[report_of], texts, report_of, np.array([f"p{at // 2}" for at in range(n)])


def test_a_perfect_encoder_scores_one_and_a_collapsed_one_chance():
    ecg, texts, report_of, patients = data()
    flat = np.ones_like(ecg), np.ones_like(texts)
    for side in score_directions((ecg, texts), flat, report_of, patients).values():
        assert side.recall == {1: 1.0, 5: 1.0, 10: 1.0}
        assert side.median_rank == 1.0
        assert side.recall_interval[1] == pytest.approx((1.0, 1.0))
        for k in KS:
            assert side.untrained_recall[k] == pytest.approx(side.chance_recall[k])
        assert side.untrained_median_rank == pytest.approx(side.chance_median_rank)
        assert side.shuffled_recall[1] < 0.4


def test_identical_reports_count_as_one():
    """It does not matter which of two ECGs with the same report is nearer to it."""
    texts = np.eye(3)
    ecg = np.array([[1, 0.1, 0], [0.2, 1, 0], [0.9, 0, 0.3], [0, 0, 1.0]])
    report_of = np.array([0, 1, 0, 2])
    sides = score_directions((ecg, texts), (ecg, texts), report_of, np.array(list("abcd")))
    assert (sides["ecg_to_report"].n_queries, sides["ecg_to_report"].n_items) == (4, 3)
    assert (sides["report_to_ecg"].n_queries, sides["report_to_ecg"].n_items) == (3, 4)
    assert sides["report_to_ecg"].recall[1] == 1.0
    # of 4 ECGs in any order the first has report 0 half of the time, report 1 or 2 a quarter
    assert sides["report_to_ecg"].chance_recall[1] == pytest.approx((1 / 2 + 1 / 4 + 1 / 4) / 3)
    assert sides["ecg_to_report"].chance_recall[1] == pytest.approx(1 / 3)


def test_the_shuffled_control_measures_always_ranking_the_commonest_report_first():
    rng = np.random.default_rng(3)
    report_of = np.concatenate([np.zeros(80, dtype=int), np.arange(1, 21)])
    texts = np.eye(21)
    ecg = np.tile(texts[0], (100, 1)) + 0.01 * rng.normal(size=(100, 21))  # always nearest to report 0
    side = score_directions((ecg, texts), (ecg, texts), report_of, np.arange(100).astype(str))["ecg_to_report"]
    assert side.recall[1] == pytest.approx(0.8)
    assert side.shuffled_recall[1] == pytest.approx(0.8, abs=0.02)
    assert side.chance_recall[1] == pytest.approx(1 / 21)


def test_intervals_resample_patients_not_records():
    """Twenty copies of each patient's ECG add no information: the interval is as wide as with one."""
    ecg, texts, report_of, _ = data(40, 10, seed=5)
    noisy = ecg + 1.2 * np.random.default_rng(5).normal(size=ecg.shape)
    patients = np.arange(40).astype(str)
    one = score_directions((noisy, texts), (noisy, texts), report_of, patients)["ecg_to_report"]
    many = score_directions(
        (np.repeat(noisy, 20, axis=0), texts),
        (noisy.repeat(20, axis=0), texts),
        report_of.repeat(20),
        patients.repeat(20),
    )["ecg_to_report"]
    assert 0.2 < one.recall[1] < 0.95
    assert one.recall[1] == pytest.approx(many.recall[1])
    widths = [side.recall_interval[1][1] - side.recall_interval[1][0] for side in (one, many)]
    assert widths[0] > 0.1
    assert widths[1] == pytest.approx(widths[0], rel=0.15)


def test_permutation_across_patients_uses_each_record_of_other_patients_once():
    of_record = np.array([0, 0, 0, 1, 1, 2, 3, 3])
    for seed in range(20):
        partner = permute_across_patients(of_record, np.random.default_rng(seed))
        assert sorted(partner) == list(range(8))
        assert (of_record[partner] != of_record).all()


def test_ranks_without_wrong_ties():
    ranks = MatchRanks(np.array([3]), np.array([1]), np.array([0]))
    assert [ranks.hits(k)[0] for k in (1, 3, 4)] == [0.0, 0.0, 1.0]


class ReadCohort(PlantedCohort):
    """The planted cohort with a report that names the planted classes; one record in twenty has no report."""

    def __init__(self, **options):
        super().__init__(**options)
        texts = []
        for row, planted in enumerate(self.truth):
            words = [f"Possible {word}" for word, present in zip(WORDS, planted) if present]
            texts.append("" if row % 20 == 19 else "; ".join(words or ["nothing of note"]) + (" **" if row % 2 else ""))
        self.reports = TextColumn(pa.chunked_array([texts]))

    def signal(self, row):
        return self.steps[row].T.astype(np.float32) / 1000, 100.0


def test_a_trained_run_retrieves_and_an_untrained_one_does_not():
    report = run_retrieval(PlantedRun(), ReadCohort())
    result = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert result["command"] == "retrieve"
    assert (report.n_records, report.n_without_report) == (36, 12)
    assert report.n_reports <= 16  # subsets of four words, without the marks around them
    for side in report.directions.values():
        assert side.recall[5] > 0.6
        assert side.recall[5] > side.untrained_recall[5] + 0.2
        assert side.recall[5] > side.shuffled_interval[5][1]
        assert side.median_rank < side.chance_median_rank
    assert [row["features"] for row in report.rows()] == ["trained", "untrained", "shuffled pairs", "chance"] * 2
    assert "Possible" not in json.dumps(result)


def test_unusable_runs_cohorts_and_texts_are_refused():
    class NoTextEncoder(SeeingMethod):
        embeds_text = False

    run = PlantedRun()
    with pytest.raises(RetrievalError, match="0 distinct reports"):
        run_retrieval(run, PlantedCohort())
    with pytest.raises(SearchError, match="is empty after cleaning"):
        search(run, ReadCohort(), " ;.")
    run.method = NoTextEncoder()
    with pytest.raises(NoTextEncoderError, match="trained on ECGs alone"):
        run_retrieval(run, ReadCohort())
    with pytest.raises(NoTextEncoderError, match="trained on ECGs alone"):
        search(run, ReadCohort(), "alpha.")


class TaskCohort(ReadCohort):
    """Only the first 200 recordings are labelled for the task."""

    def rows(self, split=None, task=None, min_report_words=0):
        rows = super().rows(split, task)
        return rows[rows < 200] if task else rows


def test_search_returns_the_recordings_of_the_text_nearest_first():
    cohort = TaskCohort()
    hits = search(PlantedRun(), cohort, "Possible ALPHA", top=8).hits
    assert len(hits) == 8
    assert [hit.cosine for hit in hits] == sorted((hit.cosine for hit in hits), reverse=True)
    assert all(cohort.truth[hit.row, 0] for hit in hits)
    assert [hit.record for hit in hits] == cohort.records.take([hit.row for hit in hits])
    inside = [hit for hit in hits if hit.row < 200]
    assert inside
    for hit in inside:
        assert hit.labels == {"finding": tuple(word for word, held in zip(WORDS, cohort.truth[hit.row]) if held)}
    assert all(hit.labels == {} for hit in hits if hit.row >= 200)
    assert all(hit.split == "val" for hit in search(PlantedRun(), cohort, "beta", split="val", top=50).hits)


def test_the_page_contains_reports_only_on_request():
    cohort, run = TaskCohort(), PlantedRun()
    result = search(run, cohort, "possible alpha <b>", top=2)
    hits = result.hits
    assert len(rows(hits)) == 2
    assert "rare or absent" not in build_page(result, cohort, run).html()
    without, with_reports = (build_page(result, cohort, run, show).html() for show in (False, True))
    assert_pictures_first(with_reports)
    for html in (without, with_reports):
        assert html.count("data:image/png;base64,") == 2
        assert "alpha &lt;b&gt;" in html
        assert hits[0].record in html
    assert "<figcaption>" not in without  # the title is in the picture
    report = cohort.reports[hits[0].row]
    assert report.startswith("Possible")
    assert report not in without
    assert report in with_reports


def test_words_that_the_run_does_not_know_are_named():
    cohort, run = TaskCohort(), PlantedRun()
    run.method.tokenizer = train_tokenizer(["alpha wave. beta wave."] * 3, 1000)
    result = search(run, cohort, "alpha zebra.", top=2)
    assert result.unknown_words == ("zebra",)
    assert result.to_json()["unknown_words"] == ["zebra"]
    assert (
        "&#x27;zebra&#x27;; a score that depends on these words means little" in build_page(result, cohort, run).html()
    )
    assert search(run, cohort, "alpha.", top=2).unknown_words == ()
    assert search(run, cohort, "alpha.", top=2).remark == ""


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.slow
def test_the_command(cohort_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(tomli_w.dumps(config_table(cohort_folder, steps=2)))
    assert call("pretrain", tmp_path / "tiny.toml", "-o", tmp_path / "run").exit_code == 0
    scored = call("retrieve", tmp_path / "run", cohort_folder, "--split", "train", "--json", tmp_path / "r.json")
    assert scored.exit_code == 0, scored.output
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["n_reports"] == len(REPORTS)
    assert result["ecg_to_report"]["recall"]["5"] == 1.0  # of four
    words = ("retrieve", tmp_path / "run", cohort_folder, "atrial fibrillation", "--top", 2)
    searched = call(*words, "-o", tmp_path / "page.html", "--json", tmp_path / "s.json")
    assert searched.exit_code == 0, searched.output
    assert len(json.loads((tmp_path / "s.json").read_text())["found"]) == 2
    assert not (tmp_path / "found.html").exists()
    default = call(*words)
    assert default.exit_code == 0, default.output
    assert (tmp_path / "found.html").read_text() == (tmp_path / "page.html").read_text()
    printed = default.output + scored.output + searched.output + (tmp_path / "page.html").read_text()
    printed += (tmp_path / "r.json").read_text() + (tmp_path / "s.json").read_text()
    assert not any(report in printed for report in REPORTS)


def test_incompatible_options_are_refused_before_anything_is_read(tmp_path):
    words = ("retrieve", tmp_path / "run", tmp_path / "cohort")
    for wrong, message in (
        (("-o", tmp_path / "x.html"), "need a text"),
        (("--show-reports",), "need a text"),
        (("a text", "-o", tmp_path / "x.pdf"), "must end in .html"),
    ):
        done = call(*words, *wrong)
        assert done.exit_code == 2
        assert message in " ".join(done.output.replace("│", " ").split())
