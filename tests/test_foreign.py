"""Encoders of other programs: the same numbers from a run, its embeddings file, its ONNX file and a Python entry; and errors."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from api_run import write_run
from command_line import Completed, invoke
from conftest import SIGNAL, config_table

from leadwise import config, onnx_export
from leadwise import run as runs
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Recordings
from leadwise.data.stored_embeddings import StoredEmbeddings, StoredEmbeddingsError, read_embeddings
from leadwise.evaluate import compare as comparing
from leadwise.evaluate.card.card import make_card
from leadwise.evaluate.embed import EmbedError, embed_cohort, write_npz
from leadwise.evaluate.probe import run_probe
from leadwise.evaluate.protocol import run_protocol
from leadwise.evaluate.shift import run_shift
from leadwise.evaluate.shift_labels import LabelMap, ShiftError
from leadwise.foreign.foreign_run import ForeignError
from leadwise.foreign.onnx_file import external_files
from leadwise.foreign.opening import open_encoder
from leadwise.hub import HubError
from leadwise.nn.normalize import normalize
from leadwise.pages.card import build_page
from leadwise.reproduce.budget import Budget
from leadwise.reproduce.reproduction import ReproduceRequest, reproduce
from leadwise.training.finetune import FinetuneSettings, finetune

SIGNAL_TOML = "[signal]\nrate_hz = 100\nduration_s = 4.0\n"

# a torch model of the user's own, a function that wraps a run, and objects that cannot be used
OWN = """
import numpy as np
import torch
from pathlib import Path
from torch import nn
from sklearn.decomposition import PCA
from leadwise import run as runs
from leadwise.batch import Signal
from leadwise.nn.normalize import normalize

SIGNAL = Signal(rate_hz=100, duration_s=4.0)
LEAD_II = Signal(leads=("II",), rate_hz=100, duration_s=4.0, normalize="lead_zscore")

class Net(nn.Module):
    signal, trained_on = SIGNAL, ("csn",)
    def __init__(self, detached=False):
        super().__init__()
        self.conv, self.detached = nn.Conv1d(12, 6, 16, stride=8), detached
    def embed(self, batch):
        out = self.conv(batch.ecg).relu().mean(-1)
        return out.detach() if self.detached else out

def net(pretrained=True):
    if pretrained:
        torch.manual_seed(7)
    return Net()

class Wrapped:
    normalizes = True
    def __init__(self):
        self.run = runs.load(Path(__file__).parent / "run", "cpu")
        self.signal = self.run.config.signal
    def embed(self, batch):
        return self.run.method.embed_ecg(batch).numpy()

class Spread:
    signal = LEAD_II
    def transform(self, X):
        return np.stack([X.std(1), X.min(1), X.max(1)], 1)

def detached():
    return Net(detached=True)
def pca(fitted=True):
    pca = PCA(3)
    pca.signal = SIGNAL
    return pca.fit(np.random.default_rng(0).normal(size=(20, 4800))) if fitted else pca
def unfitted():
    return pca(fitted=False)
def fails():
    raise KeyError("weights")
def nothing():
    return 3
class NoSignal:
    def embed(self, batch):
        return batch.ecg.mean(-1)
class Wide(NoSignal):
    signal = SIGNAL
    def embed(self, batch):
        return batch.ecg
class Texts(Wide):
    def embed(self, batch):
        return ["a"] * len(batch)
class BadNames(NoSignal):
    signal, trained_on = SIGNAL, 5
spread = Spread()
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, cohort_folder: Path) -> Path:
    """A folder with a run, its embeddings of the cohort in two forms, own.py, and descriptions that name the signal."""
    home = tmp_path_factory.mktemp("foreign")
    run = runs.load(write_run(home / "run", cohort_folder), "cpu")
    cohort = Cohort.open(cohort_folder)
    rows = np.arange(len(cohort))
    features = embed_cohort(run, cohort)
    write_npz(home / "mine.npz", features, cohort, rows)
    completed = invoke("embed", home / "run", cohort_folder, "-o", home / "mine.parquet")
    assert completed.returncode == 0, completed.stderr
    (home / "own.py").write_text(OWN)
    for kind in ("npz", "parquet"):
        (home / f"{kind}.toml").write_text(f'embeddings = "mine.{kind}"\n{SIGNAL_TOML}')
    return home


@pytest.fixture
def run(home: Path) -> runs.Run:
    return runs.load(home / "run", "cpu")


@pytest.fixture
def cohort(cohort_folder: Path) -> Cohort:
    return Cohort.open(cohort_folder)


def probe_of(run: runs.Run, cohort: Cohort):
    return run_probe(run, cohort, "own", (1.0,), (42,)).results


