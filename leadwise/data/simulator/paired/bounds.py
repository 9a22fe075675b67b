"""The best that any method can reach on the simulated pairs, from the linear-Gaussian model of `population`.

The ECG depends on the anatomy through its features only, and the image through the anatomy without the horizontal rotation and
the torso. So the posterior mean given the features bounds every regression, the posterior probability every AUROC, and
the likelihood of the features given the visible anatomy every retrieval. The bounds are of the population: a subgroup may be
above or below. Retrieval is that without infarcts: with them, ECG and image have more in common. Estimates have a standard error
of about 0.005 (R², AUROC) and 0.01 (retrieval).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from leadwise.data.simulator.paired.population import (
    LATENTS,
    OUTCOMES,
    PHENOTYPES,
    Array,
    draw_anatomy,
    draw_features,
    feature_model,
    latent_covariance,
    latent_mean,
    outcome_probability,
    phenotypes,
)

_INVISIBLE = ("horizontal_deg", "ln_torso")  # the anatomy that a short-axis image does not contain
_N_PEOPLE = 20_000
_N_DRAWS = 32


def posterior(features: Array) -> tuple[Array, Array]:
    """Return mean (n, 9) and covariance (9, 9) of the anatomy given ECG features (n, 8)."""
    mean, weights, noise_sd = feature_model()
    prior = latent_covariance()
    gain = prior @ weights.T @ np.linalg.inv(weights @ prior @ weights.T + np.diag(noise_sd**2))
    return latent_mean() + (features - mean) @ gain.T, prior - gain @ weights @ prior


@functools.cache
def r2_bounds() -> dict[str, float]:
    """Return the highest R² possible from the ECG for each phenotype, for mass / EDV and for the logarithm of the sphericity."""
    rng = np.random.default_rng(0)
    anatomy = draw_anatomy(rng, _N_PEOPLE)
    truth = _targets(anatomy)

    # posterior means by draws; the covariance with the truth is not biased by the number of draws
    means = dict.fromkeys(truth, np.zeros(_N_PEOPLE))
    for drawn in _posterior_draws(draw_features(anatomy, rng), rng):
        for name, values in _targets(drawn).items():
            means[name] = means[name] + values / _N_DRAWS
    return {name: float(np.cov(means[name], truth[name])[0, 1] / np.var(truth[name], ddof=1)) for name in truth}


@functools.cache
def auroc_bounds() -> dict[str, float]:
    """Return the highest AUROC possible from the ECG for each outcome: that of the posterior probability."""
    rng = np.random.default_rng(1)
    anatomy = draw_anatomy(rng, _N_PEOPLE)
    chance = outcome_probability(phenotypes(anatomy))
    labels = {name: rng.random(_N_PEOPLE) < chance[name] for name in OUTCOMES}
    scores = dict.fromkeys(OUTCOMES, np.zeros(_N_PEOPLE))
    for drawn in _posterior_draws(draw_features(anatomy, rng), rng):
        for name, values in outcome_probability(phenotypes(drawn)).items():
            scores[name] = scores[name] + values
    return {name: _auroc(scores[name], labels[name]) for name in OUTCOMES}


def information_bits() -> float:
    """Return the mutual information of ECG features and visible anatomy in bits."""
    _, weights, noise_sd = feature_model()
    noise = np.diag(noise_sd**2)
    _, hidden = _visible_regression()
    marginal = weights @ latent_covariance() @ weights.T + noise
    conditional = weights @ hidden @ weights.T + noise
    return float((np.linalg.slogdet(marginal)[1] - np.linalg.slogdet(conditional)[1]) / (2 * np.log(2)))


@functools.cache
def retrieval_bounds(pool: int, depths: tuple[int, ...] = (1, 5, 10), n_queries: int = 5120) -> dict[int, float]:
    """Return the recall at each depth of the likelihood oracle: ECG query, `pool` images of which one is the same person's."""
    rng = np.random.default_rng([2, pool])
    mean, weights, noise_sd = feature_model()
    regression, hidden = _visible_regression()
    precision_root = np.linalg.cholesky(np.linalg.inv(weights @ hidden @ weights.T + np.diag(noise_sd**2)))

    # the rank of each person's image in a pool of random people, by the likelihood of the features given the image
    ranks = []
    for _ in range(-(-n_queries // pool)):
        anatomy = draw_anatomy(rng, pool)
        features = draw_features(anatomy, rng) - mean
        expected = (anatomy - latent_mean())[:, _visible()] @ regression.T @ weights.T
        query, images = features @ precision_root, expected @ precision_root
        distance = (query**2).sum(1)[:, None] + (images**2).sum(1) - 2 * query @ images.T
        ranks.append((distance < np.diag(distance)[:, None]).sum(axis=1))
    rank = np.concatenate(ranks)
    return {depth: float((rank < depth).mean()) for depth in depths}


def _visible() -> list[int]:
    return [k for k, name in enumerate(LATENTS) if name not in _INVISIBLE]


def _visible_regression() -> tuple[Array, Array]:
    """Return the regression (9, 7) of the anatomy on its visible part, and the covariance (9, 9) that remains."""
    prior, visible = latent_covariance(), _visible()
    regression = prior[:, visible] @ np.linalg.inv(prior[np.ix_(visible, visible)])
    return regression, prior - regression @ prior[visible]


def _targets(anatomy: Array) -> dict[str, Array]:
    values = phenotypes(anatomy)
    ratio = values["lvmass"] / values["lvedv"]
    return {**values, "lvmass_lvedv": ratio, "ln_sphericity": anatomy[:, list(LATENTS).index("ln_sphericity")]}


def _posterior_draws(features: Array, rng: np.random.Generator) -> Iterator[Array]:
    mean, covariance = posterior(features)
    root = np.linalg.cholesky(covariance)
    for _ in range(_N_DRAWS):
        yield mean + rng.standard_normal(mean.shape) @ root.T


def _auroc(score: Array, label: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
    rank = np.empty(len(score))
    rank[np.argsort(score)] = np.arange(1, len(score) + 1)
    n_positive = int(label.sum())
    return float((rank[label].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * (len(label) - n_positive)))


def phenotype_bounds() -> dict[str, float]:
    """Return `r2_bounds` of the phenotypes only, rounded: the content of `bounds.json`."""
    return {name: round(r2_bounds()[name], 3) for name in PHENOTYPES}
