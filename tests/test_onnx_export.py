"""Export to ONNX: the same embeddings as leadwise, with parts missing and with any batch size; and the file's metadata.

The graph of torch.export is tested without onnx; what needs the extra `onnx` skips without it.
"""

from __future__ import annotations

import builtins
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import invoke
from conftest import REPORTS, SIGNAL, TINY, make_batch, unobserve

from leadwise import onnx_export
from leadwise import run as runs
from leadwise.batch import LEADS, Batch, Signal
from leadwise.config import Config
from leadwise.methods import catalogue
from leadwise.nn import masking
from leadwise.nn.normalize import median, sorted_median
from leadwise.onnx_export import OnnxExportError, export_graph, export_onnx, read_metadata

EMBEDDING = [case for case in TINY if case != "dual_phase_cmr cmr"]  # which embeds no ECG
NARROW = {
    "depth": 1,
    "embed_passes": 3,
}  # of CG-DMER, for a quick test; its other tests and those of ONNX files are slow


def tiny_run(case: str, signal: Signal = SIGNAL, folder: Path | None = None, **changes: object) -> runs.Run:
    name, _, variant = case.partition(" ")
    settings = {**catalogue.find_method(name).tiny[variant], **changes}
    config = Config(signal=signal, method={"name": name, **settings})
    run = runs.create(config, REPORTS, folder)
    if folder is not None:
        run.save_weights()
    run.method.eval()
    return run


def batches() -> list[Batch]:
    """Another batch size than that of the trace, one record, half of the leads, padding within a patch, and both."""
    half = [i for i in range(len(LEADS)) if i % 2]
    return [
        make_batch(5),
        make_batch(1, seed=1),
        unobserve(make_batch(3, seed=2), leads=half),
        unobserve(make_batch(4, seed=3), after=255),
        unobserve(make_batch(1, seed=4), leads=half, after=45),  # one whole patch: some parts of a mean are empty
    ]


def embeddings(run: runs.Run, batch: Batch, part: str) -> np.ndarray:
    with torch.no_grad():
        return torch.cat([run.method.embed_ecg(batch, name) for name in part.split("+")], dim=1).numpy()


def session(path: Path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    return onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])


def compute(model, batch: Batch) -> np.ndarray:
    return model.run(None, {"ecg": batch.ecg.numpy(), "observed": batch.observed.numpy()})[0]


@pytest.fixture
def extra() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="needs the extra onnx")


# --- forms that a graph can hold, equal to those that leadwise uses elsewhere


def test_the_median_by_sorting_is_the_median() -> None:
    g = torch.Generator().manual_seed(0)
    for n in (1, 2, 7, 400):
        ecg = torch.randn(40, 12, n, generator=g).round(decimals=1)  # with ties
        observed = torch.rand(ecg.shape, generator=g) > torch.rand(40, 12, 1, generator=g)
        observed[0], observed[1] = False, True
        assert bool((~observed).flatten(2).all(-1).any())  # leads without any sample
        assert torch.equal(median(ecg, observed), sorted_median(ecg, observed))
        assert not sorted_median(ecg, observed)[0].any()


@pytest.mark.parametrize(("n_samples", "n_bins"), [(5000, 313), (400, 26), (400, 10), (7, 3), (5, 5)])
def test_any_in_bins_is_adaptive_max_pooling(n_samples: int, n_bins: int) -> None:
    g = torch.Generator().manual_seed(0)
    flags = torch.rand(20, n_samples, generator=g) > torch.rand(20, 1, generator=g)
    pooled = torch.nn.functional.adaptive_max_pool1d(flags.float()[:, None], n_bins)[:, 0] > 0
    assert torch.equal(masking.any_in_bins(flags, n_bins), pooled)


@pytest.mark.parametrize(("n_leads", "n_patches", "n_parts"), [(12, 10, 4), (3, 5, 4), (1, 2, 4), (2, 3, 1)])
def test_part_indices_are_the_places_of_interleaved_parts(n_leads: int, n_patches: int, n_parts: int) -> None:
    usable = torch.ones(1, n_leads, n_patches, dtype=torch.bool)
    parts = masking.interleaved_parts(usable, n_parts).flatten(1)
    indices = masking.part_indices(n_leads, n_patches, n_parts)
    assert len({len(part) for part in indices}) == 1
    for mask, index in zip(parts, indices):
        inside = [place for place in index if mask[place]]
        assert inside == mask.nonzero()[:, 0].tolist()  # each place once; the others are padding


