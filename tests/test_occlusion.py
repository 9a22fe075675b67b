"""Occlusion maps: a finding planted in one lead and one time window has its largest drop there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted import SIGNAL, PlantedCohort, PlantedRun
from torch import Tensor, nn

from leadwise.batch import LEADS, Batch
from leadwise.config import Config
from leadwise.evaluate.card import occlusion
from leadwise.evaluate.classifiers import PROBE, Classifier
from leadwise.evaluate.embed import EmbedError
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.pictures import heat, ink, paper


class Watching(PretrainingMethod):
    """Embeds the mean absolute value of lead V2 between 0.8 s and 1.2 s minus that of lead II, over observed samples."""

    def __init__(self) -> None:
        super().__init__(MethodConfig(), SIGNAL)
        self.weight = nn.Parameter(torch.ones(1))

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        assert not torch.is_grad_enabled()
        means = (batch.ecg.abs() * batch.observed)[:, :, 80:120].mean(-1)
        return (means[:, [LEADS.index("V2")]] - means[:, [LEADS.index("II")]]) * self.weight


def watching(n_patches: int | None = None) -> PlantedRun:
    run = PlantedRun()
    run.method = Watching()
    run.config = Config(signal=SIGNAL, method={"name": "watching"} | ({"n_patches": n_patches} if n_patches else {}))
    return run


READER = Classifier(PROBE, "backbone", ("other", "planted"), lambda features: np.hstack([-features, features]), "logit")


def test_the_largest_drop_is_in_the_planted_lead_and_window() -> None:
    result = occlusion.occlude(watching(), PlantedCohort(), 0, READER, "planted")
    assert result.drop.shape == (12, 5)  # 2 s in windows of 0.4 s
    v2, two = LEADS.index("V2"), LEADS.index("II")
    assert np.unravel_index(result.drop.argmax(), result.drop.shape) == (v2, 2)
    assert np.unravel_index(result.drop.argmin(), result.drop.shape) == (two, 2)
    rest = result.drop.copy()
    rest[[v2, two], 2] = 0
    assert not rest.any()
    assert result.without_lead[v2] == pytest.approx(result.drop[v2, 2])
    assert result.without_top > abs(result.without_random)
    samples = result.heat(SIGNAL.n_samples, SIGNAL.rate_hz)
    assert samples.shape == (12, 200)
    assert np.flatnonzero(samples[v2]).tolist() == list(range(80, 120))


def test_windows_are_whole_patches_if_the_run_has_patches() -> None:
    assert occlusion.window_s(watching()) == 0.4
    assert occlusion.window_s(watching(n_patches=8)) == 0.5  # 0.25 s each
    assert occlusion.window_s(watching(n_patches=2)) == 1.0
    result = occlusion.occlude(watching(n_patches=8), PlantedCohort(), 0, READER, "planted")
    assert result.drop.shape == (12, 4)


def test_windows_that_were_not_observed_are_not_scored() -> None:
    cohort = PlantedCohort()
    cohort.steps[0, 4] = -32768
    result = occlusion.occlude(watching(), cohort, 0, READER, "planted")
    assert np.isnan(result.drop[4]).all()
    assert np.isnan(result.without_lead[4])
    assert np.isfinite(np.delete(result.drop, 4, axis=0)).all()
    cohort.steps[0] = -32768
    with pytest.raises(EmbedError, match="record r000: too little was observed"):
        occlusion.occlude(watching(), cohort, 0, READER, "planted")


def test_examples_are_the_best_of_the_best_scored_classes() -> None:
    labels = np.zeros((20, 3), dtype=np.int8)
    labels[:6, 0], labels[5:11, 1], labels[:2, 2] = 1, 1, 1
    scores = labels + np.linspace(0, 0.1, 20)[:, None]
    scores[0, 1] = 5  # class 1 has a lower AUROC
    assert occlusion.choose_examples(labels, scores, ("a", "b", "c"), 3) == [(5, 0), (10, 1)]  # c has too few positives
    assert occlusion.choose_examples(labels, scores, ("a", "b", "c"), 1) == [(5, 0)]
    assert occlusion.choose_examples(labels[:0], scores[:0], ("a", "b", "c"), 2) == []


def test_heat_lies_behind_the_traces_of_its_lead(tmp_path) -> None:
    ecg = np.random.default_rng(0).normal(scale=0.1, size=(12, 1000))
    warm = np.zeros((12, 1000))
    warm[LEADS.index("V3"), 500:600], warm[LEADS.index("II"), :100] = 2.0, -1.0
    figure = paper.draw(ecg, 100, LEADS, heat=warm)
    gids = {
        artist.get_gid() for artist in figure.axes[0].get_children() if (artist.get_gid() or "").startswith("heat-")
    }
    assert gids == {"heat-V3", "heat-II", "heat-strip"}
    (v3,) = [artist for artist in figure.axes[0].get_children() if artist.get_gid() == "heat-V3"]
    left, right = v3.get_paths()[0].vertices[:, 0].min(), v3.get_paths()[0].vertices[:, 0].max()
    assert (left, right) == pytest.approx((10 + 25 * 5.0, 10 + 25 * 6.0))  # mm: the pulse, then 25 mm/s
    assert "supports the class" in [text.get_text() for text in figure.legends[0].get_texts()]
    plain = paper.draw(ecg, 100, LEADS, heat=np.zeros((12, 1000)))
    assert not plain.legends
    with pytest.raises(ValueError, match="heat has shape"):
        paper.draw(ecg, 100, LEADS, heat=warm[:3])
    ink.save(figure, tmp_path / "heat.png")
    assert (tmp_path / "heat.png").stat().st_size > 10_000


def test_a_map_of_leads_over_time() -> None:
    drop = np.array([[0.1, -0.2], [np.nan, 0.05]])
    figure = heat.draw(drop, 0.5, ("I", "II"), np.array([0.3, np.nan]), "title", "logit lost")
    assert figure.axes[0].images[0].norm.vmax == pytest.approx(0.2)
    assert figure.axes[0].images[0].norm.vmin == pytest.approx(-0.2)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["I", "II"]
    with pytest.raises(ValueError, match="do not fit 3 leads"):
        heat.draw(drop, 0.5, ("I", "II", "V1"))
    assert heat.relative(np.zeros(3)).tolist() == [0, 0, 0]
    assert np.nanmax(np.abs(heat.relative(drop))) == 1.0
