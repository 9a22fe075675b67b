"""The simulated pairs of ECG and heart volumes: the bounds, the geometry, the ECG with given features, and the files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import invoke

from leadwise.batch import LEADS
from leadwise.data.cohort.layout import CohortError
from leadwise.data.formats import reading
from leadwise.data.simulator.heart import axis_deg, twelve_leads, waves
from leadwise.data.simulator.measure import measure_ecg
from leadwise.data.simulator.paired import bounds
from leadwise.data.simulator.paired.cohort import PairSettings, simulate_pairs
from leadwise.data.simulator.paired.electrical import draw_paired_tracing, draw_patient
from leadwise.data.simulator.paired.geometry import (
    DENSITY_G_PER_ML,
    TERRITORIES,
    Infarct,
    chambers,
    circle_overlap,
    draw_infarct,
)
from leadwise.data.simulator.paired.population import (
    FEATURES,
    HALF_CONTRACTION,
    LATENTS,
    PHENOTYPES,
    Array,
    draw_anatomy,
    draw_features,
    draw_splits,
    feature_model,
    latent_covariance,
    latent_mean,
    phenotypes,
    random_stream,
)
from leadwise.data.simulator.paired.voxels import Grid, image, scar_image, tissue

BOUNDS = {  # the published values of this population
    "lvedv": 0.52,
    "lvesv": 0.54,
    "lvsv": 0.31,
    "lvef": 0.42,
    "lvmass": 0.50,
    "rvedv": 0.42,
    "rvesv": 0.36,
    "rvef": 0.14,
    "lvmass_lvedv": 0.12,
    "ln_sphericity": 0.06,
}
N = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_pairs(tmp_path_factory.mktemp("data") / "pairs", N, 3, PairSettings(infarcts=True, half=True))


@pytest.fixture(scope="module")
def subjects(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "subjects.csv", keep_default_na=False)


def people(n: int, seed: int = 0) -> Array:
    return draw_anatomy(np.random.default_rng(seed), n)


def healthy_features(**changes: float) -> Array:
    values = dict(zip(FEATURES, feature_model()[0])) | changes
    return np.array([values[name] for name in FEATURES])


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# ------------------------------------------------------------------------------------------------------- population


def test_the_bounds_are_those_of_the_population() -> None:
    computed = bounds.r2_bounds()
    for name, expected in BOUNDS.items():
        assert computed[name] == pytest.approx(expected, abs=0.03), name
    assert bounds.information_bits() == pytest.approx(2.48, abs=0.01)
    assert bounds.retrieval_bounds(64) == pytest.approx({1: 0.25, 5: 0.63, 10: 0.82}, abs=0.03)
    assert bounds.retrieval_bounds(256) == pytest.approx({1: 0.106, 5: 0.32, 10: 0.48}, abs=0.03)


def test_the_posterior_is_the_regression_on_the_features() -> None:
    """A regression that is fitted on many people reaches the bound and does not exceed it."""
    rng = np.random.default_rng(4)
    anatomy = draw_anatomy(rng, 20_000)
    features = draw_features(anatomy, rng)
    design = np.column_stack([np.ones(len(features)), features])
    fitted = design @ np.linalg.lstsq(design[:10_000], anatomy[:10_000], rcond=None)[0]
    mean, covariance = bounds.posterior(features)
    scale = anatomy.std(axis=0)
    assert np.abs((fitted - mean) / scale).max() < 0.15
    assert np.allclose(
        np.cov((anatomy - mean).T) / np.outer(scale, scale), covariance / np.outer(scale, scale), atol=0.03
    )

    values = phenotypes(anatomy)
    for name in ("lvedv", "lvef", "lvmass"):
        weights = np.linalg.lstsq(design[:10_000], values[name][:10_000], rcond=None)[0]
        rest = (values[name] - design @ weights)[10_000:]
        r2 = 1 - rest.var() / values[name][10_000:].var()
        assert bounds.r2_bounds()[name] - 0.06 < r2 < bounds.r2_bounds()[name] + 0.02


def test_the_best_auroc_is_between_chance_and_that_of_the_anatomy() -> None:
    assert 0.70 < bounds.auroc_bounds()["heart_failure"] < 0.80
    assert 0.60 < bounds.auroc_bounds()["death"] < 0.70


def test_the_population_is_plausible() -> None:
    values = phenotypes(people(20_000))
    assert values["lvef"].mean() == pytest.approx(60, abs=1)
    assert values["lvef"].std() == pytest.approx(10, abs=1)
    assert (values["lvef"] < 50).mean() == pytest.approx(0.18, abs=0.02)
    assert values["lvedv"].mean() == pytest.approx(154, abs=2)
    assert values["lvmass"].mean() == pytest.approx(124, abs=2)
    scale = np.sqrt(np.diag(latent_covariance()))
    assert np.linalg.eigvalsh(latent_covariance() / np.outer(scale, scale))[0] == pytest.approx(0.19, abs=0.01)


def test_half_of_the_interval_is_five_points_of_ejection_fraction_late() -> None:
    lvef = phenotypes(people(5000))["lvef"]
    assert (HALF_CONTRACTION * lvef - lvef).mean() == pytest.approx(-5.3, abs=0.3)


def test_random_streams_do_not_depend_on_the_number_of_people_or_on_each_other() -> None:
    first = random_stream(0, "p00001", "volume ed").random(4)
    assert np.array_equal(first, random_stream(0, "p00001", "volume ed").random(4))
    others = [(0, "p00001", "volume es"), (0, "p00002", "volume ed"), (1, "p00001", "volume ed")]
    assert all(not np.isclose(first, random_stream(*other).random(4)).any() for other in others)


def test_splits_have_their_shares_in_a_random_order() -> None:
    splits = draw_splits(4000, 0)
    assert [splits.count(name) for name in ("train", "val", "test")] == [2600, 700, 700]
    assert 0.6 < splits[:500].count("train") / 500 < 0.7


# ------------------------------------------------------------------------------------------------------------ geometry


def test_volumes_and_mass_are_those_of_the_person_at_each_contraction() -> None:
    anatomy = people(12)
    values = phenotypes(anatomy)
    rng = np.random.default_rng(0)
    for k, person in enumerate(anatomy):
        infarct = draw_infarct(rng) if k % 2 else None
        for contraction in (0.0, HALF_CONTRACTION, 1.0):
            volumes = chambers(person, contraction, infarct).volumes()
            lv = values["lvedv"][k] - contraction * values["lvsv"][k]
            rv = values["rvedv"][k] - contraction * values["rvsv"][k]
            assert volumes["lv"] == pytest.approx(lv, rel=1e-3)
            assert volumes["rv"] == pytest.approx(rv, rel=1e-3)
            assert volumes["myocardium"] * DENSITY_G_PER_ML == pytest.approx(values["lvmass"][k], rel=1e-3)


def test_the_mean_heart_has_the_size_of_a_heart() -> None:
    diastole, systole = chambers(latent_mean(), 0), chambers(latent_mean(), 1)
    assert 90 < diastole.length < 102
    assert 2 * diastole.radius == pytest.approx(52, abs=2)
    assert diastole.wall == pytest.approx(7.5, abs=0.5)
    assert systole.wall == pytest.approx(11, abs=0.7)
    assert systole.long_axis < 0.9 * diastole.long_axis


def test_circle_overlap_of_apart_within_and_crossing_circles() -> None:
    overlap = circle_overlap(np.array([2.0, 2.0, 1.0]), np.array([1.0, 1.0, 1.0]), np.array([3.5, 0.5, 1.0]))
    assert overlap == pytest.approx([0.0, np.pi, 2 * np.pi / 3 - np.sqrt(3) / 2])


def test_counting_voxels_recovers_the_volumes() -> None:
    grid, rng = Grid(12, 92, 85), np.random.default_rng(1)
    for k, person in enumerate(people(5, seed=2)):
        diastole, systole = chambers(person, 0), chambers(person, 1)
        for heart in (diastole, systole):
            parts = tissue(heart, diastole, grid, rng, slice_shift_mm=2.0 * (k % 2))
            counted, true = parts.counted_ml(grid), heart.volumes()
            assert {name: counted[name] / true[name] for name in ("lv", "myocardium", "rv")} == pytest.approx(
                {"lv": 1, "myocardium": 1, "rv": 1}, abs=0.03
            )
            mask = parts.mask()
            assert not mask[:, [0, -1]].any()
            assert not mask[:, :, [0, -1]].any()


def test_an_infarct_is_thin_does_not_thicken_and_is_bright_in_the_scar_volume() -> None:
    infarct = Infarct("inferior", 0.2, TERRITORIES["inferior"], 0.4, 0.2, 0.8)
    diastole, systole = chambers(latent_mean(), 0, infarct), chambers(latent_mean(), 1, infarct)
    level = np.array([0.5])
    for heart in (diastole, systole):
        cavity, in_sector, _ = heart.radii(level)
        thickness = float((in_sector - cavity)[0])
        assert thickness == pytest.approx(float((diastole.radii(level)[1] - diastole.radii(level)[0])[0]), rel=0.02)
    cavity, in_sector, outer = diastole.radii(level)
    assert float(((in_sector - cavity) / (outer - cavity))[0]) == pytest.approx(0.7, abs=0.01)

    rng, grid = np.random.default_rng(0), Grid()
    parts = tissue(diastole, diastole, grid, rng)
    volume = scar_image(parts, rng)
    assert volume[parts.scar > 0.9].mean() > 0.8
    assert volume[(parts.myocardium > 0.9) & (parts.scar == 0)].mean() < 0.25
    where = np.argwhere(parts.scar > 0.5)[:, 1:].mean(axis=0) - np.argwhere(parts.lv > 0.5)[:, 1:].mean(axis=0)
    assert where[0] > 3, "the inferior wall is below the cavity, where the right ventricle is to the left"


def test_the_share_of_an_infarct_is_the_drawn_one_and_territories_differ() -> None:
    rng = np.random.default_rng(0)
    infarcts = [draw_infarct(rng) for _ in range(40)]
    assert {infarct.territory for infarct in infarcts} == set(TERRITORIES)
    assert all(0.05 <= infarct.share <= 0.35 and 0 < infarct.low < infarct.high < 1 for infarct in infarcts)
    for infarct in infarcts[:6]:
        volumes = chambers(latent_mean(), 0, infarct).volumes()
        assert volumes["scar"] / volumes["myocardium"] == pytest.approx(infarct.share, abs=0.04)


def test_the_right_ventricle_turns_with_the_heart() -> None:
    turned = latent_mean()
    turned[list(LATENTS).index("frontal_deg")] += 90
    grid = Grid()
    for person, row, column in ((latent_mean(), 0, -1), (turned, -1, 0)):
        heart = chambers(person, 0)
        mask = tissue(heart, heart, grid).mask()
        offset = np.argwhere(mask == 3)[:, 1:].mean(axis=0) - np.argwhere(mask == 1)[:, 1:].mean(axis=0)
        assert np.allclose(np.sign(np.round(offset / 4)), [row, column])


def test_two_volumes_of_a_person_have_no_background_or_brightness_in_common() -> None:
    heart = chambers(latent_mean(), 0)
    parts = tissue(heart, heart, Grid())
    background = parts.lv + parts.myocardium + parts.rv == 0
    volumes = [image(parts, random_stream(0, "p1", f"volume {phase}")) for phase in ("ed", "es")]
    assert abs(np.corrcoef(*(volume[background] for volume in volumes))[0, 1]) < 0.15
    assert all(0.75 < volume[parts.lv > 0.99].mean() < 1.25 for volume in volumes)


@pytest.mark.parametrize(("shape", "word"), [((0, 46, 42), "slices"), ((6, 8, 8), "rows"), ((6, 46, 20), "cut")])
def test_an_unusable_grid_is_an_error(shape: tuple[int, int, int], word: str) -> None:
    with pytest.raises(CohortError, match=word):
        Grid(*shape)


# ----------------------------------------------------------------------------------------------------------------- ECG


def test_the_ecg_has_the_features() -> None:
    patient = draw_patient(0, "train", np.random.default_rng(2))
    features = healthy_features(qrs_ms=100.0, axis_deg=10.0, ln_heart_rate=float(np.log(75)), qtc_ms=430.0)
    tracing = draw_paired_tracing(features, None, patient, 500, np.random.default_rng(0))
    measured = measure_ecg(twelve_leads(tracing.leads))
    assert measured.rate_bpm == pytest.approx(75, abs=3)
    assert measured.qrs_ms == pytest.approx(100, abs=10)
    assert measured.qtc_ms == pytest.approx(430, abs=15)
    assert tracing.truth["axis_deg"] == pytest.approx(10, abs=1)
    assert measured.axis_deg == pytest.approx(10, abs=5)


def test_amplitude_and_t_angle_change_the_leads_as_named() -> None:
    patient = draw_patient(0, "train", np.random.default_rng(2))

    def leads(**changes: float) -> Array:
        return draw_paired_tracing(healthy_features(**changes), None, patient, 500, np.random.default_rng(0)).leads

    qrs = np.abs(leads()).max()
    assert np.abs(leads(ln_qrs_amplitude=float(np.log(1.5)))).max() == pytest.approx(1.5 * qrs, rel=0.03)
    assert not np.allclose(leads(azimuth_deg=30.0), leads(), atol=0.1)
    t_in_v6 = [leads(qrs_t_angle_deg=angle)[:, 7] for angle in (10.0, 90.0, 170.0)]
    heights = [measure_ecg(twelve_leads(np.column_stack([leads()[:, :7], t]))) for t in t_in_v6]
    assert all(one.t_mv[11] > other.t_mv[11] for one, other in pairwise(heights))
    assert heights[2].t_mv[11] < 0


@pytest.mark.parametrize(("territory", "lead"), [("anterior", 7), ("inferior", 2), ("lateral", 0)])
def test_an_infarct_gives_q_waves_over_its_territory(territory: str, lead: int) -> None:
    patient = draw_patient(0, "train", np.random.default_rng(2))
    infarct = Infarct(territory, 0.3, TERRITORIES[territory], 0.5, 0.2, 0.8)
    healthy, ill = (
        draw_paired_tracing(healthy_features(), scar, patient, 500, np.random.default_rng(0))
        for scar in (None, infarct)
    )
    q = [measure_ecg(twelve_leads(tracing.leads)).q_mv[lead] for tracing in (healthy, ill)]
    assert q[1] > q[0] + 0.15
    assert {"AMI", "IMI"} & ill.presentation.findings == {"anterior": {"AMI"}, "inferior": {"IMI"}, "lateral": set()}[
        territory
    ]


@pytest.mark.slow
def test_measurements_of_the_ecg_predict_the_mass_and_stay_below_the_bound() -> None:
    n, n_fit, rng = 500, 350, np.random.default_rng(5)
    anatomy = draw_anatomy(rng, n)
    rows = []
    for features in draw_features(anatomy, rng):
        patient = draw_patient(0, "train", rng)
        m = measure_ecg(twelve_leads(draw_paired_tracing(features, None, patient, 500, rng).leads))
        size = np.log(np.linalg.norm(np.concatenate([m.r_mv, m.s_mv])))
        rows.append([size, m.qrs_ms, m.axis_deg, m.qtc_ms, np.log(m.rate_bpm), m.t_mv[11], m.t_mv[7], m.r_mv[6], 1.0])
    design, values = np.nan_to_num(np.array(rows)), phenotypes(anatomy)
    for name, least in (("lvmass", 0.3), ("lvedv", 0.2), ("lvef", 0.15), ("rvef", -0.1)):
        weights = np.linalg.lstsq(design[:n_fit], values[name][:n_fit], rcond=None)[0]
        rest = values[name][n_fit:] - design[n_fit:] @ weights
        assert least < 1 - rest.var() / values[name][n_fit:].var() < bounds.r2_bounds()[name] + 0.1, name


def test_the_horizontal_turn_goes_from_left_to_back() -> None:
    left = waves([(0, 1, 1, 0, 1, 0.5, 0)])
    assert np.allclose(left.rotated_horizontally(90).vector_mv, [[0, 0.5, 1]])
    assert np.allclose(left.rotated_horizontally(30).rotated_horizontally(-30).vector_mv, left.vector_mv)
    assert axis_deg(1.0, 0.5) == pytest.approx(0, abs=1e-9)


# --------------------------------------------------------------------------------------------------------------- files


def test_the_folder_has_an_ecg_and_volumes_of_every_person(folder: Path, subjects: pd.DataFrame) -> None:
    assert list(subjects)[:7] == ["record", "patient", "split", "ecg", "ed", "es", "half"]
    assert {f"target.{name}" for name in PHENOTYPES} | {"label.outcome.heart_failure", "report", "age"} <= set(subjects)
    assert subjects["record"].is_unique
    assert subjects["patient"].is_unique
    assert (subjects["patient"] != subjects["record"]).all()  # else a result states that patients are not named
    assert subjects["patient"].str.fullmatch(r"s\d+-\d{5}").all()  # with the seed: another cohort has other people
    assert len(subjects) == N
    for _, row in subjects.iterrows():
        assert set(reading.read(folder / row["ecg"]).leads) == set(LEADS)
        for phase in ("ed", "es", "half"):
            with np.load(folder / row[phase]) as arrays:
                assert arrays["volume"].shape == arrays["mask"].shape == (6, 46, 42)
                assert arrays["volume"].dtype == np.float32
                assert arrays["mask"].dtype == np.uint8
                assert arrays["spacing_mm"] == pytest.approx([10, 3.66, 3.66])
                assert ("scar" in arrays) == (phase == "ed")


def test_the_cavity_is_largest_at_the_end_of_diastole(folder: Path, subjects: pd.DataFrame) -> None:
    counts = [
        [int((np.load(folder / row[phase])["mask"] == 1).sum()) for phase in ("ed", "half", "es")]
        for _, row in subjects.iterrows()
    ]
    assert (np.diff(counts, axis=1) < 0).all(axis=1).mean() > 0.9
    assert np.corrcoef(np.array(counts)[:, 0], subjects["target.lvedv"])[0, 1] > 0.9


def test_the_bounds_beside_the_table_name_its_targets(folder: Path, subjects: pd.DataFrame) -> None:
    written = json.loads((folder / "bounds.json").read_text())
    assert {f"target.{name}" for name in written} <= set(subjects)
    assert all(0 < value < 1 for value in written.values())
    oracle = json.loads((folder / "oracle.json").read_text())
    assert {f"label.{name}" for name in oracle["auroc"]} <= set(subjects)
    assert set(oracle["retrieval"]) == {"64", "256"}


def test_no_report_and_no_column_states_a_phenotype(subjects: pd.DataFrame) -> None:
    assert not subjects["report"].str.contains(r"ejection|ml\b|volume|ventricular function").any()
    assert subjects["report"].str.contains("sinus").all()


def test_the_true_values_agree_with_the_table(folder: Path, subjects: pd.DataFrame) -> None:
    truth = pd.read_csv(folder / "truth.csv")
    assert list(truth["record"]) == list(subjects["record"])
    assert np.allclose(np.exp(truth["anatomy.ln_lvedv"]), subjects["target.lvedv"], rtol=1e-3)
    assert np.allclose(truth["lvef_half"], HALF_CONTRACTION * subjects["target.lvef"], rtol=1e-3)
    with_scar = truth["infarct"].notna()
    assert (truth["scar_share"] > 0).equals(with_scar)
    labels = subjects[[f"label.infarct.{name}" for name in TERRITORIES]].sum(axis=1)
    assert (labels == 1).equals(with_scar)


def test_the_same_seed_gives_the_same_files_and_a_longer_cohort_begins_with_the_same_people(
    folder: Path, tmp_path: Path
) -> None:
    settings = PairSettings(infarcts=True, half=True)
    again = digests(simulate_pairs(tmp_path / "again", 4, 3, settings))
    volumes = {name: digest for name, digest in again.items() if name.startswith(("volumes", "ecg"))}
    assert volumes.items() <= digests(folder).items()
    other = digests(simulate_pairs(tmp_path / "other", 4, 4, settings))
    assert not set(other.values()) & set(volumes.values())


@pytest.mark.slow
def test_several_processes_write_the_same_files(tmp_path: Path) -> None:
    one = simulate_pairs(tmp_path / "one", 45, 0)
    two = simulate_pairs(tmp_path / "two", 45, 0, processes=2)
    assert digests(one) == digests(two)


def test_an_existing_folder_is_not_changed_and_a_failure_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CohortError, match="exists already"):
        simulate_pairs(folder, 2, 0)
    with pytest.raises(CohortError, match="give 1 or more"):
        simulate_pairs(tmp_path / "none", 0, 0)
    with pytest.raises(CohortError, match="give 0 to 20"):
        replace(PairSettings(), slice_shift_mm=-1.0)

    def stop(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("leadwise.data.simulator.paired.cohort.write_table", stop)
    with pytest.raises(OSError, match="disk full"):
        simulate_pairs(tmp_path / "new", 2, 0)
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_pairs_and_refuses_their_options_without_it(tmp_path: Path) -> None:
    done = invoke("simulate", "--paired", "--records", 3, "--shape", "2x32x30", "-o", tmp_path / "pairs")
    assert done.returncode == 0
    assert "leadwise prepare ecg_cmr" in done.stdout
    row = pd.read_csv(tmp_path / "pairs" / "subjects.csv").iloc[0]
    assert np.load(tmp_path / "pairs" / row["ed"])["volume"].shape == (2, 32, 30)
    for words, part in ((("--infarcts",), "add --paired"), (("--paired", "--shape", "6x46"), "for example 6x46x42")):
        refused = invoke("simulate", *words, "-o", tmp_path / "no")
        assert refused.returncode != 0
        assert part in " ".join((refused.stderr + refused.stdout).split())
    assert not (tmp_path / "no").exists()