# ----------------------------------------------------------------------------------------------------- the same numbers


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_an_embeddings_file_has_the_scores_of_its_run(kind: str, home: Path, run: runs.Run, cohort: Cohort) -> None:
    opened = open_encoder(home / f"{kind}.toml")
    expected, results = probe_of(run, cohort), probe_of(opened, cohort)
    for fraction, by_features in results.items():
        assert list(by_features) == ["trained", "handcrafted"]  # an untrained encoder cannot be had from a file
        for name, result in by_features.items():
            assert np.array_equal(result.test_scores, expected[fraction][name].test_scores)
            assert result.score.macro == expected[fraction][name].score.macro
    report = run_probe(opened, cohort, "own", (1.0,))
    assert report.gain(1.0) is None
    assert report.to_json()["fractions"]["1"]["gain_over_untrained"] is None


def test_a_python_entry_that_wraps_a_run_has_its_scores(home: Path, run: runs.Run, cohort: Cohort) -> None:
    opened = open_encoder(f"{home / 'own.py'}:Wrapped")
    assert opened.config.signal == run.config.signal
    assert np.array_equal(embed_cohort(opened, cohort), embed_cohort(run, cohort))
    expected, results = probe_of(run, cohort), probe_of(opened, cohort)
    for name in ("trained", "handcrafted"):
        assert np.array_equal(results[1.0][name].test_scores, expected[1.0][name].test_scores)


def test_an_onnx_file_has_the_embeddings_of_its_run(home: Path, run: runs.Run, cohort: Cohort, tmp_path: Path) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="needs the extra onnx")
    opened = open_encoder(onnx_export.export_onnx(run, tmp_path / "mine.onnx"))
    expected = embed_cohort(run, cohort)
    assert np.abs(embed_cohort(opened, cohort) - expected).max() < onnx_export.TOLERANCE
    assert (opened.name, opened.pretraining_data, opened.config.signal) == ("mine", "folder", run.config.signal)
    trained = probe_of(opened, cohort)[1.0]["trained"].score.macro
    assert trained == pytest.approx(probe_of(run, cohort)[1.0]["trained"].score.macro, abs=0.02)


def test_embeddings_of_an_onnx_file_are_cached_beside_it(cohort: Cohort, tmp_path: Path) -> None:
    """The fingerprint covers the file and the files of its external tensors, also those of a subgraph."""
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")

    def constant(name: str, values: np.ndarray, file: str) -> object:
        tensor = onnx.numpy_helper.from_array(values.astype(np.float32), name)
        (tmp_path / file).write_bytes(tensor.raw_data)
        onnx.external_data_helper.set_external_data(tensor, location=file)
        tensor.ClearField("raw_data")
        return tensor

    node, info, kind = onnx.helper.make_node, onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    branches = [
        onnx.helper.make_graph([node("Mul", ["high", name], [f"by_{name}"])], name, [], [info(f"by_{name}", kind, ["n", 12])],
                               [constant(name, np.full(12, value), f"{name}.bin")])
        for name, value in (("one", 2.0), ("other", 3.0))
    ]  # fmt: skip
    graph = onnx.helper.make_graph(
        [node("ReduceMax", ["x"], ["peak"], axes=[2], keepdims=0), node("Add", ["peak", "bias"], ["high"]),
         node("If", ["choice"], ["out"], then_branch=branches[0], else_branch=branches[1])],
        "scaled maxima", [info("x", kind, ["n", 12, 400])], [info("out", kind, ["n", 12])],
        [constant("bias", np.zeros(12), "bias.bin"), onnx.numpy_helper.from_array(np.array(True), "choice")],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    path = tmp_path / "mine.onnx"
    path.write_bytes(model.SerializeToString())
    description = tmp_path / "mine.toml"
    description.write_text(f'onnx = "mine.onnx"\n{SIGNAL_TOML}normalize = "lead_zscore"\n')
    assert [one.name for one in external_files(path) or ()] == ["bias.bin", "one.bin", "other.bin"]

    # the second command reads what the first one wrote
    first = open_encoder(description)
    assert first.cache_folder == tmp_path / "mine.onnx.embeddings"
    rows, few = np.arange(10), np.arange(4)
    embedded = embed_cohort(first, cohort, rows=few)
    again = open_encoder(description)
    assert again.fingerprint == first.fingerprint
    again.method.embed_ecg = None  # must not be called
    assert np.array_equal(embed_cohort(again, cohort, rows=few), embedded)

    # another value in a file of weights is another encoder, even if the branch that reads it is not taken
    for name in ("bias.bin", "other.bin"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(np.full(12, 0.5, dtype=np.float32).tobytes())
        other = open_encoder(description)
        assert other.fingerprint != first.fingerprint
        assert np.array_equal(embed_cohort(other, cohort, rows=few), embedded) == (name == "other.bin")
        (tmp_path / name).write_bytes(content)
    assert np.array_equal(embed_cohort(open_encoder(description), cohort, rows=rows)[:4], embedded)


@pytest.mark.parametrize("batch_size", ["batch", 1, 7])
def test_an_onnx_file_of_another_program(batch_size: str | int, cohort: Cohort, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    shape = [batch_size, 12, 400]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("ReduceMax", ["x"], ["high"], axes=[2], keepdims=0),
         onnx.helper.make_node("Neg", ["high"], ["low"])],
        "maxima", [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [batch_size, 12]) for name in ("high", "low")],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "maxima.onnx")
    with pytest.raises(ForeignError, match=r"have no leads, rate_hz, duration_s.* name it under"):
        open_encoder(tmp_path / "maxima.onnx")
    description = tmp_path / "maxima.toml"
    description.write_text(f'onnx = "maxima.onnx"\n{SIGNAL_TOML}normalize = "lead_zscore"\n')
    with pytest.raises(ForeignError, match=r"several outputs; .* one of high, low"):
        open_encoder(description)
    description.write_text(f'onnx = "maxima.onnx"\noutput = "high"\n{SIGNAL_TOML}normalize = "lead_zscore"\n')
    batch = Recordings(cohort, SIGNAL).batch(range(10))
    expected = normalize(batch.ecg, batch.observed, "lead_zscore").amax(-1).numpy()
    assert np.allclose(embed_cohort(open_encoder(description), cohort, rows=np.arange(10)), expected)
    description.write_text('onnx = "maxima.onnx"\noutput = "high"\n[signal]\nrate_hz = 500\nduration_s = 4.0\n')
    with pytest.raises(ForeignError, match="12 leads of 2000 samples; correct leads, rate_hz"):
        open_encoder(description)


