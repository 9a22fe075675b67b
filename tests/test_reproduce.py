"""Reproduction of the paper's tables: the variants compared, the stored results, the paper's numbers beside ours."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from page_order import assert_pictures_first

from leadwise import run as runs
from leadwise.batch import LEADS, Signal
from leadwise.config import Config, ConfigError, typed
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.cohort.prepare import write
from leadwise.data.loader import Recordings
from leadwise.data.sources.source import Row, Source
from leadwise.evaluate import export, handcrafted
from leadwise.evaluate.embed import embed
from leadwise.methods.catalogue import (
    learns_from_teacher,
    learns_labels,
    method_names,
    method_settings,
    reads_volumes,
    with_defaults,
)
from leadwise.pictures import lines
from leadwise.reproduce import (
    budget,
    embedding_maps,
    figures,
    paper_numbers,
    peers,
    references,
    tables,
    training_runs,
    variants,
)
from leadwise.reproduce.cells import Cell, ScoringOptions
from leadwise.reproduce.reproduction import ReproduceRequest, reproduce
from leadwise.reproduce.variants import TARGETS
from tests.conftest import REPORTS, config_table
from tests.planted import PlantedRun


def config_file(folder: Path, cohort: Path, **optim: object) -> Path:
    path = folder / "small.toml"
    path.write_text(tomli_w.dumps(config_table(cohort, **optim)))
    return path


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of 160 recordings with a class that is visible in one lead."""
    folder = tmp_path_factory.mktemp("wide")
    rng, rows = np.random.default_rng(0), []
    for number in range(160):
        label = int(rng.random() < 0.5)
        ecg = rng.normal(size=(400, 12)) * (1 + label * np.eye(12)[1])
        np.save(folder / f"{number}.npy", ecg)
        split = "train" if number < 110 else "val" if number < 130 else "test"
        rows.append(
            Row(
                f"r{number}", folder / f"{number}.npy", f"p{number}", split, REPORTS[label], {"own": {"wide": label}},
                leads=LEADS, rate_hz=100, units="mV",
            )
        )  # fmt: skip
    write(Source("made", rows, {"own": ("wide",)}), folder / "wide")
    return folder / "wide"


TABLE3 = [variants.FULL_VIEW, *paper_numbers.TABLE3]  # its rows


def cell(row: str, macro: float, **changes: object) -> Cell:
    plain = Cell(row, 0, "c", "ptbxl", "super", "probe", 0.01, "trained", macro, macro - 0.1, macro + 0.1, 90, ("X",))
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def test_the_papers_numbers_are_found_by_name() -> None:
    assert paper_numbers.linear_probe("CG-DMER", "csn", "csn", 1.0) == 93.55
    assert paper_numbers.linear_probe("CG-DMER", "ptbxl", "sub", 0.01) == 69.60
    assert paper_numbers.linear_probe("MERL (ResNet)", "cpsc2018", "cpsc2018", 0.1) == 85.32
    assert paper_numbers.zero_shot("C-MELT", "ptbxl", "rhythm") == 79.87
    assert paper_numbers.linear_probe("CG-DMER", "ptbxl", "super", 0.05) is None
    assert paper_numbers.zero_shot("SimCLR", "ptbxl", "super") is None
    assert paper_numbers.linear_probe("CG-DMER", "folder", "own", 0.01) is None
    # Table 3's last row and Table 2's mean are means of the rows above: a slip in copying would break them
    ours = [paper_numbers.zero_shot("CG-DMER", *key) for key in paper_numbers.TASKS]
    assert np.mean([value for value in ours if value]) == pytest.approx(
        paper_numbers.TABLE3["+ L_siglip"][1], abs=0.005
    )
    first = [paper_numbers.linear_probe("CG-DMER", *key, 0.01) for key in paper_numbers.TASKS]
    assert np.mean([value for value in first if value]) == pytest.approx(70.157, abs=0.005)  # the paper prints 70.15


def test_every_method_has_small_settings() -> None:
    configs = variants.base_configs([])
    others = (learns_labels, learns_from_teacher, reads_volumes)
    references = {name for name in method_names() if any(rule(name) for rule in others)}
    assert {config.method["name"] for config in configs.values()} == set(method_names()) - references
    for config in configs.values():
        method_settings(config)


def test_table3_adds_the_terms_one_by_one() -> None:
    small = variants.base_configs([])
    weights = [
        [variant.config.method[term] for term in ("w_e_rec", "w_t_rec", "w_orth", "w_siglip")]
        for variant in variants.make_variants("table3", small)
    ]
    full = weights[-1]
    assert all(full)
    assert weights[1:] == [[w if k < n else 0.0 for k, w in enumerate(full)] for n in range(5)]
    assert [variant.label for variant in variants.make_variants("table3", small)] == TABLE3


