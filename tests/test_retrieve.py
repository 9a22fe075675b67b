"""Retrieval against a slow plain version, its controls, the search, and what the verb shows and keeps to itself."""

import itertools
import json

import numpy as np
import pyarrow as pa
import pytest
import tomli_w
from conftest import REPORTS, config_table
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
from leadwise.pages.search import page


def slow(scores, right, k):
    """(recall@k, ranks) of each query, the mean over every order of the items that keeps higher scores first."""
    hits, ranks = [], []
    for query, row in enumerate(scores):
        orders = [
            order
            for order in itertools.permutations(range(len(row)))
            if all(row[a] >= row[b] for a, b in itertools.pairwise(order))
        ]
        places = [next(at for at, item in enumerate(order, 1) if item in right[query]) for order in orders]
        hits.append(np.mean([place <= k for place in places]))
        ranks.append(np.mean(places))
    return np.array(hits), np.array(ranks)


def test_places_agree_with_every_order_of_ties_tried_out():
    rng = np.random.default_rng(1)
    items = rng.integers(-1, 2, size=(6, 2)).astype(float)  # few directions: many ties
    items[(items == 0).all(axis=1)] = (1.0, 1.0)
    queries = rng.integers(-1, 2, size=(12, 2)).astype(float)
    queries[(queries == 0).all(axis=1)] = (1.0, 0.0)
    right = [sorted(rng.choice(6, size=rng.integers(1, 4), replace=False)) for _ in queries]
    pairs = np.array([(query, item) for query, few in enumerate(right) for item in few])
    (places,) = rank_matches(queries, items, [(pairs[:, 0], pairs[:, 1])])
    unit = [array / np.linalg.norm(array, axis=1, keepdims=True) for array in (queries, items)]
    scores = np.round(unit[0] @ unit[1].T, 9)
    assert (places.right + places.wrong > 1).sum() >= 4  # there are ties to be fair about
    for k in (1, 2, 3, 6):
        hits, ranks = slow(scores, right, k)
        np.testing.assert_allclose(places.hits(k), hits, atol=1e-12)
        np.testing.assert_allclose(places.ranks(), ranks, atol=1e-12)


def test_many_queries_are_cut_into_parts_without_a_seam():
    rng = np.random.default_rng(2)
    queries, items = rng.normal(size=(1100, 3)), rng.normal(size=(40, 3))
    truth = np.arange(1100), rng.integers(40, size=1100)
    (places,) = rank_matches(queries, items, [truth])
    unit = [array / np.linalg.norm(array, axis=1, keepdims=True) for array in (queries, items)]
    scores = np.round(unit[0] @ unit[1].T, 9)
    np.testing.assert_array_equal(places.above, (scores > scores[truth][:, None]).sum(axis=1))
    np.testing.assert_allclose(places.ranks(), places.above + 1)


def data(n=60, n_reports=12, seed=0, width=16):
    rng = np.random.default_rng(seed)
    report_of = np.concatenate([np.arange(n_reports), rng.integers(n_reports, size=n - n_reports)])
    texts = rng.normal(size=(n_reports, width))
    return texts[report_of], texts, report_of, np.array([f"p{at // 2}" for at in range(n)])


def test_a_perfect_encoder_finds_all_and_a_collapsed_one_what_chance_finds():
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


def test_identical_reports_are_one_whichever_record_carries_them():
    """Which of two ECGs with the same report is nearer to it does not matter; that one is, does."""
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


def test_the_shuffled_control_shows_what_naming_the_commonest_report_finds():
    rng = np.random.default_rng(3)
    report_of = np.concatenate([np.zeros(80, dtype=int), np.arange(1, 21)])
    texts = np.eye(21)
    ecg = np.tile(texts[0], (100, 1)) + 0.01 * rng.normal(size=(100, 21))  # always says report 0
    side = score_directions((ecg, texts), (ecg, texts), report_of, np.arange(100).astype(str))["ecg_to_report"]
    assert side.recall[1] == pytest.approx(0.8)
    assert side.shuffled_recall[1] == pytest.approx(0.8, abs=0.02)
    assert side.chance_recall[1] == pytest.approx(1 / 21)


def test_intervals_resample_patients_not_records():
    """Fifty copies of each patient's ECG add nothing: the interval is as wide as with one."""
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


def test_strangers_are_other_peoples_records_each_once():
    of_record = np.array([0, 0, 0, 1, 1, 2, 3, 3])
    for seed in range(20):
        partner = permute_across_patients(of_record, np.random.default_rng(seed))
        assert sorted(partner) == list(range(8))
        assert (of_record[partner] != of_record).all()


def test_places_of_nothing_left():
    places = MatchRanks(np.array([3]), np.array([1]), np.array([0]))
    assert [places.hits(k)[0] for k in (1, 3, 4)] == [0.0, 0.0, 1.0]


class ReadCohort(PlantedCohort):
    """The planted cohort with a report that names what was planted; one record in twenty has none."""

    def __init__(self, **asked):
        super().__init__(**asked)
        said = []
        for row, planted in enumerate(self.truth):
            words = [f"Possible {word}" for word, there in zip(WORDS, planted) if there]
            said.append("" if row % 20 == 19 else "; ".join(words or ["nothing of note"]) + (" **" if row % 2 else ""))
        self.reports = TextColumn(pa.chunked_array([said]))

    def signal(self, row):
        return self.steps[row].T.astype(np.float32) / 1000, 100.0