def test_a_transformer_of_scikit_learn(home: Path, cohort: Cohort) -> None:
    opened = open_encoder(f"{home / 'own.py'}:spread")
    batch = Recordings(cohort, opened.config.signal).batch(range(5))
    x = normalize(batch.ecg, batch.observed, "lead_zscore")[:, 0].numpy()
    expected = np.stack([x.std(1), x.min(1), x.max(1)], 1)
    assert np.allclose(embed_cohort(opened, cohort, rows=np.arange(5)), expected)
    assert embed_cohort(open_encoder(f"{home / 'own.py'}:pca"), cohort, rows=np.arange(5)).shape == (5, 3)
    with pytest.raises(ForeignError, match="PCA is not fitted; fit it in your function"):
        open_encoder(f"{home / 'own.py'}:unfitted")


# ------------------------------------------------------------------------------------------------- controls and training


def test_an_entry_with_pretrained_has_the_untrained_control(home: Path, cohort: Cohort) -> None:
    opened = open_encoder(f"{home / 'own.py'}:net")
    results = probe_of(opened, cohort)[1.0]
    assert list(results) == ["trained", "untrained", "handcrafted"]
    trained, untrained, again = (embed_cohort(one, cohort) for one in (opened, opened.untrained(), opened.untrained()))
    assert np.array_equal(untrained, again)
    assert not np.allclose(trained, untrained)
    assert opened.fingerprint == open_encoder(f"{home / 'own.py'}:net").fingerprint
    assert opened.fingerprint != opened.untrained().fingerprint != open_encoder(f"{home / 'own.py'}:Net").fingerprint


def test_a_torch_module_is_fine_tuned(home: Path, cohort: Cohort) -> None:
    settings = FinetuneSettings(epochs=2, batch_size=16, encoder_lr=1e-2, head_lr=1e-2, device="cpu")
    opened = open_encoder(f"{home / 'own.py'}:net", "cpu")
    before = opened.method.encoder.conv.weight.clone()
    report = finetune(opened, cohort, "own", settings=settings)
    assert list(report.results[1.0]) == ["trained", "untrained"]
    frozen = FinetuneSettings(epochs=2, batch_size=16, encoder_lr=1e-12, head_lr=1e-2, device="cpu")
    alone = finetune(opened, cohort, "own", settings=frozen)
    assert not np.allclose(
        report.results[1.0]["trained"].test_scores, alone.results[1.0]["trained"].test_scores, atol=1e-3
    )
    assert torch.equal(before, opened.method.encoder.conv.weight)
    assert list(
        finetune(open_encoder(f"{home / 'own.py'}:Net", "cpu"), cohort, "own", settings=settings).results[1.0]
    ) == ["trained"]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("mine.npz", "it has no encoder"),
        ("own.py:spread", "its object, a Spread, is no torch.nn.Module"),
        ("own.py:detached", r"its embed\(batch\) returns vectors without a gradient"),
    ],
)
def test_what_cannot_be_trained_is_one_error(word: str, reason: str, home: Path, cohort: Cohort) -> None:
    with pytest.raises(ForeignError, match=f"cannot be fine-tuned: {reason}.* leadwise probe scores it"):
        finetune(open_encoder(home / word), cohort, "own")