# --- the graph, without onnx


@pytest.mark.slow
@pytest.mark.parametrize("case", EMBEDDING)
def test_the_graph_computes_the_embedding(case: str) -> None:
    run = tiny_run(case)
    before = {name: tensor.clone() for name, tensor in run.method.state_dict().items()}
    part = run.method.parts[-1]
    graph = export_graph(run, part).module()
    for batch in batches():
        with torch.no_grad():
            out = graph(batch.ecg, batch.observed)
        np.testing.assert_allclose(out, embeddings(run, batch, part), atol=1e-5)
    assert all(torch.equal(before[name], tensor) for name, tensor in run.method.state_dict().items())


def test_the_graph_of_cg_dmer_and_a_record_that_leadwise_refuses() -> None:
    run = tiny_run("cg_dmer", **NARROW)
    graph = export_graph(run).module()
    for batch in batches():
        with torch.no_grad():
            out = graph(batch.ecg, batch.observed)
        np.testing.assert_allclose(out, embeddings(run, batch, "backbone"), atol=1e-5)

    # a refused record is NaN and changes no other
    batch = make_batch(3)
    observed = batch.observed.clone()
    observed[1, :, 5:] = False  # not one whole patch
    with torch.no_grad():
        out = graph(batch.ecg, observed)
        whole = graph(batch.ecg, batch.observed)
    assert bool(out[1].isnan().all())
    torch.testing.assert_close(out[[0, 2]], whole[[0, 2]])
    with pytest.raises(ValueError, match=batch.record[1]):  # leadwise itself raises
        run.method.embed_ecg(dataclasses.replace(batch, observed=observed))


def test_an_unknown_part_is_an_error_that_lists_the_parts() -> None:
    with pytest.raises(ValueError, match=r"no part 'pooled' in this run; choose from backbone"):
        export_graph(tiny_run("simclr"), "pooled")


# --- the file


@pytest.mark.slow
def test_the_file_computes_the_embedding_and_describes_itself(extra: None, tmp_path: Path) -> None:
    signal = dataclasses.replace(SIGNAL, leads=("V5", "II", *(lead for lead in LEADS if lead not in ("V5", "II"))))
    run = tiny_run("cg_dmer", signal=signal, **NARROW)
    path = export_onnx(run, tmp_path / "encoder.onnx", "shared+backbone")
    assert [file.name for file in tmp_path.iterdir()] == ["encoder.onnx"]

    # values
    model = session(path)
    for batch in batches():
        np.testing.assert_allclose(compute(model, batch), embeddings(run, batch, "shared+backbone"), atol=1e-4)
    empty = unobserve(make_batch(2), leads=list(range(12)))
    assert np.isnan(compute(model, empty)).all()

    # inputs, outputs and metadata
    shapes = {value.name: (value.shape, value.type) for value in (*model.get_inputs(), *model.get_outputs())}
    assert shapes["ecg"] == (["batch", 12, 400], "tensor(float)")
    assert shapes["observed"] == (["batch", 12, 400], "tensor(bool)")
    assert shapes["embedding"] == (["batch", 16 + 32], "tensor(float)")
    about = read_metadata(path)
    assert about == dict(model.get_modelmeta().custom_metadata_map)
    assert about["leads"].startswith("V5,II,I,III,")
    assert (about["rate_hz"], about["duration_s"], about["n_samples"], about["units"]) == ("100", "4", "400", "mV")
    assert (about["normalize"], about["part"], about["method"]) == ("mv", "shared+backbone", "cg_dmer")
    assert about["run_fingerprint"] == run.fingerprint
    assert float(about["largest_difference"]) < 1e-4
    assert str(Path(onnx_export.__file__).parent).encode() not in path.read_bytes()  # no path of this machine