def test_a_seeing_run_retrieves_and_its_blind_twin_does_not():
    report = run_retrieval(PlantedRun(), ReadCohort())
    told = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert told["command"] == "retrieve"
    assert (report.n_records, report.n_without_report) == (36, 12)
    assert report.n_reports <= 16  # subsets of four words, whatever marks stood around them
    for side in report.directions.values():
        assert side.recall[5] > 0.6
        assert side.recall[5] > side.untrained_recall[5] + 0.2
        assert side.recall[5] > side.shuffled_interval[5][1]
        assert side.median_rank < side.chance_median_rank
    assert [row["features"] for row in report.rows()] == ["trained", "untrained", "shuffled pairs", "chance"] * 2
    assert "Possible" not in json.dumps(told)


def test_what_cannot_be_scored_or_searched_is_told():
    class Wordless(SeeingMethod):
        embeds_text = False

    run = PlantedRun()
    with pytest.raises(RetrievalError, match="0 distinct reports"):
        run_retrieval(run, PlantedCohort())
    with pytest.raises(SearchError, match="the text says nothing"):
        search(run, ReadCohort(), " ;.")
    run.method = Wordless()
    with pytest.raises(NoTextEncoderError, match="learnt from ECGs alone"):
        run_retrieval(run, ReadCohort())
    with pytest.raises(NoTextEncoderError, match="learnt from ECGs alone"):
        search(run, ReadCohort(), "alpha.")


class TaskCohort(ReadCohort):
    """Only the first 200 recordings are in the task."""

    def rows(self, split=None, task=None, min_report_words=0):
        rows = super().rows(split, task)
        return rows[rows < 200] if task else rows


def test_a_text_finds_what_it_names_nearest_first():
    cohort = TaskCohort()
    found = search(PlantedRun(), cohort, "Possible ALPHA", top=8)
    assert len(found) == 8
    assert [one.cosine for one in found] == sorted((one.cosine for one in found), reverse=True)
    assert all(cohort.truth[one.row, 0] for one in found)
    assert [one.record for one in found] == cohort.records.take([one.row for one in found])
    inside = [one for one in found if one.row < 200]
    assert inside
    for one in inside:
        assert one.labels == {"finding": tuple(word for word, held in zip(WORDS, cohort.truth[one.row]) if held)}
    assert all(one.labels == {} for one in found if one.row >= 200)
    assert all(one.split == "val" for one in search(PlantedRun(), cohort, "beta", split="val", top=50))


def test_the_page_shows_reports_only_when_asked():
    cohort, run = TaskCohort(), PlantedRun()
    found = search(run, cohort, "possible alpha <b>", top=2)
    assert len(rows(found)) == 2
    shy, open_ = (page(found, cohort, "alpha <b>", run, show).html() for show in (False, True))
    for html in (shy, open_):
        assert html.count("data:image/png;base64,") == 2
        assert "alpha &lt;b&gt;" in html
        assert found[0].record in html
    said = cohort.reports[found[0].row]
    assert said.startswith("Possible")
    assert said not in shy
    assert said in open_


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_verb(cohort_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(tomli_w.dumps(config_table(cohort_folder, steps=2)))
    assert call("pretrain", tmp_path / "tiny.toml", "-o", tmp_path / "run").exit_code == 0
    scored = call("retrieve", tmp_path / "run", cohort_folder, "--split", "train", "--json", tmp_path / "r.json")
    assert scored.exit_code == 0, scored.output
    told = json.loads((tmp_path / "r.json").read_text())
    assert told["n_reports"] == len(REPORTS)
    assert told["ecg_to_report"]["recall"]["5"] == 1.0  # of four
    words = ("retrieve", tmp_path / "run", cohort_folder, "atrial fibrillation", "--top", 2)
    found = call(*words, "-o", tmp_path / "page.html", "--json", tmp_path / "s.json")
    assert found.exit_code == 0, found.output
    assert len(json.loads((tmp_path / "s.json").read_text())["found"]) == 2
    assert not (tmp_path / "found.html").exists()
    unasked = call(*words)
    assert unasked.exit_code == 0, unasked.output
    assert (tmp_path / "found.html").read_text() == (tmp_path / "page.html").read_text()
    seen = unasked.output + scored.output + found.output + (tmp_path / "page.html").read_text()
    seen += (tmp_path / "r.json").read_text() + (tmp_path / "s.json").read_text()
    assert not any(report in seen for report in REPORTS)


def test_options_that_do_not_go_together_are_told_before_anything_is_read(tmp_path):
    words = ("retrieve", tmp_path / "run", tmp_path / "cohort")
    for wrong, said in (
        (("-o", tmp_path / "x.html"), "go with a text"),
        (("--show-reports",), "go with a text"),
        (("a text", "-o", tmp_path / "x.pdf"), "ends in .html"),
    ):
        done = call(*words, *wrong)
        assert done.exit_code == 2
        assert said in " ".join(done.output.replace("│", " ").split())
