"""Shared and specific parts whose relation is known, measured."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPORTS, SIGNAL, TINY, config_table
from test_methods import build, make_batch
from torch import nn
from torch.nn import functional as F

from leadwise import run as runs
from leadwise.batch import Signal
from leadwise.config import Config, typed
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.card import acquisition, disentanglement
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn.losses import multimodal


def parts(n: int = 400, width: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two independent embeddings."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, width)), rng.normal(size=(n, width))


def test_a_right_angle_alone_is_not_disentanglement() -> None:
    """A specific part that is the shared one rotated has cosine 0 and contains no information of its own."""
    shared, other = parts()
    turned = shared[:, [1, 0, 3, 2, 5, 4, 7, 6]] * np.array([1, -1] * 4)
    train, test = np.arange(300), np.arange(300, 400)
    overlap = disentanglement.PartOverlap.of(shared, turned, train, test, np.arange(len(shared)))
    assert overlap.cosine < 1e-9
    assert overlap.specific_from_shared > 0.99
    free = disentanglement.PartOverlap.of(shared, other, train, test, np.arange(len(shared)))
    assert free.specific_from_shared < 0.1
    assert free.by_chance == pytest.approx(np.sqrt(2 / (8 * np.pi)))


def test_cosine_of_random_vectors_equals_the_chance_level() -> None:
    one, other = parts(4000, 128)
    assert disentanglement.mean_abs_cosine(one, other) == pytest.approx(np.sqrt(2 / (128 * np.pi)), rel=0.03)
    assert disentanglement.mean_abs_cosine(one, -3 * one) == pytest.approx(1.0)


def test_effective_rank_is_the_losses_one() -> None:
    one = parts()[0] @ np.diag([1, 1, 1, 0.1, 0, 0, 0, 0])
    assert disentanglement.effective_rank(one) == pytest.approx(
        multimodal.effective_rank(torch.from_numpy(one)), rel=1e-4
    )
    assert 3 < disentanglement.effective_rank(one) < 4


def test_a_linear_map_finds_a_linear_relation_and_none_where_there_is_none() -> None:
    x, noise = parts()
    weights = np.random.default_rng(1).normal(size=(8, 5))
    result = disentanglement.LinearMap.fit(x[:300], x[:300] @ weights + 2.0, np.arange(300))
    np.testing.assert_allclose(result(x[300:]), x[300:] @ weights + 2.0, atol=0.01)
    idle = disentanglement.LinearMap.fit(x[:300], noise[:300], np.arange(300))
    assert disentanglement.explained_variance(idle(x[300:]), noise[300:], noise[:300].mean(0)) < 0.05


def test_a_linear_map_depends_neither_on_the_order_of_rows_nor_on_copies_of_a_patient() -> None:
    rng = np.random.default_rng(3)
    x, sites = rng.normal(size=(60, 12)), np.repeat([0.0, 1.0], [48, 12])  # the last fifth is from another site
    y = x[:, :1] + 6 * sites[:, None] * rng.normal(size=(60, 1)) + rng.normal(size=(60, 1))
    patients = np.array([f"p{i // 2}" for i in range(60)])
    base = disentanglement.LinearMap.fit(x, y, patients)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(60)
        other = disentanglement.LinearMap.fit(x[order], y[order], patients[order])
        np.testing.assert_allclose(other.weights, base.weights, rtol=1e-9)
    # two recordings of each patient, equal: a map that learns each patient by heart must not win
    source, target = rng.normal(size=(30, 40)), rng.normal(size=(30, 2))
    doubled = disentanglement.LinearMap.fit(np.repeat(source, 2, 0), np.repeat(target, 2, 0), patients)
    assert np.abs(doubled(source) - target.mean(axis=0)).mean() < 0.5 * np.abs(target - target.mean(axis=0)).mean()


def test_a_linear_map_of_one_patient_has_the_strongest_penalty() -> None:
    x, noise = parts()
    one = disentanglement.LinearMap.fit(x[:20], noise[:20], np.zeros(20))
    assert np.abs(one(x[:20]) - noise[:20].mean(axis=0)).max() < 0.01


def test_recall_against_a_slow_count() -> None:
    rng = np.random.default_rng(0)
    gallery, own = rng.normal(size=(30, 6)), rng.integers(30, size=50)
    queries = gallery[own] + rng.normal(size=(50, 6))
    result = disentanglement.measure_recall("w", queries, gallery, own)
    ranks = []
    for query, at in zip(queries, own):
        cosines = [query @ g / np.linalg.norm(query) / np.linalg.norm(g) for g in gallery]
        ranks.append(1 + sum(c > cosines[at] for c in cosines))
    assert result.recall == {k: np.mean(np.array(ranks) <= k) for k in (1, 5, 10)}
    assert result.median_rank == np.median(ranks)
    same = disentanglement.measure_recall("w", queries, np.ones((30, 6)), own)
    assert same.recall[10] == pytest.approx(10 / 30)  # all alike: the chance level
    assert same.median_rank == 15.5


def test_other_patients_are_a_permutation_across_patients() -> None:
    patients = ["a", "b", "a", "c", "c", "a", "d"]
    partner = disentanglement.other_patients(patients)
    assert sorted(partner) == list(range(7))
    assert all(patients[i] != patients[j] for i, j in enumerate(partner))
    assert disentanglement.other_patients(["a", "a", "b"]) is None


class Split(PretrainingMethod):
    """Shared: the heart rate, which reports mention; specific: the amplitude in each lead, which they do not mention."""

    embeds_text = True
    parts = ("backbone", "shared", "specific", "both")

    def __init__(self, split: bool = True) -> None:
        super().__init__(MethodConfig(), SIGNAL)
        self.weight = nn.Parameter(torch.zeros(1))
        self.split = split

    def embed_ecg(self, batch, part: str = "backbone") -> torch.Tensor:
        spectrum = torch.fft.rfft(batch.ecg.mean(1))[:, 2:14].abs()
        size = batch.ecg.amax(-1)
        shared, specific = F.normalize(spectrum, dim=-1), size if self.split else spectrum.flip(-1)
        whole = torch.cat([shared, specific], dim=-1)
        return {"backbone": whole, "shared": shared, "specific": specific, "both": whole}[part]

    def embed_text(self, texts: list[str]) -> torch.Tensor:
        kind = [next((k for k, r in enumerate(REPORTS) if r.split(".")[0] in text), 0) for text in texts]
        return F.normalize(torch.tensor([[float(column == 3 * k) for column in range(12)] for k in kind]), dim=-1)


def split_run(cohort_folder, method) -> runs.Run:
    return runs.Run(typed(Config, config_table(cohort_folder)), method)


def test_exchanging_a_specific_part_without_report_information_does_not_lower_recall(cohort_folder) -> None:
    cohort = Cohort.open(cohort_folder)
    result = disentanglement.measure_disentanglement(split_run(cohort_folder, Split()), cohort, "own")
    assert set(result.probes) == {"backbone", "shared", "specific", "both"}
    above, (low, _) = disentanglement.probe_gain(result, "shared", "specific")
    assert above > 0.2
    assert low > 0
    by_way = {one.query: one.recall for one in result.retrieval}
    assert by_way["linear map of shared"][1] > by_way["linear map of specific"][1]
    assert by_way["... shared part of another patient"][1] < by_way["... specific part of another patient"][1]
    facts = result.acquisition
    assert set(facts["shared"]) == set(acquisition.FACTS)
    assert (
        facts["specific"]["size"] > 0.9 > facts["shared"]["size"] + 0.3
    )  # its specific part is the largest sample of each lead
    assert result.width == {"backbone": 24, "shared": 12, "specific": 12, "both": 24}
    twin = disentanglement.measure_disentanglement(split_run(cohort_folder, Split(split=False)), cohort, "own")
    assert twin.overlap.specific_from_shared > 0.8 > result.overlap.specific_from_shared
    json.dumps(result.to_json(), allow_nan=False)


def test_a_method_without_text_or_specific_part_is_measured_on_its_parts(cohort_folder) -> None:
    class Plain(Split):
        parts = ("backbone",)
        embed_text = property()  # as if it did not exist

    result = disentanglement.measure_disentanglement(
        split_run(cohort_folder, Plain()), Cohort.open(cohort_folder), "own", max_train=30
    )
    assert set(result.probes) == {"backbone"}
    assert result.overlap is None
    assert result.retrieval == []
    assert result.reconstruction == {}


def test_settings_without_a_specific_head_have_no_specific_part(cohort_folder) -> None:
    table = config_table(cohort_folder)
    table["method"] = {**table["method"], "w_orth": 0.0}
    run = runs.create(typed(Config, table), REPORTS)
    result = disentanglement.measure_disentanglement(run, Cohort.open(cohort_folder), "own")
    assert set(result.probes) == {"backbone", "shared"}
    assert result.retrieval[0].n_reports > 1


def test_a_decoder_that_is_given_the_specific_part_draws_otherwise_with_another_s() -> None:
    method = build("cg_dmer", specific_task="recon").eval()
    batch = make_batch(4)
    drawn = {}
    for name, of in (("own", None), ("same", torch.arange(4)), ("other", torch.tensor([1, 2, 3, 0]))):
        torch.manual_seed(0)
        drawn[name], hidden = method.reconstruct(batch, specific_of=of)
    assert method.decodes_specific
    assert torch.equal(drawn["own"], drawn["same"])
    assert not torch.allclose(drawn["own"][hidden], drawn["other"][hidden], atol=1e-6)
    assert not build("cg_dmer").decodes_specific


def test_reconstruction_errors_are_measured_where_the_decoder_uses_the_part(cohort_folder) -> None:
    table = config_table(cohort_folder)
    table["method"] = {"name": "cg_dmer", **TINY["cg_dmer"], "specific_task": "recon"}
    run = runs.create(typed(Config, table), REPORTS)
    cohort = Cohort.open(cohort_folder)
    result = disentanglement.reconstruction_errors(run, cohort, cohort.rows("test"))
    assert set(result) == {"own", "of another patient"}
    assert all(0 < error < 100 for error in result.values())
    assert result["own"] != result["of another patient"]


def pulses(noise_mv: float, wander_mv: float, size_mv: float, first_s: float) -> torch.Tensor:
    """One ECG (12, 1000) at 100 Hz: a pulse each second, white noise, and a slow sine."""
    t = np.arange(1000) / 100
    beat = size_mv * np.exp(-((((t - first_s + 0.5) % 1) - 0.5) ** 2) / (2 * 0.03**2))
    noise = noise_mv * np.random.default_rng(0).standard_normal((12, 1000))
    return torch.tensor(beat + wander_mv * np.sin(2 * np.pi * 0.3 * t) + noise, dtype=torch.float32)


def test_facts_of_the_acquisition_follow_what_was_added() -> None:
    changed = {
        "noise": pulses(0.04, 0.1, 1.0, 0.2),
        "baseline wander": pulses(0.02, 0.4, 1.0, 0.2),
        "size": pulses(0.02, 0.1, 3.0, 0.2),
        "position of the first beat": pulses(0.02, 0.1, 1.0, 0.7),
    }
    ecg = torch.stack([pulses(0.02, 0.1, 1.0, 0.2), *changed.values()])
    batch = dataclasses.replace(make_batch(len(ecg)), ecg=ecg, observed=torch.ones_like(ecg, dtype=torch.bool))

    class Fixed:
        signal = Signal(rate_hz=100, duration_s=10.0)

        def batches(self, size: int) -> list[Any]:
            return [batch]

    facts = acquisition.acquisition_facts(Fixed())
    for row, fact in enumerate(changed, start=1):
        moved = {name: float(np.abs(values[row] - values[0]).max()) for name, values in facts.items()}
        assert max(moved, key=moved.get) == fact, moved
    # samples that are not observed have no influence on sizes and spreads
    half = ecg.clone()
    half[:, :, 500:] = 7.0
    batch = dataclasses.replace(batch, ecg=half, observed=(torch.arange(1000) < 500).expand_as(ecg))
    short = acquisition.acquisition_facts(Fixed())
    for fact in ("noise", "size"):
        np.testing.assert_allclose(short[fact], facts[fact], atol=0.1)
    assert facts["noise"][1, 0] - facts["noise"][0, 0] == pytest.approx(np.log(2), abs=0.1)
    assert facts["position of the first beat"][1] == pytest.approx(facts["position of the first beat"][0], abs=0.2)
    turned = facts["position of the first beat"][4] @ facts["position of the first beat"][0]
    assert turned == pytest.approx(-1, abs=0.1)  # half a beat later