def test_table3_has_the_contrast_without_masks_first() -> None:
    """L_cons alone still hides 75 % of the ECG, so its row has a twin that contrasts whole ECGs."""
    small = variants.base_configs([])
    compared = variants.make_variants("table3", small)
    full, masked = (variant.config.method for variant in compared[:2])
    assert (full["contrast_view"], masked["contrast_view"]) == ("full", "masked")
    assert {key for key in full if full[key] != masked[key]} == {"contrast_view"}
    remark = variants.contrast_remark(compared)
    assert "with 75% of each lead's patches hidden; so does L_cons" in remark
    assert "'L_cons, full view' contrasts whole ECGs" in remark

    # a config that contrasts whole ECGs needs no twin
    ours = small["CG-DMER"]
    whole = dataclasses.replace(ours, method={**ours.method, "contrast_view": "full"})
    compared = variants.make_variants("table3", {"CG-DMER": whole})
    assert [variant.label for variant in compared] == list(paper_numbers.TABLE3)
    assert variants.contrast_remark(compared) == "All rows contrast whole ECGs."


def test_fig2_sweeps_one_setting_at_a_time() -> None:
    small = variants.base_configs([])
    ours = small["CG-DMER"].method
    points = [
        (v.axis, v.value, v.config.method["n_patches"], v.config.method["mask_ratio"])
        for v in variants.make_variants("fig2", small)
    ]
    assert points == [
        *[("n_patches", n, n, ours["mask_ratio"]) for n in (25, 50, 100, 200)],
        *[("mask_ratio", r, ours["n_patches"], r) for r in (0.25, 0.5, 0.6, 0.75, 0.9)],
    ]
    assert len({v.folder for v in variants.make_variants("fig2", small)}) == 9


def test_two_configs_of_one_method_and_unknown_targets_are_refused(cohort_folder: Path) -> None:
    config = typed(Config, config_table(cohort_folder))
    with pytest.raises(ConfigError, match="two configs are for 'CG-DMER'; give one of each"):
        variants.base_configs([config, config])
    with pytest.raises(ConfigError, match="no target 'table4' to reproduce; choose from table1, table2"):
        variants.make_variants("table4", variants.base_configs([]))


def test_budgets() -> None:
    assert budget.parse(None) == budget.Budget()
    assert budget.parse("400") == budget.parse("400 steps") == budget.Budget(steps=400)
    assert budget.parse("2.5min") == budget.parse("2.5 minutes") == budget.Budget(minutes=2.5)
    for wrong in ("0", "fast", "2.5", "-3", "10 h"):
        with pytest.raises(ConfigError, match=f"--budget {wrong}: "):
            budget.parse(wrong)


def test_a_budget_in_minutes_becomes_steps(cohort_folder: Path) -> None:
    config = with_defaults(typed(Config, config_table(cohort_folder)))
    few, many = (budget.Budget(minutes=m).of(config).optim.steps for m in (0.005, 0.5))
    assert 1 <= few < many
    assert budget.Budget(steps=2).of(config).log.validate_every == 2


@pytest.mark.slow
def test_table3_end_to_end_and_again(wide: Path, tmp_path: Path) -> None:
    request = ReproduceRequest(
        "table3", tmp_path / "out", configs=(config_file(tmp_path, wide),), budget=budget.Budget(steps=2)
    )
    messages: list[str] = []
    result = reproduce(request, lambda what, done, total: messages.append(what))
    folder = tmp_path / "out" / "table3"
    assert result.folder == folder
    assert [line["objective"] for line in result.lines] == TABLE3
    assert all(
        line["linear 1%, paper (six tasks)"] == f"{paper_numbers.TABLE3[line['objective']][0]:.2f}"
        for line in result.lines[1:]
    )
    assert result.lines[0]["linear 1%, paper (six tasks)"] == ""
    assert "'L_cons, full view' contrasts whole ECGs" in result.scale
    assert not any("ours - paper" in column for line in result.lines for column in line)  # not the paper's tasks
    assert "zero-shot" not in result.lines[0]  # no prompts are shipped for one's own cohort
    assert "NOT the paper's scale" in result.scale
    assert "2 steps of 8" in result.scale
    for name in ("table.md", "table.csv", "table.tex", "figure.png", "page.html", "log.txt"):
        assert (folder / name).stat().st_size > 100, name
    assert "no zero-shot on own" in (folder / "log.txt").read_text()
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert_pictures_first(page)
    configs = sorted(path.name for path in (folder / "configs").iterdir())
    assert len(configs) == 6
    assert all(f"<details><summary>{name}</summary>" in page for name in configs)
    saved = typed(Config, tomllib.loads((folder / "configs" / "l_siglip-seed0.toml").read_text()))
    assert (saved.optim.steps, saved.method["w_siglip"], saved.data.cohort) == (2, 1.0, str(wide))

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*") if path.is_file()}
    messages.clear()
    assert reproduce(request, lambda what, done, total: messages.append(what)).lines == result.lines
    assert not messages  # nothing trained, embedded or scored again
    assert before == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*") if path.is_file()
    }