# ----------------------------------------------------------------------------------- shift, compare, protocol, card, table1


MAP = '[fine."folder.own"]\nnormal = ["normal"]\nafib = ["afib"]\n'


def test_shift_takes_a_file_for_each_cohort(home: Path, run: runs.Run, cohort: Cohort, tmp_path: Path) -> None:
    # a second cohort with the same names of records, and another file for it
    shutil.copytree(cohort.folder, tmp_path / "second")
    second = Cohort.open(tmp_path / "second")
    (tmp_path / "map.toml").write_text(MAP)
    label_map = LabelMap.load(tmp_path / "map.toml")
    shutil.copy(home / "mine.npz", tmp_path / "first.npz")
    rows = np.arange(len(second))
    write_npz(tmp_path / "second.npz", embed_cohort(run, second), second, rows)
    (tmp_path / "both.toml").write_text(
        f'name = "both"\n{SIGNAL_TOML}[embeddings]\n{cohort.name} = "first.npz"\nsecond = "second.npz"\n'
    )
    opened = open_encoder(tmp_path / "both.toml")

    # the same scores as the run's, without the untrained control
    expected, report = (run_shift(one, cohort, "own", [second], (1.0,), label_map=label_map, changes=False)
                        for one in (run, opened))  # fmt: skip
    assert [row["features"] for row in report.rows()] == ["trained", "handcrafted"]
    by_features = {row["features"]: row for row in expected.rows()}
    for row in report.rows():
        assert row == by_features[row["features"]]
    assert report.to_json()["pretraining_data"] == "unknown"
    assert "nothing is known" in report.data[0].overlap.remark

    # each cohort has its own file, and a third has none
    write_npz(tmp_path / "second.npz", embed_cohort(run, second) + 1, second, rows)
    opened = open_encoder(tmp_path / "both.toml")
    assert np.allclose(embed_cohort(opened, second), embed_cohort(opened, cohort) + 1)
    shutil.copytree(cohort.folder, tmp_path / "third")
    with pytest.raises(StoredEmbeddingsError, match='named for cohort third, only for own, second; add third = "FILE"'):
        embed_cohort(opened, Cohort.open(tmp_path / "third"))


def test_changed_ecgs_need_the_encoder(home: Path, cohort: Cohort) -> None:
    with pytest.raises(ShiftError, match=r"mine is an embeddings file mine.npz: without its encoder.*--test"):
        run_shift(open_encoder(home / "mine.npz"), cohort, "own", (), (1.0,))
    report = run_shift(open_encoder(f"{home / 'own.py'}:net"), cohort, "own", (), (1.0,))
    assert {row["shift"] for row in report.rows()} >= {"lead I only", "muscle noise, 0 dB"}


def test_zero_shot_needs_a_text_encoder(home: Path, cohort: Cohort) -> None:
    pair = open_encoder(home / "npz.toml"), open_encoder(home / "npz.toml")
    with pytest.raises(ValueError, match=r"npz .embeddings file mine.npz. has no text encoder for prompts"):
        comparing.run_compare(pair, cohort, "own", comparing.ZeroShotScorer())


def test_compare_takes_a_run_and_its_file(home: Path, run: runs.Run, cohort: Cohort) -> None:
    encoders = run, open_encoder(home / "npz.toml")
    result = comparing.run_compare(encoders, cohort, "own", comparing.ProbeScorer(1.0, (42,)), n_replicates=200)
    assert result.macro.difference == 0.0
    content = result.to_json()
    assert content["pretraining_data"] == {"a": "folder", "b": "unknown"}
    assert "nothing is known" in content["training_overlap"]["b"]
    assert result.long_rows()[0]["pretraining_data_b"] == "unknown"


def test_the_published_probe_of_a_file_equals_that_of_its_run(home: Path, run: runs.Run, cohort: Cohort) -> None:
    first, second = (
        run_protocol(one, cohort, "own", (1.0,), "merl-legacy") for one in (run, open_encoder(home / "npz.toml"))
    )
    assert first.lines[0].score.macro == second.lines[0].score.macro
    assert second.to_json()["pretraining_data"] == "unknown"


