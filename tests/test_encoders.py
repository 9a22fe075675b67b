"""Encoders with public weights: published names and shapes, pre-processing, and errors of files that do not fit.

No published weights were available. Files are written with random weights under the published names.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import os
import re
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_batch, unobserve
from safetensors.torch import save_file
from scipy import signal as filters
from torch import Tensor, nn
from typer.testing import CliRunner

from leadwise.batch import LEADS, Batch
from leadwise.cli import app
from leadwise.encoders import catalogue, ecg_cpc, ecg_jepa, ecgfounder, st_mem, weight_file
from leadwise.encoders.contract import PublishedEncoder
from leadwise.encoders.weight_file import WeightsError
from leadwise.foreign.opening import open_encoder
from leadwise.nn.resnet import ResNet18

NAMES = catalogue.encoder_names()

# --- the published names and shapes: facts from the repositories; {0..3} and {a,b} are several names


def wav2vec(prefix: str, depth: int) -> dict[str, tuple[int, ...]]:
    """The names of fairseq's wav2vec 2.0 of width 768 on twelve leads."""
    layer = f"encoder.layers.{{0..{depth - 1}}}."
    names = {
        "feature_extractor.conv_layers.0.0.weight": (256, 12, 2),
        "feature_extractor.conv_layers.0.2.{weight,bias}": (256,),
        "feature_extractor.conv_layers.{1..3}.0.weight": (256, 256, 2),
        "layer_norm.{weight,bias}": (256,),
        "post_extract_proj.weight": (768, 256),
        "post_extract_proj.bias": (768,),
        "conv_pos.pos_conv.0.bias": (768,),
        "conv_pos.pos_conv.0.weight_g": (1, 1, 128),
        "conv_pos.pos_conv.0.weight_v": (768, 48, 128),
        "encoder.layer_norm.{weight,bias}": (768,),
        layer + "self_attn.{k,v,q,out}_proj.weight": (768, 768),
        layer + "self_attn.{k,v,q,out}_proj.bias": (768,),
        layer + "{self_attn,final}_layer_norm.{weight,bias}": (768,),
        layer + "fc1.weight": (3072, 768),
        layer + "fc1.bias": (3072,),
        layer + "fc2.weight": (768, 3072),
        layer + "fc2.bias": (768,),
    }
    return {prefix + name: shape for name, shape in names.items()}


