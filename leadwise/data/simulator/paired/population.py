"""The population: anatomy, the ECG features that depend on it, and the phenotypes. Everything is linear-Gaussian.

The anatomy of a person is a Gaussian vector in transformed units (logarithms of volumes and mass, logits of ejection
fractions, angles). The ECG features are a linear map of it plus independent noise. The ECG is drawn from the features alone,
so no method predicts a phenotype from the ECG better than the features allow (`bounds`).
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LATENTS: dict[str, tuple[float, float]] = {  # mean and SD
    "ln_lvedv": (float(np.log(150.0)), 0.25),  # mL
    "logit_lvef": (float(np.log(0.60 / 0.40)), 0.45),
    "ln_lvmass": (float(np.log(120.0)), 0.25),  # g
    "ln_rvedv": (float(np.log(160.0)), 0.25),  # mL
    "logit_rvef": (float(np.log(0.56 / 0.44)), 0.30),
    "frontal_deg": (45.0, 20.0),  # rotation of the heart in the frontal plane
    "horizontal_deg": (0.0, 20.0),  # in the horizontal plane; a short-axis image does not contain it
    "ln_sphericity": (float(np.log(0.42)), 0.10),  # short by long semi-axis of the left ventricle
    "ln_torso": (0.0, 0.16),  # distance of the electrodes from the heart; no image contains it
}
"""The anatomy of a person: mean and standard deviation of each coordinate."""

_CORRELATIONS = {
    ("ln_lvedv", "ln_lvmass"): 0.6,
    ("ln_lvedv", "ln_rvedv"): 0.7,
    ("ln_lvmass", "ln_rvedv"): 0.5,
    ("ln_lvedv", "logit_lvef"): -0.45,
    ("ln_lvmass", "logit_lvef"): -0.25,
    ("ln_rvedv", "logit_lvef"): -0.25,
    ("logit_lvef", "logit_rvef"): 0.5,
    ("ln_lvedv", "logit_rvef"): -0.25,
    ("ln_rvedv", "logit_rvef"): -0.4,
    ("ln_sphericity", "logit_lvef"): -0.4,
    ("ln_lvedv", "ln_sphericity"): 0.2,
    ("ln_torso", "ln_lvedv"): 0.15,
    ("ln_torso", "ln_lvmass"): 0.2,
    ("ln_torso", "ln_rvedv"): 0.15,
}

# feature -> its mean, the SD of its noise, and its weights on the deviations of the anatomy from the mean
_FEATURES: dict[str, tuple[float, float, dict[str, float]]] = {
    "ln_qrs_amplitude": (0.0, 0.10, {"ln_lvmass": 0.55, "ln_lvedv": 0.10, "ln_torso": -1.0}),
    "qrs_ms": (92.0, 8.0, {"ln_lvedv": 22.0, "ln_lvmass": 12.0}),
    "axis_deg": (45.0, 10.0, {"frontal_deg": 1.0}),
    "azimuth_deg": (0.0, 10.0, {"horizontal_deg": 1.0}),
    "ln_right_force": (0.0, 0.20, {"ln_rvedv": 0.6, "ln_lvmass": -0.3, "horizontal_deg": 0.004}),
    "qrs_t_angle_deg": (45.0, 20.0, {"logit_lvef": -30.0, "ln_lvmass": 35.0}),
    "ln_heart_rate": (float(np.log(66.0)), 0.13, {"logit_lvef": -0.10}),
    "qtc_ms": (410.0, 16.0, {"logit_lvef": -12.0, "ln_lvmass": 20.0}),
}
FEATURES = tuple(_FEATURES)
"""The features of an ECG, in the order of the feature vector."""

PHENOTYPES = ("lvedv", "lvesv", "lvsv", "lvef", "lvmass", "rvedv", "rvesv", "rvsv", "rvef")
"""The phenotypes of a person: volumes in mL, ejection fractions in percent, mass in g."""

# outcome -> intercept and weights per unit of the deviation of a phenotype from the given value
OUTCOMES: dict[str, tuple[float, dict[str, tuple[float, float]]]] = {
    "heart_failure": (-2.4, {"lvef": (60.0, -0.11), "lvmass": (124.0, 0.018)}),
    "death": (-3.0, {"lvef": (60.0, -0.06), "rvef": (56.0, -0.08)}),
}
"""The outcomes: a logistic model of phenotypes."""

SPLITS = (("train", 0.65), ("val", 0.175), ("test", 0.175))
"""Share of the people in each split: pre-training, fit of a probe, test."""

HALF_CONTRACTION = 0.912
"""Share of the stroke volume that has left the heart in the middle of the RR interval, which is after end-systole."""


def latent_mean() -> Array:
    """Return the mean anatomy, (9,) in the order of LATENTS."""
    return np.array([mean for mean, _ in LATENTS.values()])


def latent_covariance() -> Array:
    """Return the covariance of the anatomy, (9, 9)."""
    names = list(LATENTS)
    correlation = np.eye(len(names))
    for (one, other), value in _CORRELATIONS.items():
        i, j = names.index(one), names.index(other)
        correlation[i, j] = correlation[j, i] = value
    scale = np.array([sd for _, sd in LATENTS.values()])
    return np.asarray(correlation * np.outer(scale, scale))


def feature_model() -> tuple[Array, Array, Array]:
    """Return the mean (8,), the weights (8, 9) on deviations of the anatomy, and the noise SD (8,) of the features."""
    names = list(LATENTS)
    weights = np.zeros((len(_FEATURES), len(names)))
    for row, (_, _, terms) in enumerate(_FEATURES.values()):
        for name, weight in terms.items():
            weights[row, names.index(name)] = weight
    mean = np.array([mean for mean, _, _ in _FEATURES.values()])
    return mean, weights, np.array([sd for _, sd, _ in _FEATURES.values()])


def draw_anatomy(rng: np.random.Generator, n: int) -> Array:
    """Draw the anatomy of `n` people, (n, 9) in the order of LATENTS."""
    root = np.linalg.cholesky(latent_covariance())
    return np.asarray(latent_mean() + rng.standard_normal((n, len(LATENTS))) @ root.T)


def draw_features(anatomy: Array, rng: np.random.Generator) -> Array:
    """Draw the ECG features of people, (n, 8) in the order of FEATURES, from their anatomy (n, 9)."""
    mean, weights, noise_sd = feature_model()
    noise = rng.standard_normal((len(anatomy), len(mean))) * noise_sd
    return np.asarray(mean + (anatomy - latent_mean()) @ weights.T + noise)


def phenotypes(anatomy: Array) -> dict[str, Array]:
    """Return the phenotypes of PHENOTYPES, each (n,), from the anatomy (n, 9)."""
    x = dict(zip(LATENTS, anatomy.T))
    lvedv, rvedv = np.exp(x["ln_lvedv"]), np.exp(x["ln_rvedv"])
    lvef, rvef = _expit(x["logit_lvef"]), _expit(x["logit_rvef"])
    values = (
        *(lvedv, lvedv * (1 - lvef), lvedv * lvef, 100 * lvef, np.exp(x["ln_lvmass"])),
        *(rvedv, rvedv * (1 - rvef), rvedv * rvef, 100 * rvef),
    )
    return dict(zip(PHENOTYPES, values))


def outcome_probability(values: dict[str, Array]) -> dict[str, Array]:
    """Return the probability of each of OUTCOMES, (n,), from phenotypes."""
    chances = {}
    for name, (intercept, terms) in OUTCOMES.items():
        score = np.full_like(values["lvef"], intercept)
        for key, (at, weight) in terms.items():
            score += weight * (values[key] - at)
        chances[name] = _expit(score)
    return chances


def random_stream(seed: int, record: str, purpose: str) -> np.random.Generator:
    """Return the random generator of one purpose for one person.

    Its state is a hash, so streams of people and purposes are independent, and no stream depends on the number of people.
    """
    digest = hashlib.sha256(f"{seed}/{record}/{purpose}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def draw_splits(n: int, seed: int) -> list[str]:
    """Return the split of each of `n` people: a random order, cut at the shares of SPLITS."""
    edges = np.rint(np.cumsum([share for _, share in SPLITS]) * n).astype(int)
    place = np.searchsorted(edges, np.arange(n), side="right")
    np.random.default_rng([seed, 11]).shuffle(place)
    return [SPLITS[k][0] for k in place]


def _expit(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))