def test_a_card_of_a_file_states_what_it_lacks(home: Path, run: runs.Run, cohort: Cohort) -> None:
    card = make_card(open_encoder(home / "npz.toml"), cohort, quick=True)
    expected = make_card(run, cohort, quick=True)
    assert card.scores[0].trained.macro == expected.scores[0].trained.macro
    assert card.robustness is None
    assert not card.maps
    remarks = " ".join(card.remarks)
    for sentence in ("Robustness is not scored", "no occlusion maps", "embeds no texts", "no untrained encoder"):
        assert sentence in remarks
    content = json.loads(json.dumps(card.to_json(), allow_nan=False))
    assert content["facts"]["pretraining_data"] == "unknown"
    assert content["facts"]["steps"] is None
    assert "nothing is known of its pre-training data" in content["facts"]["tested_and_trained_on"]
    assert "unknown" in build_page(card).html()


def test_a_card_of_an_entry_has_robustness_and_maps(home: Path, cohort: Cohort) -> None:
    card = make_card(open_encoder(f"{home / 'own.py'}:net"), cohort, n_records=20, quick=True)
    assert card.robustness is not None
    assert card.facts["n_parameters"] == 12 * 6 * 16 + 6


def test_table1_has_rows_of_own_encoders(home: Path, cohort_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "named.toml").write_text(
        f'name = "theirs"\nembeddings = "{home / "mine.npz"}"\ntrained_on = ["csn", "ptbxl"]\n{SIGNAL_TOML}'
    )
    table = config_table(cohort_folder)
    (tmp_path / "method.toml").write_text(config.dumps(config.typed(config.Config, table)))
    request = ReproduceRequest(
        "table1", tmp_path / "out", configs=(tmp_path / "method.toml",), budget=Budget(steps=1), methods=("cg_dmer",),
        encoders=(str(tmp_path / "named.toml"), f"{home / 'own.py'}:Net", str(home / "run")), references=False,
    )  # fmt: skip
    result = reproduce(request)
    rows = {(line["method"], line["how"]): line for line in result.lines}
    theirs, net, run = (rows[name, "probe 100%"] for name in ("theirs (own)", "Net (own)", "run (own)"))
    assert (theirs["pre-training data"], net["pre-training data"], run["pre-training data"]) == (
        "csn, ptbxl",
        "csn",
        "folder",
    )
    assert ("theirs (own), untrained", "probe 100%") not in rows
    assert ("run (own), untrained", "probe 100%") in rows
    assert theirs["ours"] == run["ours"]
    assert theirs["probe width"] == 6  # that of the narrowest row, Net
    assert "theirs (own) csn, ptbxl; Net (own) csn; run (own) folder" in result.scale

    # what is stated may change without the embeddings: the scores are stored, the statement is not
    (tmp_path / "named.toml").write_text((tmp_path / "named.toml").read_text().replace('["csn", "ptbxl"]', "[]"))
    again = {(line["method"], line["how"]): line for line in reproduce(request).lines}
    assert again["theirs (own)", "probe 100%"] == theirs | {"pre-training data": "none"}

    with pytest.raises(config.ConfigError, match=r"two rows are named 'mine .own.'; give one of them another name"):
        reproduce(ReproduceRequest("table1", tmp_path / "no", encoders=(str(home / "mine.npz"),) * 2))
    with pytest.raises(config.ConfigError, match="rows of table1 and peers, not of fig3; choose one of these"):
        reproduce(ReproduceRequest("fig3", tmp_path / "no", encoders=(str(home / "mine.npz"),)))


# --------------------------------------------------------------------------------------------------- the training data


@pytest.mark.parametrize(
    ("stated", "data", "sentence"),
    [
        ("", "unknown", "unknown by patient (nothing is known of its pre-training data)"),
        ("trained_on = []", "none", "No person of the test split was trained on (5 persons)"),
        ('trained_on = ["csn"]', "csn", "unknown by patient (stated to be trained on csn, scored on folder)"),
        ('trained_on = ["csn", "folder"]', "csn, folder", "stated to contain folder, which is scored, without the patients"),
        ('trained_on = ["folder"]\npatients = "ids.txt"', "folder", "1 of the 5 persons of the test split were trained on"),
    ],
)  # fmt: skip
def test_the_leak_check_states_what_is_known(
    stated: str, data: str, sentence: str, home: Path, cohort: Cohort, tmp_path: Path
) -> None:
    test = cohort.rows("test")
    (tmp_path / "ids.txt").write_text(f"{cohort.patients.take(test)[0]}\n\nsomeone\n")
    (tmp_path / "own.toml").write_text(f'embeddings = "{home / "mine.npz"}"\n{stated}\n{SIGNAL_TOML}')
    report = run_probe(open_encoder(tmp_path / "own.toml"), cohort, "own", (1.0,), (42,))
    content = report.to_json()
    assert sentence in report.overlap.sentence
    assert content["pretraining_data"] == data
    known = {"none": 0}.get(data, 1 if "patients" in stated else None)
    assert content["n_people_seen_in_pretraining"] == known
    assert report.long_rows()[0]["pretraining_data"] == data