@pytest.mark.slow
def test_an_interrupted_run_is_resumed(cohort_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from leadwise.training import loop as training

    config = config_file(tmp_path, cohort_folder, steps=6)
    request = ReproduceRequest(
        "table1", tmp_path / "out", configs=(config,), budget=budget.Budget(steps=12), methods=("cg_dmer",)
    )
    genuine = training.queue_backward

    def killed(model: object, share: object, step: int, optim: object) -> object:
        if step == 7:
            raise KeyboardInterrupt
        return genuine(model, share, step, optim)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "queue_backward", killed)
    with pytest.raises(KeyboardInterrupt):
        reproduce(request)
    monkeypatch.setattr(training, "queue_backward", genuine)
    messages: list[tuple[str, int]] = []
    configs = variants.base_configs([typed(Config, config_table(cohort_folder))])
    assert "CG-DMER" in configs

    def until_the_next(what: str, done: int, total: int) -> None:
        if not what.startswith("CG-DMER"):
            raise KeyboardInterrupt
        messages.append((what, done))

    with pytest.raises(KeyboardInterrupt):  # the other methods are not part of this test
        reproduce(request, until_the_next)
    steps = [done for what, done in messages if what.startswith("CG-DMER, seed 0|")]
    assert steps == list(range(6, 13))  # saved at 5


@pytest.mark.slow
def test_references_are_computed_once_for_every_row(wide: Path, tmp_path: Path) -> None:
    table = config_table(wide, steps=5)
    small = typed(Config, table | {"method": {"name": "supervised", "resnet_width": 4, "classes": []}})
    shared = typed(Config, table)
    rows = references.References.from_configs([small], shared)
    assert [base.label for base in rows.bases] == ["Supervised (CNN)", "Supervised (Trans)"]
    assert [base.config.optim.steps for base in rows.bases] == [5, references.STEPS]
    assert all(base.config.signal == shared.signal for base in rows.bases)
    vit = {"name": "supervised", "encoder": "vit", "n_patches": 10, "width": 16, "depth": 1, "heads": 2}
    rows = references.References.from_configs([small, dataclasses.replace(small, method=vit)], shared)
    cohorts = [Cohort.open(wide)]
    rows = rows.with_budget(budget.Budget(steps=2), tmp_path, cohorts)
    assert [base.config.optim.steps for base in rows.bases] == [2, 2]
    assert rows.with_budget(budget.Budget(steps=9), tmp_path, cohorts) == rows  # a budget never adds steps
    long = rows.bases[0]
    long = dataclasses.replace(long, config=budget.Budget(steps=600).of(long.config))
    few = references._on_draw(long, cohorts[0], "own", 0.05, 42)  # five records in batches of eight
    assert few.config.optim.steps == 63
    assert references._on_draw(long, cohorts[0], "own", 1.0, 42).config.optim.steps == 600
    messages: list[str] = []

    def compute() -> tuple[list[Cell], list[variants.Variant]]:
        options = ScoringOptions((0.05, 1.0), untrained=True)
        return references.reference_cells(
            rows, cohorts, tmp_path, options, (), lambda what, done, total: messages.append(what)
        )

    cells, behind = compute()
    assert list(dict.fromkeys(cell.row for cell in cells)) == [
        "Random Init (CNN)", "Random Init (Trans)", references.HANDCRAFTED, "Supervised (CNN)", "Supervised (Trans)",
    ]  # fmt: skip
    assert {cell.row for cell in cells} == {one.name for one in references.REFERENCES}
    assert {(cell.features, cell.n_seen) for cell in cells} == {("reference", 0)}
    assert {cell.how for cell in cells} == {"probe", "supervised"}
    assert len(cells) == 10
    drawn = [(one.config.data.label_fraction, one.config.data.label_seed) for one in behind]
    assert drawn == 2 * [(0.05, 42), (0.05, 43), (0.05, 44), (1.0, 42)]  # the probe's draws
    assert len({one.folder for one in behind}) == len(list((tmp_path / "runs").iterdir())) == 8
    (handcrafted,) = (cell for cell in cells if cell.row == references.HANDCRAFTED and cell.fraction == 1.0)
    assert handcrafted.macro > 0.9  # the class is one lead's spread
    assert [title for _, title in figures.method_figures(cells)] == [
        f"probe {share}. {figures.INTERVALS}" for share in ("5%", "100%")
    ]
    messages.clear()
    assert compute() == (cells, behind)
    assert not [what for what in messages if not what.startswith("embed")]  # nothing is trained or scored again