def hubert(width: int, depth: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """The names of HubertModel in transformers, as the files of HuBERT-ECG have them."""
    layer = f"encoder.layers.{{0..{depth - 1}}}."
    return {
        "feature_extractor.conv_layers.0.conv.weight": (512, 1, 10),
        "feature_extractor.conv_layers.0.layer_norm.{weight,bias}": (512,),
        "feature_extractor.conv_layers.{1,2}.conv.weight": (512, 512, 3),
        "feature_extractor.conv_layers.{3,4}.conv.weight": (512, 512, 2),
        "feature_projection.layer_norm.{weight,bias}": (512,),
        "feature_projection.projection.weight": (width, 512),
        "feature_projection.projection.bias": (width,),
        "encoder.pos_conv_embed.conv.bias": (width,),
        "encoder.pos_conv_embed.conv.weight_g": (1, 1, 128),
        "encoder.pos_conv_embed.conv.weight_v": (width, width // 16, 128),
        "encoder.layer_norm.{weight,bias}": (width,),
        layer + "attention.{k,v,q,out}_proj.weight": (width, width),
        layer + "attention.{k,v,q,out}_proj.bias": (width,),
        layer + "{layer_norm,final_layer_norm}.{weight,bias}": (width,),
        layer + "feed_forward.intermediate_dense.weight": (hidden, width),
        layer + "feed_forward.intermediate_dense.bias": (hidden,),
        layer + "feed_forward.output_dense.weight": (width, hidden),
        layer + "feed_forward.output_dense.bias": (width,),
    }


def net1d() -> dict[str, tuple[int, ...]]:
    """The names of the seven stages of ECGFounder's Net1D, without batch norms and classes."""
    names: dict[str, tuple[int, ...]] = {"first_conv.conv.weight": (64, 12, 16), "first_conv.conv.bias": (64,)}
    before = 64
    for stage, (width, n) in enumerate(
        ((64, 2), (160, 2), (160, 2), (400, 3), (400, 3), (1024, 4), (1024, 4)),
    ):
        block = f"stage_list.{stage}.block_list.{{0..{n - 1}}}."
        names[f"stage_list.{stage}.block_list.0.conv1.conv.weight"] = (width, before, 1)
        names[f"stage_list.{stage}.block_list.{{1..{n - 1}}}.conv1.conv.weight"] = (width, width, 1)
        names[block + "conv2.conv.weight"] = (width, 16, 16)
        names[block + "conv3.conv.weight"] = (width, width, 1)
        names[block + "conv{1,2,3}.conv.bias"] = (width,)
        names[block + "se_fc1.weight"] = (width // 2, width)
        names[block + "se_fc1.bias"] = (width // 2,)
        names[block + "se_fc2.weight"] = (width, width // 2)
        names[block + "se_fc2.bias"] = (width,)
        before = width
    return names


def resnet18() -> dict[str, tuple[int, ...]]:
    """The names of MERL's ResNet18 in one dimension."""
    norm = ".{weight,bias,running_mean,running_var}"
    names: dict[str, tuple[int, ...]] = {
        "conv1.weight": (64, 12, 7),
        "bn1" + norm: (64,),
        "bn1.num_batches_tracked": (),
        "layer{1..4}.{0,1}.bn{1,2}.num_batches_tracked": (),
        "layer{2..4}.0.shortcut.1.num_batches_tracked": (),
        "layer1.{0,1}.conv{1,2}.weight": (64, 64, 3),
        "layer1.{0,1}.bn{1,2}" + norm: (64,),
    }
    for stage, width in ((2, 128), (3, 256), (4, 512)):
        names |= {
            f"layer{stage}.0.conv1.weight": (width, width // 2, 3),
            f"layer{stage}.0.conv2.weight": (width, width, 3),
            f"layer{stage}.1.conv{{1,2}}.weight": (width, width, 3),
            f"layer{stage}.{{0,1}}.bn{{1,2}}{norm}": (width,),
            f"layer{stage}.0.shortcut.0.weight": (width, width // 2, 1),
            f"layer{stage}.0.shortcut.1{norm}": (width,),
        }
    return names


PUBLISHED: dict[str, dict[str, tuple[int, ...]]] = {
    "ecgfounder": net1d(),
    "merl": resnet18(),
    "ecg_fm": wav2vec("", 12),
    "hubert_ecg": hubert(768, 12, 3072),
    "melp": {
        **wav2vec("ecg_encoder.", 8),
        "attn_pool_contrast.query": (14, 256),
        "attn_pool_contrast.attn.q_proj_weight": (256, 256),
        "attn_pool_contrast.attn.{k,v}_proj_weight": (256, 768),
        "attn_pool_contrast.attn.in_proj_bias": (768,),
        "attn_pool_contrast.attn.out_proj.weight": (256, 256),
        "attn_pool_contrast.attn.out_proj.bias": (256,),
        "attn_pool_contrast.ln_q.{weight,bias}": (256,),
        "attn_pool_contrast.ln_k.{weight,bias}": (768,),
        "ln_contrast.{weight,bias}": (256,),
    },
    "d_beta": {
        **wav2vec("ecg_encoder.", 8),
        "class_embedding": (768,),
        "{multi_modal_ecg_proj,unimodal_ecg_pooler.dense}.weight": (768, 768),
        "{multi_modal_ecg_proj,unimodal_ecg_pooler.dense}.bias": (768,),
    },
    "st_mem": {
        "to_patch_embedding.1.{weight,bias}": (75,),
        "to_patch_embedding.2.weight": (768, 75),
        "to_patch_embedding.2.bias": (768,),
        "to_patch_embedding.3.{weight,bias}": (768,),
        "pos_embedding": (1, 32, 768),
        "sep_embedding": (768,),
        "lead_embeddings.{0..11}": (768,),
        "block{0..11}.{attn,ff}.norm.{weight,bias}": (768,),
        "block{0..11}.attn.fn.to_qkv.weight": (2304, 768),
        "block{0..11}.attn.fn.to_qkv.bias": (2304,),
        "block{0..11}.attn.fn.to_out.0.weight": (768, 768),
        "block{0..11}.attn.fn.to_out.0.bias": (768,),
        "block{0..11}.ff.fn.net.0.weight": (3072, 768),
        "block{0..11}.ff.fn.net.0.bias": (3072,),
        "block{0..11}.ff.fn.net.3.weight": (768, 3072),
        "block{0..11}.ff.fn.net.3.bias": (768,),
        "norm.{weight,bias}": (768,),
    },
    "ecg_jepa": {
        "pos_embed": (400, 768),
        "W_P.weight": (768, 50),
        "W_P.bias": (768,),
        "encoder_blocks.blocks.{0..11}.norm{1,2}.{weight,bias}": (768,),
        "encoder_blocks.blocks.{0..11}.attn.qkv.weight": (2304, 768),
        "encoder_blocks.blocks.{0..11}.attn.proj.weight": (768, 768),
        "encoder_blocks.blocks.{0..11}.attn.proj.bias": (768,),
        "encoder_blocks.blocks.{0..11}.mlp.fc1.weight": (3072, 768),
        "encoder_blocks.blocks.{0..11}.mlp.fc1.bias": (3072,),
        "encoder_blocks.blocks.{0..11}.mlp.fc2.weight": (768, 3072),
        "encoder_blocks.blocks.{0..11}.mlp.fc2.bias": (768,),
        "norm.{weight,bias}": (768,),
    },
    "ecg_cpc": {
        "encoder.layers.0.0.weight": (512, 12, 3),
        "encoder.layers.{1..3}.0.weight": (512, 512, 1),
        "encoder.layers.{0..3}.1.{weight,bias,running_mean,running_var}": (512,),
        "encoder.layers.{0..3}.1.num_batches_tracked": (),
        "predictor.predictor.s4_layers.{0..3}.D": (1, 512),
        "predictor.predictor.s4_layers.{0..3}.kernel.kernel.{C,B,P,Q}": (1, 512, 4, 2),
        "predictor.predictor.s4_layers.{0..3}.kernel.kernel.w": (512, 4, 2),
        "predictor.predictor.s4_layers.{0..3}.kernel.kernel.log_dt": (512,),
        "predictor.predictor.s4_layers.{0..3}.kernel.kernel.{omega,z}": (601, 2),
        "predictor.predictor.s4_layers.{0..3}.output_linear.0.weight": (1024, 512),
        "predictor.predictor.s4_layers.{0..3}.output_linear.0.bias": (1024, 1),
        "predictor.predictor.norms.{0..3}.{weight,bias}": (512,),
    },
}

# of the same files, weights that the embedding does not need; a few of many in the larger models
HEADS: dict[str, dict[str, tuple[int, ...]]] = {
    "ecgfounder": {
        "dense.weight": (150, 1024),
        "dense.bias": (150,),
        "first_bn.{weight,bias,running_mean,running_var}": (64,),
        "stage_list.0.block_list.1.bn{1,2,3}.running_mean": (64,),
    },
    "merl": {"linear.weight": (10, 512), "linear.bias": (10,)},
    "ecg_fm": {
        "mask_emb": (768,),
        "quantizer.vars": (1, 640, 128),
        "quantizer.weight_proj.weight": (640, 256),
        "quantizer.weight_proj.bias": (640,),
        "project_q.weight": (256, 256),
        "project_q.bias": (256,),
        "final_proj.weight": (256, 768),
        "final_proj.bias": (256,),
    },
    "hubert_ecg": {"masked_spec_embed": (768,)},
    "melp": {"proj_contrast": (256, 256), "attn_pool_caption.query": (128, 768), "logit_scale": ()},
    "d_beta": {"ecg_encoder.mask_emb": (768,), "mlm_head.bias": (5,), "language_encoder.encoder.final.bias": (3,)},
    "st_mem": {"mask_embedding": (768,), "decoder_block.0.attn.norm.weight": (256,), "head.weight": (2, 768)},
    "ecg_jepa": {},
    "ecg_cpc": {"head_ssl.proj.0.weight": (512, 512)},
}


def expand(table: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The names that a table with braces means."""
    out = {}
    for pattern, shape in table.items():
        parts = re.split(r"\{(.*?)\}", pattern)
        choices = [[part] if number % 2 == 0 else alternatives(part) for number, part in enumerate(parts)]
        names = ["".join(chosen) for chosen in itertools.product(*choices)]
        assert not set(names) & set(out), pattern
        out |= dict.fromkeys(names, shape)
    return out


def alternatives(text: str) -> list[str]:
    """`0..3` or `a,b` as a list."""
    first, _, last = text.partition("..")
    return [str(n) for n in range(int(first), int(last) + 1)] if last else text.split(",")


# --- small encoders, and files with their weights under the published names


def tiny(name: str, seed: int = 0) -> PublishedEncoder:
    """A small encoder in eval mode with weights that are all different."""
    torch.manual_seed(seed)
    encoder = catalogue.find_encoder(name)(**catalogue.tiny_sizes(name))
    for key, weight in encoder.state_dict().items():
        if key.endswith((".bias", "norm.weight", "bn1.weight", "bn2.weight")):
            weight.add_(0.1 * torch.randn(weight.shape))
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm1d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:  # their mean and variance are those of a batch
        with torch.no_grad():
            encoder.train().embed(batch_of(encoder, 4, seed=9))
    return encoder.eval()


def published_weights(encoder: PublishedEncoder) -> dict[str, Tensor]:
    return dict(zip(encoder.published_shapes(), encoder.state_dict().values(), strict=True))


def in_checkpoint(name: str, weights: dict[str, Tensor], prefix: str = "") -> dict[str, Any]:
    """What the published file holds: weights and heads with the model's prefix, under the key of the checkpoint."""
    kind = catalogue.find_encoder(name)
    heads = {key: torch.randn(shape) for key, shape in expand(HEADS[name]).items()}
    tensors = {prefix + key: weight for key, weight in {**weights, **heads}.items()}
    return {kind.entries[0]: tensors, "epoch": 3, "args": {"lr": 0.1}} if kind.entries else tensors


def write(name: str, folder: Path, weights: dict[str, Tensor], file: str = "other.pth") -> Path:
    path = folder / file
    torch.save(in_checkpoint(name, weights), path)
    return path


def batch_of(encoder: PublishedEncoder, n: int = 2, seed: int = 0) -> Batch:
    return make_batch(n, seed, encoder.signal)


def network_input(encoder: PublishedEncoder, part: str, batch: Batch) -> np.ndarray:
    """What the first layer of the network reads, after the pre-processing."""
    inputs = []
    handle = encoder.get_submodule(part).register_forward_pre_hook(lambda _, x: inputs.append(x[0]))
    encoder.embed(batch)
    handle.remove()
    return inputs[0].detach().numpy()


# --- names and shapes


@pytest.mark.parametrize("name", NAMES)
def test_weights_have_the_published_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        encoder = catalogue.find_encoder(name)()
    assert encoder.published_shapes() == expand(PUBLISHED[name])


def test_ecg_fm_has_the_published_number_of_parameters() -> None:
    numbers = (np.prod(shape) for shape in expand({**PUBLISHED["ecg_fm"], **HEADS["ecg_fm"]}).values())
    assert sum(map(int, numbers)) == 90_883_072


def test_ecg_cpc_has_the_published_number_of_tensors() -> None:
    assert len(expand(PUBLISHED["ecg_cpc"])) == 76


@pytest.mark.parametrize(("width", "depth", "hidden"), [(512, 8, 2048), (768, 12, 3072), (960, 16, 3840)])
def test_hubert_ecg_recognises_its_three_sizes(width: int, depth: int, hidden: int) -> None:
    kind = catalogue.find_encoder("hubert_ecg")
    with torch.device("meta"):
        sizes = kind.sizes_of({"model.encoder.layer_norm.weight": torch.empty(width)})
        assert kind(**sizes).published_shapes() == expand(hubert(width, depth, hidden))


@pytest.mark.parametrize("name", NAMES)
def test_untrained_weights_are_neither_constant_nor_extreme(name: str) -> None:
    """An encoder without published weights is the control of a comparison."""
    torch.manual_seed(0)
    encoder = catalogue.find_encoder(name)(**catalogue.tiny_sizes(name)).eval()
    batch = batch_of(encoder, 3)
    with torch.no_grad():
        first, again = encoder.embed(batch), encoder.embed(batch)
    assert torch.equal(first, again)
    assert torch.isfinite(first).all()
    assert 1e-6 < float(first.std(0).mean()) < 100
    assert all(float(weight.detach().abs().max()) < 50 for weight in encoder.parameters())


# --- loading


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_with_published_names_gives_the_same_embeddings(name: str, suffix: str, tmp_path: Path) -> None:
    encoder = tiny(name)
    prefix = (*encoder.prefixes, "")[0]
    content = in_checkpoint(name, published_weights(encoder), prefix if suffix == ".pth" else "module.")
    if suffix == ".pth":
        torch.save(content, tmp_path / "weights.pth")
    else:
        save_file(content[encoder.entries[0]] if encoder.entries else content, tmp_path / "weights.safetensors")
    loaded = type(encoder).load(tmp_path, **catalogue.tiny_sizes(name))
    batch = batch_of(encoder)
    with torch.no_grad():
        assert torch.equal(loaded.embed(batch), encoder.embed(batch))
        assert not torch.equal(tiny(name, seed=1).embed(batch), encoder.embed(batch))
    assert not loaded.training
    assert loaded.embed(batch).shape == (2, encoder.width)


def test_the_catalogue_loads_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tiny("merl")
    write("merl", tmp_path, published_weights(encoder))
    kind = type(encoder)
    monkeypatch.setattr(kind, "sizes_of", classmethod(lambda cls, weights: catalogue.tiny_sizes("merl")))
    loaded = catalogue.load("merl", tmp_path)
    assert isinstance(loaded, kind)
    with pytest.raises(ValueError, match="no encoder 'ecg_founder'; did you mean 'ecgfounder'"):
        catalogue.load("ecg_founder", tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_or_unexpected_name_or_another_shape_is_refused(name: str, tmp_path: Path) -> None:
    encoder, sizes = tiny(name), catalogue.tiny_sizes(name)
    weights = published_weights(encoder)
    first, *_, last = weights
    load = type(encoder).load

    path = write(name, tmp_path, {key: weight for key, weight in weights.items() if key != last})
    with pytest.raises(WeightsError, match=re.escape(f"{path}: '{last}' is missing")):
        load(path, **sizes)
    path = write(name, tmp_path, {key: weight for key, weight in weights.items() if key not in (first, last)})
    with pytest.raises(WeightsError, match=re.escape(f"{path}: '{first}' and 1 other are missing")):
        load(path, **sizes)
    path = write(name, tmp_path, {**weights, "another.weight": torch.zeros(2)})
    with pytest.raises(WeightsError, match=re.escape(f"{path}: 'another.weight' is unexpected")):
        load(path, **sizes)
    longer = torch.zeros(weights[last].numel() + 1)
    path = write(name, tmp_path, {**weights, last: longer})
    shapes = f"'{last}' has the shape {tuple(longer.shape)}, not {tuple(weights[last].shape)}"
    with pytest.raises(WeightsError, match=re.escape(f"{path}: {shapes}; choose the weights of {name}")):
        load(path, **sizes)


def test_another_digest_than_the_published_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tiny("merl")
    file = "res18_best_encoder.pth"
    path = write("merl", tmp_path, published_weights(encoder), file)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(WeightsError, match=f"{file}: its SHA-256 is {digest}, that of the published file is 38ba669c"):
        type(encoder).load(tmp_path, **catalogue.tiny_sizes("merl"))
    source = dataclasses.replace(encoder.source, files={file: (digest,)})
    monkeypatch.setattr(type(encoder), "source", source)
    type(encoder).load(tmp_path, **catalogue.tiny_sizes("merl"))


def test_the_file_of_a_folder_is_chosen_by_its_name(tmp_path: Path) -> None:
    known = ["a.pth", "b.pth"]
    with pytest.raises(WeightsError, match="no such folder"):
        weight_file.find(tmp_path / "absent", known)
    with pytest.raises(WeightsError, match=r"has no weight file .*; put a.pth or b.pth there"):
        weight_file.find(tmp_path, known)
    (tmp_path / "readme.txt").touch()
    (tmp_path / "other.pt").touch()
    assert weight_file.find(tmp_path, known).name == "other.pt"
    (tmp_path / "more.ckpt").touch()
    with pytest.raises(WeightsError, match=r"has several weight files \(more.ckpt, other.pt\)"):
        weight_file.find(tmp_path, known)
    (tmp_path / "b.pth").touch()
    assert weight_file.find(tmp_path, known).name == "b.pth"
    (tmp_path / "a.pth").touch()
    with pytest.raises(WeightsError, match=r"has several weight files \(a.pth, b.pth\)"):
        weight_file.find(tmp_path, known)


@pytest.mark.parametrize("file", ["broken.pth", "broken.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 damaged"])
def test_a_damaged_file_is_refused(file: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{file}: cannot be read as weights"):
        weight_file.read(tmp_path / file)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write("merl", tmp_path, published_weights(tiny("merl")))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        weight_file.read(path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"model": {}}])
def test_a_file_without_tensors_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="has no tensors by name"):
        weight_file.read(tmp_path / "a.pth", ("model",))


def test_objects_beside_the_tensors_are_read_without_their_classes(tmp_path: Path) -> None:
    """Checkpoints hold settings: of packages that are not installed, or of any class; none of their code runs."""
    module = types.ModuleType("package_of_a_training")
    calls = []

    class Settings:
        def __init__(self, rate: float = 0.1) -> None:
            self.rate = rate

        def __setstate__(self, state: dict) -> None:
            calls.append(state)

    Settings.__module__, Settings.__qualname__ = module.__name__, "Settings"
    module.Settings = Settings  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    content = {
        "model": {"weight": torch.ones(2)},
        "settings": Settings(),
        "best": np.float64(0.9),
        "args": argparse.Namespace(lr=0.1),
        "files": [Path("a")],
    }
    try:
        torch.save(content, tmp_path / "a.pth")
        assert weight_file.read(tmp_path / "a.pth", ("model",))["weight"].tolist() == [1.0, 1.0]
    finally:
        del sys.modules[module.__name__]
    assert weight_file.read(tmp_path / "a.pth", ("model",))["weight"].tolist() == [1.0, 1.0]
    assert not calls


class Harmful:
    """Makes a folder when it is unpickled the usual way."""

    def __init__(self, call: Any, *arguments: str) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


def test_reading_runs_no_code_of_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    weights = {"weight": torch.ones(2)}
    torch.save({"model": weights, "more": Harmful(tempfile.mkdtemp, "a", "b", str(folder))}, tmp_path / "a.pth")
    weight_file.read(tmp_path / "a.pth", ("model",))
    torch.save({"model": weights, "more": Harmful(os.mkdir, str(folder / "a"))}, tmp_path / "b.pth")
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        weight_file.read(tmp_path / "b.pth", ("model",))
    assert not list(folder.iterdir())


def test_a_weight_under_two_names_must_be_the_same(tmp_path: Path) -> None:
    encoder = tiny("melp")
    weights = published_weights(encoder)
    key = "ln_contrast.weight"
    sizes = catalogue.tiny_sizes("melp")
    path = write("melp", tmp_path, {**weights, f"module.{key}": weights[key].clone()})
    type(encoder).load(path, **sizes)
    path = write("melp", tmp_path, {**weights, f"module.{key}": weights[key] + 1})
    with pytest.raises(WeightsError, match=f"'{key}' and 'module.{key}' are the same weight and differ"):
        type(encoder).load(path, **sizes)


def test_both_spellings_of_weight_norm_are_read(tmp_path: Path) -> None:
    encoder = tiny("ecg_fm")
    weights = published_weights(encoder)
    for key, new in (("weight_g", "original0"), ("weight_v", "original1")):
        weights[f"conv_pos.pos_conv.0.parametrizations.weight.{new}"] = weights.pop(f"conv_pos.pos_conv.0.{key}")
    loaded = type(encoder).load(write("ecg_fm", tmp_path, weights), **catalogue.tiny_sizes("ecg_fm"))
    batch = batch_of(encoder)
    assert torch.equal(loaded.embed(batch), encoder.embed(batch))


def test_half_precision_weights_are_read_as_float32(tmp_path: Path) -> None:
    encoder = tiny("merl")
    weights = {key: w.half() if w.is_floating_point() else w for key, w in published_weights(encoder).items()}
    loaded = type(encoder).load(write("merl", tmp_path, weights), **catalogue.tiny_sizes("merl"))
    assert {w.dtype for w in loaded.parameters()} == {torch.float32}
    assert loaded.bn1.num_batches_tracked.dtype == torch.int64


# --- commands


@pytest.fixture
def merl_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with weights of a small MERL, whose size is read from the file."""
    write("merl", tmp_path, published_weights(tiny("merl")))
    monkeypatch.setattr(
        type(tiny("merl")), "sizes_of", classmethod(lambda _, weights: {"base": len(weights["conv1.weight"])})
    )
    return tmp_path


def test_the_commands_take_a_name_and_a_folder(merl_folder: Path, cohort_folder: Path, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    word, task = f"merl:{merl_folder}", ("--task", "own", "--json", str(result))
    for command in (("probe", word, "--fractions", "1"), ("finetune", word, "--epochs", "1", "--device", "cpu")):
        done = CliRunner().invoke(app, [*command[:2], str(cohort_folder), *task, *command[2:]])
        assert done.exit_code == 0, done.output
        text = " ".join(done.output.split())
        assert "merl: adapter of public weights, not tried with real weights; pre-training data: mimic_iv_ecg" in text
        assert "untrained" in text
        assert json.loads(result.read_text())["pretraining_data"] == "mimic_iv_ecg"
    wrong = CliRunner().invoke(app, ["probe", f"merl:{tmp_path / 'absent'}", str(cohort_folder), "--task", "own"])
    assert isinstance(wrong.exception, WeightsError)
    assert "absent: no such folder" in str(wrong.exception)


def test_the_untrained_control_has_the_sizes_of_the_weights(merl_folder: Path) -> None:
    run = open_encoder(f"merl:{merl_folder}", "cpu")
    again, other = open_encoder(f"merl:{merl_folder}", "cpu"), run.untrained()
    assert run.fingerprint == again.fingerprint != other.fingerprint
    batch = make_batch(2, signal=run.config.signal)
    with torch.no_grad():
        trained, untrained = (one.method.embed_ecg(batch) for one in (run, other))
    assert trained.shape == untrained.shape == (2, 32)
    assert not torch.equal(trained, untrained)
    torch.testing.assert_close(trained, tiny("merl").embed(batch).detach())


# --- embeddings


@pytest.mark.parametrize("name", NAMES)
def test_records_do_not_depend_on_each_other(name: str) -> None:
    encoder = tiny(name)
    batches = [batch_of(encoder, 1, seed) for seed in range(3)]
    ecg = torch.cat([batch.ecg for batch in batches])
    together = dataclasses.replace(batch_of(encoder, 3), ecg=ecg)
    with torch.no_grad():
        alone = torch.cat([encoder.embed(batch) for batch in batches])
        torch.testing.assert_close(encoder.embed(together), alone, rtol=1e-4, atol=1e-5)
    assert float((alone[0] - alone[1]).abs().max()) > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_can_be_trained(name: str) -> None:
    encoder = tiny(name)
    encoder.embed(batch_of(encoder)).square().sum().backward()
    fixed = {key for key, weight in encoder.named_parameters() if not weight.requires_grad}
    assert fixed == {"st_mem": {"pos_embedding"}, "ecg_jepa": {"pos_embed"}}.get(name, set())
    assert not [key for key, w in encoder.named_parameters() if w.requires_grad and w.grad is None]


@pytest.mark.parametrize("name", NAMES)
def test_missing_leads_and_the_end_of_a_recording_are_zeros(name: str) -> None:
    encoder = tiny(name)
    whole = batch_of(encoder)
    n = encoder.signal.n_samples
    gaps = unobserve(whole, leads=[1, 4], after=n - n // 5)
    hidden = dataclasses.replace(gaps, ecg=torch.where(gaps.observed, gaps.ecg, 1e3))
    with torch.no_grad():
        out = encoder.embed(gaps)
        assert torch.isfinite(out).all()
        assert not torch.equal(out, encoder.embed(whole))
        if name not in FILTERED:
            assert torch.equal(out, encoder.embed(hidden))
    read = network_input(encoder, FIRST_LAYER[name], gaps)
    if name == "hubert_ecg":  # one signal of all leads
        assert np.abs(read[0, 0, 560:940]).max() < 1e-3  # lead II at 100 Hz, without the edges
        return
    if name == "ecg_jepa":  # patches
        read = read.reshape(len(whole), len(encoder.signal.leads), -1)
    read = read.reshape(-1, len(encoder.signal.leads), *read.shape[2:])
    assert not read[:, [1, 4]].any()


FILTERED = ("ecgfounder", "hubert_ecg", "st_mem")
FIRST_LAYER = {
    "d_beta": "ecg_encoder.feature_extractor",
    "ecg_cpc": "convolutions",
    "ecg_fm": "model.feature_extractor",
    "ecg_jepa": "W_P",
    "ecgfounder": "first_conv",
    "hubert_ecg": "model.feature_extractor",
    "melp": "ecg_encoder.feature_extractor",
    "merl": "conv1",
    "st_mem": "to_patch_embedding",
}


@pytest.mark.parametrize("name", NAMES)
def test_another_shape_and_an_empty_record_are_refused(name: str) -> None:
    encoder = tiny(name)
    leads, n = len(encoder.signal.leads), encoder.signal.n_samples
    batch = batch_of(encoder)
    shorter = dataclasses.replace(batch, ecg=batch.ecg[..., 1:], observed=batch.observed[..., 1:])
    with pytest.raises(ValueError, match=f"{name} expects ECGs of {leads} leads and {n} samples"):
        encoder.embed(shorter)
    observed = batch.observed.clone()
    observed[1] = False
    with pytest.raises(ValueError, match=f"record r0-1: no lead that {name} reads is observed; leave it out"):
        encoder.embed(dataclasses.replace(batch, observed=observed))


# --- pre-processing, each against a plain version of what the repository states


def plain_ecgfounder(ecg: np.ndarray) -> np.ndarray:
    out = np.empty_like(ecg)
    for lead, x in enumerate(ecg):
        x = filters.filtfilt(*filters.iirnotch(50, 30, 500), x)
        x = filters.filtfilt(*filters.butter(4, [0.67, 40], "bandpass", fs=500), x)
        out[lead] = x - filters.medfilt(x, 201)  # 0.4 s, an odd number
    return ((out - out.mean()) / out.std())[None]


def plain_minmax(ecg: np.ndarray) -> np.ndarray:
    return ((ecg - ecg.min()) / (ecg.max() - ecg.min()))[None]


def plain_ecg_fm(ecg: np.ndarray) -> np.ndarray:
    scaled = np.stack([(x - x.mean()) / x.std() for x in ecg])
    return np.stack([scaled[:, :2500], scaled[:, 2500:]])


def plain_hubert_ecg(ecg: np.ndarray) -> np.ndarray:
    taps = filters.firwin(151, [0.05, 47], pass_zero=False, fs=500)
    scaled = []
    for x in ecg:
        x = filters.filtfilt(taps, [1.0], x)
        scaled.append(2 * (x - x.min()) / (x.max() - x.min()) - 1)
    halves = (np.concatenate([x[:2500] for x in scaled]), np.concatenate([x[2500:] for x in scaled]))
    return np.stack([filters.decimate(x, 5)[None] for x in halves])


def plain_st_mem(ecg: np.ndarray) -> np.ndarray:
    out = []
    for start in (0, 125, 250):  # 10 s are 2,500 samples, a crop is 9 s
        crop = ecg[:, start : start + 2250]
        crop = filters.sosfiltfilt(filters.butter(5, 0.67, "highpass", output="sos", fs=250), crop)
        crop = filters.sosfiltfilt(filters.butter(5, 40, "lowpass", output="sos", fs=250), crop)
        crop = (crop - crop.mean()) / crop.std()
        out.append(crop.reshape(12, 30, 75))
    return np.stack(out)


def plain_ecg_cpc(ecg: np.ndarray) -> np.ndarray:
    return np.stack([ecg[:, start : start + 600] for start in range(0, 2400, 600)])


PLAIN = {
    "d_beta": lambda ecg: ecg[None],
    "ecg_cpc": plain_ecg_cpc,
    "ecg_fm": plain_ecg_fm,
    "ecg_jepa": lambda ecg: ecg.reshape(1, 400, 50),
    "ecgfounder": plain_ecgfounder,
    "hubert_ecg": plain_hubert_ecg,
    "melp": plain_minmax,
    "merl": plain_minmax,
    "st_mem": plain_st_mem,
}


@pytest.mark.parametrize("name", NAMES)
def test_the_network_reads_what_the_published_steps_give(name: str) -> None:
    encoder = tiny(name)
    batch = batch_of(encoder)
    read = network_input(encoder, FIRST_LAYER[name], batch)
    expected = np.concatenate([PLAIN[name](ecg.astype(np.float64)) for ecg in batch.ecg.numpy()])
    np.testing.assert_allclose(read, expected, rtol=1e-4, atol=2e-4)


def test_the_leads_have_the_published_order() -> None:
    exchanged = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
    eight = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
    expected = {"merl": exchanged, "melp": exchanged, "ecg_jepa": eight}
    for name in NAMES:
        assert catalogue.find_encoder(name).signal.leads == expected.get(name, LEADS), name


# --- networks, each against another implementation or a slow loop


def test_merl_is_the_resnet18_of_leadwise() -> None:
    encoder = tiny("merl")
    other = ResNet18(12, base=4).eval()
    names = {"conv1": "first", "bn1": "norm"}
    for stage, block in itertools.product(range(4), range(2)):
        before, after = f"layer{stage + 1}.{block}", f"blocks.{2 * stage + block}"
        for part, same in (("conv1", "first"), ("bn1", "first_norm"), ("conv2", "second"), ("bn2", "second_norm")):
            names[f"{before}.{part}"] = f"{after}.{same}"
        names |= {f"{before}.shortcut.{number}": f"{after}.shortcut.{number}" for number in range(2)}
    weights = {}
    for key, weight in encoder.state_dict().items():
        module, _, part = key.rpartition(".")
        weights[f"{names[module]}.{part}"] = weight
    other.load_state_dict(weights)
    batch = batch_of(encoder)
    ecg = torch.from_numpy(np.concatenate([plain_minmax(x) for x in batch.ecg.numpy()]))
    with torch.no_grad():
        torch.testing.assert_close(encoder.embed(batch), other(ecg).mean(-1), rtol=1e-4, atol=1e-5)


def test_wav2vec_is_the_hubert_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    encoder = tiny("hubert_ecg")
    sizes = catalogue.tiny_sizes("hubert_ecg")
    other = transformers.HubertModel(
        transformers.HubertConfig(
            hidden_size=sizes["width"],
            num_hidden_layers=sizes["depth"],
            num_attention_heads=sizes["heads"],
            intermediate_size=sizes["hidden"],
            conv_dim=[sizes["channels"]] * 5,
            conv_kernel=[10, 3, 3, 2, 2],
            conv_stride=[4, 2, 2, 2, 2],
        )
    ).eval()
    weights = {}
    for key, weight in published_weights(encoder).items():
        key = key.replace("weight_g", "parametrizations.weight.original0")
        weights[key.replace("weight_v", "parametrizations.weight.original1")] = weight
    missing, unexpected = other.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["masked_spec_embed"], [])
    batch = batch_of(encoder)
    halves = torch.from_numpy(network_input(encoder, "model.feature_extractor", batch))[:, 0]
    with torch.no_grad():
        tokens = other(halves).last_hidden_state
        assert tokens.shape[1] == 93
        expected = tokens.mean(1).reshape(2, 2, -1).mean(1)
        torch.testing.assert_close(encoder.embed(batch), expected, rtol=1e-4, atol=1e-5)


def test_convolutions_of_net1d_have_the_padding_that_keeps_the_length() -> None:
    torch.manual_seed(0)
    for n, kernel, stride in ((9, 16, 2), (10, 16, 2), (10, 16, 1), (11, 1, 1)):
        conv = ecgfounder._SameConv(4, 6, kernel, stride, groups=2)
        x = torch.randn(1, 4, n)
        out = conv(x)[0].detach().numpy()
        assert out.shape == (6, -(-n // stride))
        before = max(0, (out.shape[1] - 1) * stride + kernel - n) // 2
        weight, bias = (part.detach().numpy() for part in (conv.conv.weight, conv.conv.bias))
        for channel, place in itertools.product(range(6), range(out.shape[1])):
            total = float(bias[channel])
            for c, k in itertools.product(range(2), range(kernel)):
                where = place * stride - before + k
                if 0 <= where < n:
                    total += float(weight[channel, c, k]) * float(x[0, 2 * (channel // 3) + c, where])
            assert total == pytest.approx(float(out[channel, place]), abs=1e-5)


def test_a_block_of_net1d_adds_a_pooled_shortcut_with_new_channels() -> None:
    torch.manual_seed(0)
    block = ecgfounder._Net1DBlock(4, 8, stride=2, groups=2, first=False)
    nn.init.zeros_(block.conv3.conv.weight)
    nn.init.zeros_(block.conv3.conv.bias)
    x = torch.randn(1, 4, 7)
    out = block(x)
    assert out.shape == (1, 8, 4)
    assert not out[:, :2].any()
    assert not out[:, 6:].any()
    padded = torch.cat([x, torch.zeros(1, 4, 1)], dim=2)  # of a pair with one sample, the other is 0
    assert torch.equal(out[:, 2:6], torch.maximum(padded[..., 0::2], padded[..., 1::2]))


def test_st_mem_averages_the_patches_with_time_and_lead_and_no_separators() -> None:
    encoder = tiny("st_mem")
    assert isinstance(encoder, st_mem.Encoder)
    for number in range(encoder.depth):  # the residual blocks add nothing
        block = encoder.get_submodule(f"block{number}")
        for last in (block.attn.fn.to_out[0], block.ff.fn.net[3]):  # type: ignore[union-attr, index]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
    x = torch.randn(2, 12, 2250)
    total = torch.zeros(2, encoder.width)
    for lead, n in itertools.product(range(12), range(30)):
        patch = encoder.to_patch_embedding(x[:, lead, 75 * n : 75 * n + 75])
        total = total + patch + encoder.pos_embedding[0, n + 1] + encoder.lead_embeddings[lead]
    torch.testing.assert_close(encoder.encode_crops(x), encoder.norm(total / 360), rtol=1e-4, atol=1e-5)


def test_a_token_of_ecg_jepa_reads_its_lead_and_its_time() -> None:
    torch.manual_seed(0)
    encoder = ecg_jepa.Encoder(**{**ecg_jepa.TINY, "depth": 1}).eval()
    batch = batch_of(encoder, 1)
    ecg = batch.ecg.clone().requires_grad_()
    tokens = []
    encoder.norm.register_forward_hook(lambda _, __, out: tokens.append(out))
    encoder.embed(dataclasses.replace(batch, ecg=ecg))
    lead, time = 3, 11
    tokens[0][0, 50 * lead + time, 0].backward()
    assert ecg.grad is not None
    read = ecg.grad.reshape(8, 50, 50).abs().amax(-1) > 0  # (leads, times)
    expected = torch.zeros(8, 50, dtype=torch.bool)
    expected[lead], expected[:, time] = True, True
    assert torch.equal(read, expected)


def dense(kernel: ecg_cpc.StateSpaceKernel, channel: int) -> tuple[np.ndarray, ...]:
    """A, B and C of a channel in full: the stored half of the conjugate pairs, and their conjugates."""
    values = {}
    for key in ("w", "P", "Q", "B", "C"):
        stored = torch.view_as_complex(getattr(kernel, key).detach())
        half = (stored if key == "w" else stored[0])[channel].numpy().astype(complex)
        values[key] = np.concatenate([half, half.conj()])
    return np.diag(values["w"]) - np.outer(values["P"], values["Q"]), values["B"], values["C"]


def test_the_kernel_of_ecg_cpc_is_the_recurrence_of_its_state_space() -> None:
    torch.manual_seed(0)
    n = 40
    kernel = ecg_cpc.StateSpaceKernel(3, 4, n)
    with torch.no_grad():
        for weight in (kernel.w, kernel.P, kernel.Q, kernel.B):
            weight.add_(0.05 * torch.randn(weight.shape))
        computed = kernel(25).double().numpy()
    for channel in range(3):
        a, b, c = dense(kernel, channel)
        dt = float(kernel.log_dt.detach()[channel].exp())
        identity = np.eye(len(a))
        inverse = np.linalg.inv(identity - dt / 2 * a)
        step, entry = inverse @ (identity + dt / 2 * a), dt * inverse @ b
        c = c @ np.linalg.inv(identity - np.linalg.matrix_power(step, n))  # stored for a kernel of n
        state, expected = entry, []
        for _ in range(25):
            expected.append((c @ state).real)
            state = step @ state
        np.testing.assert_allclose(computed[channel], expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_the_untrained_state_space_of_ecg_cpc_is_that_of_legendre_polynomials() -> None:
    a, _, _ = dense(ecg_cpc.StateSpaceKernel(1, 4), 0)
    np.testing.assert_allclose(np.sort(np.linalg.eigvals(a).real), -np.arange(8.0, 0.0, -1), atol=0.02)


def test_a_layer_of_ecg_cpc_reads_no_later_token() -> None:
    torch.manual_seed(0)
    layer = ecg_cpc._S4Layer(6, 4)
    x = torch.randn(1, 6, 30, requires_grad=True)
    layer(x)[0, :, 12].square().sum().backward()
    assert x.grad is not None
    size = x.grad.abs().amax((0, 1))
    assert float(size[13:].max()) < 1e-5 * float(size.max())
    assert (size[:13] > 0).all()


def test_the_embedding_of_d_beta_is_that_of_the_learnable_token() -> None:
    encoder = tiny("d_beta")
    batch = batch_of(encoder)
    before = encoder.embed(batch)
    assert float(before.detach().abs().max()) < 1
    with torch.no_grad():
        encoder.get_parameter("class_embedding").add_(torch.randn(encoder.width))
    assert not torch.equal(encoder.embed(batch), before)


# --- the list


def test_every_encoder_states_its_source() -> None:
    entries = catalogue.entries()
    assert [entry.name for entry in entries] == NAMES
    for entry in entries:
        kind = catalogue.find_encoder(entry.name)
        assert entry.title
        assert re.search(r"arXiv \d{4}\.\d{5}|medRxiv", entry.paper), entry
        assert entry.licence
        assert kind.source.weights.startswith("https://")
        assert kind.source.code.startswith("https://github.com/")
        assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for known in kind.source.files.values() for digest in known)
        assert entry.state == "not tried with real weights"
        assert kind.normalizes
        assert kind.source.trained_on


def test_the_page_of_public_weights_agrees_with_the_list() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "public-weights.md").read_text(encoding="utf-8")
    for entry in catalogue.entries():
        files = ", ".join(f"`{file}`" for file in entry.files.split(", "))
        row = (
            f"| `{entry.name}` | {entry.licence} | {entry.signal} | {entry.width} | {files} | [weights]({entry.weights}) | "
            f"{entry.state} |"
        )
        assert row in page
        for file, known in catalogue.find_encoder(entry.name).source.files.items():
            assert all(f"| `{entry.name}`, `{file}` | `{digest}` |" in page for digest in known)
    assert len(re.findall(r"^\| `\w+` \|", page, re.M)) == 2 * len(NAMES)