def test_an_entry_states_its_training_data_and_a_description_overrides_it(home: Path) -> None:
    assert open_encoder(f"{home / 'own.py'}:Net").pretraining_data == "csn"
    (home / "entry.toml").write_text('name = "mine"\npython = "own.py:Net"\ntrained_on = ["code15"]\n')
    opened = open_encoder(home / "entry.toml")
    assert (opened.name, opened.pretraining_data, opened.origin) == ("mine", "code15", "Python entry own.py:Net")


# ----------------------------------------------------------------------------------------------------- embeddings files


def records_of(cohort: Cohort) -> list[str]:
    return cohort.records.take(np.arange(len(cohort)))


def stored(path: Path, **arrays: object) -> StoredEmbeddings:
    np.savez(path, **{name: np.asarray(values) for name, values in arrays.items()})
    return StoredEmbeddings({"": read_embeddings(path)})


def test_unused_rows_are_not_checked_and_the_order_is_free(cohort: Cohort, tmp_path: Path) -> None:
    names = records_of(cohort)
    vectors = np.random.default_rng(0).normal(size=(len(names) + 3, 4))
    vectors[-3:] = np.nan
    order = np.random.default_rng(1).permutation(len(vectors))
    every = np.array([*names, "other", "other", "third"])
    table = stored(tmp_path / "x.npz", record=every[order], embedding=vectors[order].astype(np.float16), more=[1, 2])
    rows = np.array([5, 3, 40])
    assert np.array_equal(table.take(cohort, rows), vectors[rows].astype(np.float16).astype(np.float32))
    assert table.usable(cohort, rows)[0].tolist() == [5, 3, 40]


def test_records_that_the_file_leaves_out_are_left_out(cohort: Cohort, tmp_path: Path) -> None:
    names = records_of(cohort)
    table = stored(tmp_path / "x.npz", record=names[2:], embedding=np.ones((len(names) - 2, 3)), left_out=names[:2])
    rows, left_out = table.usable(cohort, np.arange(5))
    assert rows.tolist() == [2, 3, 4]
    assert left_out.line == "2 recordings left out (2: the file of embeddings has none of it)"
    frame = pd.DataFrame({"ecg": names, "refused": ["short", *[""] * (len(names) - 1)]})
    frame["embedding"] = [None, *([float(i), 1.0] for i in range(1, len(names)))]
    frame.to_parquet(tmp_path / "x.parquet")
    table = StoredEmbeddings({"": read_embeddings(tmp_path / "x.parquet")})
    assert table.usable(cohort, np.arange(3))[0].tolist() == [1, 2]
    assert table.take(cohort, np.array([4, 1])).tolist() == [[4.0, 1.0], [1.0, 1.0]]


def test_names_may_be_numbers_or_bytes(cohort: Cohort, tmp_path: Path) -> None:
    names = records_of(cohort)
    table = stored(tmp_path / "x.npz", record=np.array(names, dtype=np.bytes_), embedding=np.eye(len(names)))
    assert table.take(cohort, np.array([2])).argmax() == 2
    assert read_embeddings(number_file(tmp_path / "n.npz")).names.tolist() == ["7", "12"]