@pytest.mark.slow
def test_table1_has_the_references_first(wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "method_names", lambda: ["cg_dmer", "supervised"])
    vit = {"encoder": "vit", "n_patches": 10, "width": 16, "depth": 1, "heads": 2}
    paths = [config_file(tmp_path, wide)]
    for number, settings in enumerate(({"resnet_width": 4}, vit)):
        paths.append(tmp_path / f"labels{number}.toml")
        table = config_table(wide) | {"method": {"name": "supervised", **settings}}
        table["data"] = {"cohort": "elsewhere"}  # references learn from what they are scored on
        paths[-1].write_text(tomli_w.dumps(table))
    request = ReproduceRequest("table1", tmp_path / "out", configs=tuple(paths), budget=budget.Budget(steps=1))
    result = reproduce(request)
    assert list(dict.fromkeys(line["method"] for line in result.lines)) == [
        *(one.name for one in references.REFERENCES), "CG-DMER", "CG-DMER, untrained",
    ]  # fmt: skip
    assert "References: Supervised (CNN) at most 1 steps of 8 on each draw, last weights" in result.scale
    native = {line["method"]: line["feature width"] for line in result.lines if line["feature width"]}
    assert set(native) == {
        "Random Init (CNN)",
        "Random Init (Trans)",
        references.HANDCRAFTED,
        "CG-DMER",
        "CG-DMER, untrained",
    }
    assert {line["probe width"] for line in result.lines if line["feature width"]} == {min(native.values())}
    assert f"All probes use {min(native.values())} features" in result.scale
    assert f"{references.HANDCRAFTED} {native[references.HANDCRAFTED]}" in result.scale
    own = reproduce(dataclasses.replace(request, width="native"))
    assert all(line["probe width"] == line["feature width"] for line in own.lines)
    assert "Probes use the features of each row at their own width" in own.scale
    configs = {path.name for path in (result.folder / "configs").iterdir()}
    assert {"cg_dmer-seed0", "supervised_cnn_wide_own_1_draw_42-seed0"} <= {
        name.removesuffix(".toml") for name in configs
    }
    assert len(configs) == 1 + 2 * (3 + 3 + 1)


def test_peers_have_seeds_by_place_and_the_published_numbers_beside_them(wide: Path, tmp_path: Path) -> None:
    records = list(Cohort.open(wide).records)
    np.savez(tmp_path / "theirs.npz", record=records, embedding=np.random.default_rng(0).normal(size=(len(records), 5)))
    request = ReproduceRequest(
        "peers", tmp_path / "out", configs=(config_file(tmp_path, wide),), budget=budget.Budget(steps=1),
        methods=("cg_dmer",), references=False, seeds=(3,),
        encoders=(str(tmp_path / "theirs.npz"),),
    )  # fmt: skip
    result = reproduce(request)
    # one row per method with means over the tasks, best at few labels first; each task is below
    assert {line["method"] for line in result.lines} == {"CG-DMER", "CG-DMER, untrained", "theirs (own)"}
    assert {key for line in result.lines for key in line} == {"method", "probe 1%", "probe 10%", "probe 100%"}
    few = [float(line["probe 1%"]) for line in result.lines]
    assert few == sorted(few, reverse=True)
    text = (result.folder / "table.md").read_text(encoding="utf-8")
    lines = [[cell.strip() for cell in line.split("|")] for line in text.partition("## Each task")[2].splitlines()]
    head = next(cells for cells in lines if "feature width" in cells)
    widths = {
        (cells[head.index("feature width")], cells[head.index("probe width")])
        for cells in lines
        if "theirs (own)" in cells
    }
    assert widths == {("5", "5")}
    assert "theirs (own) unknown" in result.scale
    page = (result.folder / "page.html").read_text(encoding="utf-8")
    assert_pictures_first(page)
    assert peers.REMARK in page
    assert "MS-ECG-FM" in (result.folder / "table.md").read_text(encoding="utf-8")
    # without seeds, the first five methods have three; MERL and SimCLR have a row with S4
    configs = variants.base_configs([], peers.METHODS, peers.small_configs)
    rows = [variants.Variant(row, config) for row, config in configs.items()]
    n_seeds = {one.label: len(peers.seeds_of(one, ())) for one in rows}
    three = dict.fromkeys(("CG-DMER", "ETP", "MERL (ResNet)", "MELP", "SimCLR"), 3)
    once = dict.fromkeys(("MERL (S4)", "SimCLR (S4)", "ECG-CPC", "ECG-JEPA (random)", "MERIT-style", "ST-MEM"), 1)
    assert n_seeds == three | once
    # each method has its own batch size and learning rate
    assert (configs["CG-DMER"].optim.batch_size, configs["CG-DMER"].optim.lr) == (32, 2e-3)
    assert (configs["SimCLR (S4)"].optim.batch_size, configs["SimCLR (S4)"].optim.lr) == (64, 1e-3)
    assert peers.seeds_of(rows[0], (7,)) == (7,)