def one_of_each() -> list[str]:
    """Return the first settings of each method, and one of each other encoder: a file takes seconds, and a graph, which is
    tested for all settings above, a tenth of that."""
    first = list({case.partition(" ")[0]: case for case in reversed(EMBEDDING)}.values())
    return [*reversed(first), "simclr lead_time", "simclr lead_time_conv", "simclr s4", "simclr vit"]


@pytest.mark.slow
@pytest.mark.parametrize("case", one_of_each())
def test_every_method_has_a_file_with_the_same_embeddings(extra: None, case: str, tmp_path: Path) -> None:
    run = tiny_run(case)
    parts = "+".join(run.method.parts)
    model = session(export_onnx(run, tmp_path / "encoder.onnx", parts))
    for batch in batches():
        np.testing.assert_allclose(compute(model, batch), embeddings(run, batch, parts), atol=1e-4)
    empty = unobserve(make_batch(2), leads=list(range(12)))
    assert np.isnan(compute(model, empty)).all()


@pytest.mark.parametrize("normalize", ["mv", "record_zscore", "lead_zscore", "merl_minmax"])
@pytest.mark.slow
def test_every_normalisation_is_part_of_the_file(extra: None, normalize: str, tmp_path: Path) -> None:
    run = tiny_run("supervised", signal=dataclasses.replace(SIGNAL, normalize=normalize))
    model = session(export_onnx(run, tmp_path / "encoder.onnx"))
    for batch in batches():
        np.testing.assert_allclose(compute(model, batch), embeddings(run, batch, "backbone"), atol=1e-4)


@pytest.mark.slow
def test_a_graph_with_other_embeddings_is_not_written(
    extra: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run("supervised")
    monkeypatch.setattr(onnx_export, "TOLERANCE", 0.0)
    with pytest.raises(OnnxExportError, match="differ from leadwise's"):
        export_onnx(run, tmp_path / "encoder.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_program_is_not_overwritten(extra: None, tmp_path: Path) -> None:
    run = tiny_run("supervised")
    path = tmp_path / "mine.onnx"
    for content in (b"", b"notes", b"\x08\x0a\x12\x05other"):  # the last is an ONNX model of the producer "other"
        path.write_bytes(content)
        with pytest.raises(OnnxExportError, match="choose another name"):
            export_onnx(run, path)
        assert path.read_bytes() == content
    with pytest.raises(OnnxExportError, match=r"must end in \.onnx"):
        export_onnx(run, tmp_path / "encoder.pt")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(OnnxExportError, match="is a folder"):
        export_onnx(run, tmp_path / "folder.onnx")


def test_without_the_extra_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    importer = builtins.__import__

    def without_runtime(name: str, *args: object, **more: object) -> object:
        if name.startswith("onnx"):
            raise ImportError("none", name=name)
        return importer(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without_runtime)
    with pytest.raises(OnnxExportError, match=r"onnx is missing: pip install 'leadwise\[onnx\]'"):
        export_onnx(tiny_run("supervised"), tmp_path / "encoder.onnx")


@pytest.mark.slow
def test_the_command_writes_the_file_and_prints_its_inputs(extra: None, tmp_path: Path) -> None:
    tiny_run("supervised", folder=tmp_path / "run")
    target, summary = tmp_path / "encoder.onnx", tmp_path / "summary.json"
    done = invoke("export", tmp_path / "run", "-o", target, "--part", "scores", "--json", summary)
    assert done.returncode == 0, done.stderr
    assert "(batch, 12, 400) float32 in mV" in done.stdout
    about = json.loads(summary.read_text())
    assert about["bytes"] == target.stat().st_size
    assert about["part"] == "scores"
    again = invoke("export", tmp_path / "run", "-o", target)  # a file of leadwise is replaced
    assert again.returncode == 0, again.stderr
    assert read_metadata(target)["part"] == "backbone"
    wrong = invoke("export", tmp_path / "run", "-o", target, "--part", "specific")
    assert wrong.returncode == 1
    assert "choose from backbone, scores" in wrong.stderr
    assert read_metadata(target)["part"] == "backbone"