def number_file(path: Path) -> Path:
    np.savez(path, record=np.array([7, 12]), embedding=np.ones((2, 2)))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"record": lambda n, v: n[:50], "embedding": lambda n, v: v[:50]},
         "no embedding of 10 of the 60 records that are scored .first: ecg50.; add them, or list"),
        ({"record": lambda n, v: [f"x{name}" for name in n]}, "none of its 60 records is one of the 60 that are scored"),
        ({"record": lambda n, v: [n[1], *n[1:]]}, "no embedding of 1 of the 60"),
        ({"record": lambda n, v: [*n, n[4]], "embedding": lambda n, v: np.vstack([v, v[:1]])},
         "1 of the records that are scored have several rows .first: ecg04.; keep one row"),
        ({"embedding": lambda n, v: np.where(np.arange(60)[:, None] == 7, np.nan, v)},
         "1 of the embeddings that are scored are not finite .first: record ecg07."),
        ({"embedding": lambda n, v: np.where(np.arange(60)[:, None] == 7, 1e300, v)}, "not finite"),
        ({"embedding": lambda n, v: v[:59]}, r"embeddings of shape .59, 3. for 60 records; they must be .N, D."),
        ({"embedding": lambda n, v: v[:, 0]}, r"embeddings of shape .60,. for 60"),
        ({"embedding": lambda n, v: v.astype(str)}, "embeddings of type <U.*; they must be numbers"),
        ({"embedding": lambda n, v: v.astype(object)}, "without pickled objects"),
        ({"embedding": None}, "it has no array `embedding`; write it with numpy.savez"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_one_error(change: dict, message: str, cohort: Cohort, tmp_path: Path) -> None:
    names, vectors = records_of(cohort), np.random.default_rng(0).normal(size=(60, 3))
    arrays = {"record": names, "embedding": vectors}
    for name, function in change.items():
        arrays[name] = None if function is None else function(names, vectors)
    arrays = {name: values for name, values in arrays.items() if values is not None}
    with pytest.raises(StoredEmbeddingsError, match=f"x.npz.*{message}") as error:
        stored(tmp_path / "x.npz", **arrays).usable(cohort, np.arange(60))
    assert "\n" not in str(error.value)


def test_a_parquet_file_that_cannot_be_used_is_one_error(cohort: Cohort, tmp_path: Path) -> None:
    names, path = records_of(cohort), tmp_path / "x.parquet"
    ragged = [[1.0, 2.0]] * 59 + [[1.0]]
    pd.DataFrame({"record": names, "embedding": ragged}).to_parquet(path)
    table = StoredEmbeddings({"": read_embeddings(path)})
    assert len(table.take(cohort, np.arange(59))) == 59  # the last row is not used
    with pytest.raises(StoredEmbeddingsError, match=r"record ecg59 has width 1, and others have 2; write all"):
        table.take(cohort, np.arange(60))
    pd.DataFrame({"record": names, "x": 1.0}).to_parquet(path)
    with pytest.raises(StoredEmbeddingsError, match=r"needs a column record .*; it has record, x"):
        read_embeddings(path)
    pd.DataFrame({"record": names, "embedding": "text"}).to_parquet(path)
    with pytest.raises(StoredEmbeddingsError, match=r"column embedding has type .*; it must hold one list of numbers"):
        read_embeddings(path)
    path.write_bytes(b"no table")
    with pytest.raises(StoredEmbeddingsError, match=r"x.parquet cannot be read as Parquet"):
        read_embeddings(path)


def test_files_of_two_widths_and_windows_are_refused(home: Path, cohort: Cohort, tmp_path: Path) -> None:
    stored(tmp_path / "a.npz", record=["a"], embedding=np.ones((1, 2)))
    stored(tmp_path / "b.npz", record=["a"], embedding=np.ones((1, 3)))
    (tmp_path / "both.toml").write_text('[embeddings]\none = "a.npz"\ntwo = "b.npz"\n')
    with pytest.raises(StoredEmbeddingsError, match=r"b.npz has embeddings of width 3, and .*a.npz of width 2"):
        open_encoder(tmp_path / "both.toml")
    with pytest.raises(EmbedError, match=r"mine is an embeddings file mine.npz.*leave out window='best'"):
        run_probe(open_encoder(home / "mine.npz"), cohort, "own", window="best")


# ------------------------------------------------------------------------------------------------------ entries, errors


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("own.py:missing", "has no missing; correct the name"),
        ("absent.py:encoder", "there is no file"),
        ("no_such_module:encoder", "cannot be imported: ModuleNotFoundError"),
        ("own.py:fails", r"calling it raised KeyError: 'weights' .own.py, line \d+.; correct it"),
        ("own.py:nothing", "its int has neither embed.batch. nor transform.X."),
        ("own.py:NoSignal", "its NoSignal has no `signal`; set it to what the encoder expects"),
        ("own.py:Wide", r"Wide: embed.batch. returned shape .2, 12, 400. for a batch of 2; it must return .B, D."),
        ("own.py:Texts", "returned list; it must return a tensor or an array"),
        ("own.py:BadNames", "trained_on = 5; it must be names of data sets"),
        ("wrong.py:x", r"cannot be imported: SyntaxError"),
        ("absent.npz", "no such file; write one with: leadwise embed"),
        ("absent.onnx", "no such file; write one with: leadwise export"),
        ("absent.toml", "no such file; docs/own-encoder.md"),
        ("text.onnx", "cannot be read as an ONNX file"),
    ],
)
def test_a_word_that_cannot_be_opened_is_one_error(
    word: str, message: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    Path("wrong.py").write_text("def :\n")
    Path("text.onnx").write_text("text")
    if word == "text.onnx":
        pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    with pytest.raises((ForeignError, StoredEmbeddingsError), match=message) as error:
        open_encoder(word)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 'x'", "it names no encoder; set exactly one of embeddings, onnx, python"),
        ("python = 'own.py:Net'\nonnx = 'x.onnx'", "it names onnx and python"),
        ("python = 'own.py:Net'\ntrained = ['x']", "unknown setting 'trained'; did you mean 'trained_on'"),
        ("python = 'own.py:Net'\noutput = 'x'", "output is that of an ONNX file"),
        ("python = 'own.py'", "must be module:name or file.py:name"),
        ("python = 'own.py:Net'\n[signal]\nrate = 100", "unknown setting 'signal.rate'; did you mean 'signal.rate_hz'"),
        ("python = 'own.py:Net'\n[signal]\nrate_hz = 0", "rate_hz = 0 is out of range"),
        ("python = 'own.py:Net'\npatients = 'ids.txt'", "are those of one data set; set trained_on to its name"),
        ("python = 'own.py:Net'\npatients = 'no.txt'\ntrained_on = ['csn']", "patients = 'no.txt' cannot be read"),
        ("python = ", "is not TOML"),
    ],
)
def test_a_description_that_cannot_be_used_is_one_error(text: str, message: str, home: Path) -> None:
    (home / "wrong.toml").write_text(text)
    with pytest.raises(ForeignError, match=f"{message}") as error:
        open_encoder(home / "wrong.toml")
    assert "\n" not in str(error.value)