@pytest.mark.slow
def test_hand_crafted_features_are_the_probes(wide: Path) -> None:
    recordings = Recordings(Cohort.open(wide), Signal(rate_hz=100, duration_s=4.0), np.arange(5))
    run = runs.Run(Config(), handcrafted.Handcrafted(recordings.signal))
    np.testing.assert_array_equal(embed(run, recordings), handcrafted.handcrafted_features(recordings))


def test_configs_of_labels_are_for_table1(wide: Path, tmp_path: Path) -> None:
    table = config_table(wide) | {"method": {"name": "supervised", "resnet_width": 4}}
    (tmp_path / "labels.toml").write_text(tomli_w.dumps(table))
    with pytest.raises(ConfigError, match="is for the references of table1"):
        reproduce(ReproduceRequest("table3", tmp_path / "out", configs=(tmp_path / "labels.toml",)))
    with pytest.raises(ConfigError, match="is for the references of table1"):
        reproduce(ReproduceRequest("table1", tmp_path / "out", configs=(tmp_path / "labels.toml",), references=False))
    assert not (tmp_path / "out").exists()


def test_folders_of_runs_of_older_versions_are_unchanged(wide: Path) -> None:
    """Folders are named by a hash of the settings: newer settings that change nothing must not change the hash."""
    config = typed(Config, config_table(wide))
    plain = training_runs._config_hash(config)
    older = {
        "data": ("cohort", "train_split", "val_split", "min_report_words", "workers"),
        "optim": (
            "steps", "batch_size", "accumulate", "lr", "pretrained_lr_scale", "weight_decay", "betas", "warmup", "final_lr",
            "clip", "precision", "compile", "device", "seed",
        ),
    }  # fmt: skip
    before = dataclasses.asdict(config)
    for group, names in older.items():
        before[group] = {name: before[group][name] for name in names}
    config = dataclasses.replace(config, method={**config.method, "similar_report": 1.0})
    assert training_runs._config_hash(config) == plain
    hashed = tomli_w.dumps(before) + Cohort.open(wide).fingerprint
    assert plain == hashlib.sha256(hashed.encode()).hexdigest()[:12]
    labelled = dataclasses.replace(config, data=dataclasses.replace(config.data, task="own"))
    assert training_runs._config_hash(labelled) != plain
    distilled = dataclasses.replace(config, data=dataclasses.replace(config.data, teacher="runs/teacher"))
    assert training_runs._config_hash(distilled) != plain
    similar = dataclasses.replace(config, method={**config.method, "similar_report": 0.9})
    assert training_runs._config_hash(similar) != plain
    for changes, is_same in (
        ({"deterministic": False}, True),
        ({"optimizer": "muon"}, False),
        ({"state_lr_scale": 0.1}, False),
    ):
        other = dataclasses.replace(config, optim=dataclasses.replace(config.optim, **changes))
        assert (training_runs._config_hash(other) == plain) == is_same


def test_fig3_counts_neighbours_and_silhouette(cohort_folder: Path) -> None:
    rng = np.random.default_rng(0)
    of = np.repeat(["a", "b"], [30, 10])
    apart = np.where(of == "a", 1.0, -1.0)[:, None] * np.ones(4) + 0.01 * rng.normal(size=(40, 4))
    assert embedding_maps.neighbour_agreement(apart, of) == pytest.approx(
        (1 + 9 / 10) / 2
    )  # each b has nine others of its class
    assert embedding_maps.silhouette(apart, of) > 0.99
    mixed = rng.normal(size=(400, 8))
    method_names = np.repeat(["a", "b"], 200)
    assert embedding_maps.neighbour_agreement(mixed, method_names) == pytest.approx(
        embedding_maps.chance_agreement(method_names), abs=0.05
    )
    assert embedding_maps.chance_agreement(of) == pytest.approx((29 / 39 + 9 / 39) / 2)
    chosen = embedding_maps.choose_recordings(Cohort.open(cohort_folder), "own")
    cohort = Cohort.open(cohort_folder)
    labels = cohort.labels("own", chosen.rows)
    assert (labels.sum(axis=1) == 1).all()
    assert [cohort.tasks["own"][k] for k in labels.argmax(axis=1)] == list(chosen.names)