def test_a_run_is_opened_as_before(home: Path, run: runs.Run) -> None:
    assert open_encoder(home / "run").fingerprint == run.fingerprint
    with pytest.raises(HubError, match="no run 'nowhere'"):
        open_encoder("nowhere")


def test_a_module_beside_the_call_is_imported(home: Path, cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(home / "own.py", home / "own_encoder_of_a_test.py")
    monkeypatch.chdir(home)
    opened = open_encoder("own_encoder_of_a_test:spread")
    assert (opened.name, opened.cache_folder.is_relative_to(home)) == ("spread", False)
    assert embed_cohort(opened, cohort, rows=np.arange(4)).shape == (4, 3)


# -------------------------------------------------------------------------------------------------------- the commands


def call(*words: object) -> Completed:
    completed = invoke(*words)
    assert completed.returncode == 0, completed.stderr
    return completed


def test_the_commands_take_own_encoders(home: Path, cohort_folder: Path, tmp_path: Path) -> None:
    result, table = tmp_path / "result.json", tmp_path / "scores.csv"
    task = ("--task", "own", "--json", result)
    entry = f"{home / 'own.py'}:net"

    out = call("probe", home / "npz.toml", cohort_folder, *task, "--fractions", "1", "--csv", table).stdout
    assert "npz: embeddings file mine.npz; pre-training data: unknown" in out
    assert "npz gives no untrained encoder" in out
    assert "nothing is known of its pre-training data" in out
    assert json.loads(result.read_text())["pretraining_data"] == "unknown"
    assert next(csv.DictReader(table.open()))["pretraining_data"] == "unknown"

    out = call("finetune", entry, cohort_folder, *task, "--epochs", "1", "--device", "cpu").stdout
    assert "untrained" in out
    assert json.loads(result.read_text())["pretraining_data"] == "csn"

    out = call("compare", home / "run", home / "npz.toml", cohort_folder, *task, "--resamplings", "100").stdout
    assert "b, npz: embeddings file mine.npz; pre-training data: unknown." in out
    call("shift", entry, "--train", cohort_folder, *task, "--fractions", "1")
    assert json.loads(result.read_text())["pretraining_data"] == "csn"

    # an entry is embedded once, and its file is used from then on
    call("embed", entry, cohort_folder, "-o", tmp_path / "net.npz")
    call("embed", tmp_path / "net.npz", cohort_folder, "-o", tmp_path / "again.parquet")
    first, again = (read_embeddings(tmp_path / name) for name in ("net.npz", "again.parquet"))
    assert np.array_equal(first.vectors, again.vectors)

    failed = invoke("probe", entry, cohort_folder, "--task", "own", "--save", tmp_path / "probe.safetensors")
    assert failed.returncode == 2
    assert "embeds files with a run; net is none: omit it" in " ".join(failed.stderr.replace("│", " ").split())
    failed = invoke("probe", home / "absent.npz", cohort_folder, "--task", "own")
    assert failed.returncode == 1
    assert "absent.npz: no such file" in failed.stderr