@pytest.mark.slow
def test_fig3_end_to_end(cohort_folder: Path, tmp_path: Path) -> None:
    config = config_file(tmp_path, cohort_folder)
    request = ReproduceRequest(
        "fig3", tmp_path / "out", configs=(config,), budget=budget.Budget(steps=1), methods=("simclr",)
    )
    result = reproduce(request)
    methods = [line["method"] for line in result.lines]
    assert methods == ["CG-DMER", "CG-DMER, untrained", "SimCLR", "SimCLR, untrained"]
    assert len(list(result.folder.glob("figure*.png"))) == len(methods) / 2
    assert "of own with exactly one of afib, mi, normal." in result.scale


def test_lines_of_tables() -> None:
    cells = [cell("CG-DMER", 0.8), cell("CG-DMER", 0.9, seed=1), cell("MERL (ResNet)", 0.7, features="untrained")]
    first, second = tables.per_task(cells)
    assert first == {
        "method": "CG-DMER", "task": "PTBXL-Super", "how": "probe 1%", "ours": "85.00 (75.0-95.0)", "seeds": "80.0-90.0",
        "paper": "84.22", "ours - paper": "+0.78", "records": 90, "not scored": "X", "counted as 0.5": "",
        "feature width": "", "probe width": "", "pre-training data": "",
    }  # fmt: skip
    assert (second["method"], second["paper"]) == ("MERL (ResNet), untrained", "70.45")
    rows = [cell("Random Init (CNN)", 0.7, features="reference"), cell("Supervised (CNN)", 0.9, how="supervised")]
    assert [(line["method"], line["how"], line["paper"]) for line in tables.per_task(rows)] == [
        ("Random Init (CNN)", "probe 1%", "70.45"), ("Supervised (CNN)", "supervised 1%", ""),
    ]  # fmt: skip
    text = export.markdown([{"a": 1, "b": "", "c": "x|y"}])
    assert text.splitlines() == ["| a | c |", "|---|---|", "| 1 | x/y |"]


def test_table3_sets_only_the_same_tasks_against_each_other() -> None:
    kinds = [variants.Variant(label, Config()) for label in TABLE3]
    some = [cell(kind.label, 0.7, task=task) for kind in kinds for task in ("super", "sub")]
    some += [
        cell(kind.label, 0.1, source="csn", task="csn_full") for kind in kinds
    ]  # beside the paper's: no part of means
    lines = tables.table3(some, kinds)
    assert all(line["linear 1%"] == "70.00" for line in lines)
    assert "linear 1%, ours - paper" not in lines[0]
    assert lines[-1]["linear 1%, paper (these tasks)"] == f"{(84.22 + 69.60) / 2:.2f}"
    assert lines[-1]["linear 1%, ours - paper"] == f"{70 - (84.22 + 69.60) / 2:+.2f}"
    every = [cell(kind.label, 0.7, source=source, task=task) for kind in kinds for source, task in paper_numbers.TASKS]
    first, second = tables.table3(every, kinds)[:2]
    assert "linear 1%, ours - paper" not in first  # a row of ours alone
    assert second["linear 1%, ours - paper"] == "+5.57"
    assert second["linear 1%, step"] == "+0.00"


def test_cohorts_that_would_be_mixed_up_are_refused(cohort_folder: Path, wide: Path, tmp_path: Path) -> None:
    other = config_table(wide)
    other["method"] = {"name": "merl"}
    (tmp_path / "merl.toml").write_text(tomli_w.dumps(other))
    request = ReproduceRequest(
        "table2", tmp_path / "out", configs=(config_file(tmp_path, cohort_folder), tmp_path / "merl.toml")
    )
    with pytest.raises(ConfigError, match="the configs name different cohorts for training"):
        reproduce(request)
    (tmp_path / "wide").symlink_to(wide)
    with pytest.raises(CohortError, match="two of the cohorts have the folder name wide; rename one"):
        reproduce(ReproduceRequest("table2", tmp_path / "out", (wide, tmp_path / "wide")))


def test_cells_are_recomputed_when_their_inputs_change(
    cohort_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from leadwise.reproduce import cells as scoring

    cohort, run = Cohort.open(cohort_folder), PlantedRun()
    computed: list[str] = []

    def probe(values: object, task: object, fraction: float, width: int | None) -> object:
        computed.append(f"{fraction:g}" if width is None else f"{fraction:g} at {width}")
        return genuine(values, task, fraction, width=width)  # type: ignore[arg-type]

    genuine = scoring.probing.probe
    monkeypatch.setattr(scoring.probing, "probe", probe)

    def scored(*fractions: float, width: int | None = None) -> list[Cell]:
        options = scoring.ScoringOptions(fractions, zero_shot=False, width=width)
        return scoring.score_run("r", run, [cohort], tmp_path, options)  # type: ignore[arg-type]

    first = scored(1.0)
    assert computed == ["1"]
    assert [cell.fraction for cell in scored(0.5, 1.0)] == [0.5, 1.0]
    assert computed == ["1", "0.5"]  # cells of another table are not computed again
    run.fingerprint = "other weights"
    assert scored(1.0) == first
    assert computed == ["1", "0.5", "1"]
    (reduced,) = scored(1.0, width=3)
    assert computed == ["1", "0.5", "1", "1 at 3"]
    assert (reduced.feature_width, reduced.probe_width) == (4, 3)
    assert (first[0].feature_width, first[0].probe_width) == (4, 4)
    assert scored(1.0, width=3) == [reduced]
    assert scored(1.0) == first


def test_the_published_protocol_is_a_row_of_its_own_and_is_marked(wide: Path, tmp_path: Path) -> None:
    from leadwise.reproduce import cells as scoring

    options = scoring.ScoringOptions((1.0,), zero_shot=False, legacy=True)
    cells = scoring.score_run("r", PlantedRun(), [Cohort.open(wide)], tmp_path, options)  # type: ignore[arg-type]
    strict, legacy = tables.per_task(cells)
    assert strict["how"] == "probe 100%"
    assert legacy["how"] == "merl-legacy probe, not comparable, 100%"
    with pytest.raises(ConfigError, match="it goes with table1, not with fig2"):
        reproduce(ReproduceRequest("fig2", tmp_path / "out", (wide,), legacy=True))
    assert not (tmp_path / "out").exists()


def test_invalid_requests_are_refused_before_anything_is_trained(
    cohort_folder: Path, wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    halves = config_file(tmp_path, cohort_folder, accumulate=2)
    with pytest.raises(ConfigError, match=r"method.encoder = 'resnet' needs"):  # after CG-DMER would have been trained
        reproduce(ReproduceRequest("table1", out, configs=(halves,), methods=("merl",)))
    with pytest.raises(ConfigError, match="table3 compares variants of CG-DMER"):
        reproduce(ReproduceRequest("table3", out, (wide,), methods=("merl",)))
    with pytest.raises(ValueError, match="did you mean 'simclr'"):
        reproduce(ReproduceRequest("table1", out, (wide,), methods=("simcrl",)))
    odd = config_table(wide)
    odd["signal"] = {"rate_hz": 100, "duration_s": 3.0}
    (tmp_path / "odd.toml").write_text(tomli_w.dumps(odd))
    with pytest.raises(ConfigError, match="n_patches 200: n_patches = 200 does not divide the 300 samples"):
        reproduce(ReproduceRequest("fig2", out, configs=(tmp_path / "odd.toml",)))
    with pytest.raises(ValueError, match="no prompts are shipped"):
        reproduce(ReproduceRequest("table2", out, configs=(config_file(tmp_path, cohort_folder),)))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="reproduce is one process"):
        reproduce(ReproduceRequest("table2", out, configs=(config_file(tmp_path, cohort_folder),)))
    assert not (out / "runs").exists()


def test_each_target_compares_what_the_paper_does() -> None:
    assert set(variants.compared_methods("table2")) == {
        "cg_dmer",
        "merl",
        "etp",
        "c_melt",
        "melp",
        "merit",
        "echoing_ecg",
        "ms_ecg_fm",
        "tamer",
    }
    others = {"supervised", "student", "dual_phase_cmr", "ptacl", "myo_ecg", "ecg_flow_cmr"}
    assert set(variants.compared_methods("table1")) == set(method_names()) - others
    assert set(variants.compared_methods("fig3")) == {"cg_dmer", "merl", "simclr", "st_mem"}
    rows = variants.base_configs([])
    assert {"MTAE", "MLAE", "MERL (ViT)", "TS-TCC"} <= set(rows)
    assert {paper_numbers.row_name(config.method) for config in rows.values()} == set(rows)  # row names are unique


def test_two_processes_in_one_folder_are_refused(wide: Path, tmp_path: Path) -> None:
    with training_runs.locked_folder(tmp_path), pytest.raises(ConfigError, match="another reproduce is at work in"):
        reproduce(ReproduceRequest("table3", tmp_path, configs=(config_file(tmp_path, wide),)))


def test_a_budget_gives_all_seeds_the_same_steps(wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = iter([7, 9])
    monkeypatch.setattr(budget, "steps_in", lambda config, minutes: (next(measured), 1.0))
    config = with_defaults(typed(Config, config_table(wide)))
    steps = []
    for seed, start in ((0, ""), (1, ""), (2, str(tmp_path))):
        data, optim = dataclasses.replace(config.data, init=start), dataclasses.replace(config.optim, seed=seed)
        variant = variants.Variant("one", dataclasses.replace(config, data=data, optim=optim))
        steps.append(training_runs.with_budget(budget.Budget(minutes=1), tmp_path, variant).config.optim.steps)
    assert steps == [7, 7, 7]
    wider = dataclasses.replace(config, optim=dataclasses.replace(config.optim, batch_size=config.optim.batch_size + 1))
    variant = variants.Variant("other", wider)
    assert training_runs.with_budget(budget.Budget(minutes=1), tmp_path, variant).config.optim.steps == 9


def test_a_finished_run_needs_no_resume_state(wide: Path, tmp_path: Path) -> None:
    config = with_defaults(typed(Config, config_table(wide, steps=2)))
    variant = variants.Variant("one", config)
    messages: list[str] = []
    first = training_runs.load_or_train(tmp_path, variant, lambda what, done, total: messages.append(what))
    assert messages
    assert first.folder is not None
    shutil.rmtree(first.folder / "resume")
    messages.clear()
    again = training_runs.load_or_train(tmp_path, variant, lambda what, done, total: messages.append(what))
    assert again.fingerprint == first.fingerprint
    assert not messages


def test_methods_are_drawn_by_task_with_the_paper_beside_them() -> None:
    cells = [
        cell(row, 0.7, task=task, features=features, fraction=None, how="zero-shot")
        for row in ("CG-DMER", "MERL (ViT)")
        for task in ("super", "sub")
        for features in ("trained", "untrained")
    ]
    ((figure, caption),) = figures.method_figures(cells)
    assert caption.startswith("zero-shot.")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "PTBXL-Super: CG-DMER", "PTBXL-Super: MERL (ViT)", "PTBXL-Sub: CG-DMER", "PTBXL-Sub: MERL (ViT)",
    ]  # fmt: skip
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["trained", "untrained", "paper"]


def test_a_sweep_is_drawn_with_even_steps_and_the_papers_optimum() -> None:
    points = [
        {"x": x, "group": "probe", "y": y, "low": y - 1, "high": y + 1} for x, y in ((25, 70), (200, 60), (100, 75))
    ]
    figure = lines.draw({"patches": points, "ratio": points[:1]}, {"patches": 100})
    drawn = {line.get_gid(): line for axes in figure.axes for line in axes.get_lines() if line.get_gid()}
    assert drawn["patches-probe"].get_xdata().tolist() == [0, 1, 2]  # type: ignore[union-attr]
    assert list(drawn["patches-probe"].get_ydata()) == [70, 75, 60]
    assert drawn["marked-patches"].get_xdata()[0] == 1  # type: ignore[index]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["25", "100", "200"]
    with pytest.raises(ValueError, match="no points to draw"):
        lines.draw({"patches": []})


def test_a_cohort_without_tasks_cannot_be_scored(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(1000, 12)))
    row = Row("a", tmp_path / "a.npy", "p", "train", leads=LEADS, rate_hz=100, units="mV")
    write(Source("bare", [row]), tmp_path / "bare", min_report_words=0)
    with pytest.raises(CohortError, match=r"none of .*bare has a task to score; add one with --cohorts"):
        reproduce(ReproduceRequest("table2", tmp_path / "out", (tmp_path / "bare",)))
    assert set(TARGETS) == {"table1", "table2", "table3", "fig2", "fig3"}
    assert json.dumps(sorted(TARGETS))


def test_means_over_tasks_and_seeds() -> None:
    def cell(
        row: str, seed: int, task: str, macro: float, features: str = "trained", fraction: float | None = 0.01
    ) -> Cell:
        how = "zero-shot" if fraction is None else "probe"
        return Cell(row, seed, "own", "own", task, how, fraction, features, macro, macro - 0.1, macro + 0.1, 10, ())

    cells = [
        cell("A", 0, "x", 0.6), cell("A", 0, "y", 0.8), cell("A", 1, "x", 0.7), cell("A", 1, "y", 0.9),
        cell("A", 0, "x", 0.5, "untrained"), cell("A", 0, "y", 0.5, "untrained"),
        cell("B", 0, "x", 0.9), cell("B", 0, "y", 0.8),
        cell("B", 0, "x", 0.55, fraction=None), cell("B", 0, "y", 0.65, fraction=None),
    ]  # fmt: skip
    assert tables.means_table(cells) == [
        {"method": "B", "probe 1%": "85.0", "zero-shot": "60.0"},
        {"method": "A", "probe 1%": "75.0 (70.0-80.0)", "zero-shot": ""},
        {"method": "A, untrained", "probe 1%": "50.0", "zero-shot": ""},
    ]
    drawn = figures.mean_figures(cells)
    assert [caption.partition(":")[0] for _, caption in drawn] == ["probe 1%", "zero-shot"]
