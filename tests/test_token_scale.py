"""Position embeddings start at the scale of the tokens that they are added to, in the encoder of every method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import SIGNAL, TINY, make_batch
from test_methods import build
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from leadwise.batch import Signal
from leadwise.nn.lead_time import LeadTimeEncoder
from leadwise.nn.normalize import normalize
from leadwise.nn.patches import LinearTokenizer
from leadwise.nn.token_scale import POSITION_RMS, signal_rms
from leadwise.nn.vit import ViT


def rms(x: Tensor) -> float:
    return float(x.detach().square().mean().sqrt())


def _tensors(value: object) -> list[Tensor]:
    """The tensors of arguments or results, in lists and tuples too."""
    if isinstance(value, Tensor):
        return [value]
    return [each for part in value for each in _tensors(part)] if isinstance(value, list | tuple) else []


class AddedEmbeddings(TorchFunctionMode):
    """Records each sum of tokens and embeddings while it is active.

    Embeddings are parameters that are not named weight or bias, as in `training/optimizer.py`, and whatever is computed from
    them alone. So a new method needs no declaration to be tested.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        named = module.named_parameters()
        self._embeddings = {id(p): p for name, p in named if not name.endswith(("weight", "bias"))}
        self._sums: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # id of a sum -> the sum, its tokens, its embeddings
        self._alive: list[object] = []  # ids are those of living objects only

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._alive.append(result)
        inputs = [x for x in _tensors([*args, *(kwargs or {}).values()]) if x.is_floating_point()]
        is_embedding = [id(x) in self._embeddings for x in inputs]
        if inputs and all(is_embedding):
            self._embeddings |= {id(x): x for x in _tensors(result)}
        elif any(is_embedding) and func.__name__ in ("add", "__add__", "__radd__", "__iadd__"):
            tokens, added = inputs if is_embedding[1] else inputs[::-1]
            # several embeddings, such as those of lead and time, are added one by one: their sum counts
            _, first, before = self._sums.pop(id(tokens), (None, tokens, torch.zeros(())))
            self._sums[id(result)] = (result, first, before + added)
        return result

    @property
    def ratios(self) -> list[float]:
        """Of each sum, the root mean square of its tokens divided by that of its embeddings."""
        return [rms(tokens) / rms(added) for _, tokens, added in self._sums.values()]


def ratios(method: Any, signal: Signal = SIGNAL) -> list[float]:
    with torch.no_grad(), AddedEmbeddings(method) as added:
        method.embed_ecg(make_batch(8, signal=signal))
    return added.ratios


@pytest.mark.parametrize("case", [case for case in TINY if case != "dual_phase_cmr cmr"])  # which reads no ECG
def test_tokens_and_positions_start_alike(case: str) -> None:
    method = build(case).train()  # batch norm must use the batch: its running statistics are not those of ECGs yet
    of_sums = ratios(method)
    assert all(1 / 3 < ratio < 3 for ratio in of_sums), of_sums
    # the test must notice the embeddings where there are some
    encoder = {type(module) for module in method.modules()} & {ViT, LeadTimeEncoder}
    assert bool(of_sums) == bool(encoder) or case.split()[0] in ("crt", "beat_tokenizer"), case


@pytest.mark.parametrize("scale", ["mv", "record_zscore", "lead_zscore", "merl_minmax"])
def test_every_scale_of_the_signal(scale: Any) -> None:
    signal = Signal(rate_hz=100, duration_s=4.0, normalize=scale)
    for case in ("merl vit", "c_melt"):
        (ratio,) = ratios(build(case, signal=signal).eval())
        assert 1 / 3 < ratio < 3, case
    if scale != "merl_minmax":  # there it depends on the deepest wave
        batch = make_batch(8)
        assert rms(normalize(batch.ecg, batch.observed, scale)) == pytest.approx(signal_rms(scale), rel=0.3)


def test_the_published_vit_hides_its_tokens() -> None:
    (ratio,) = ratios(build("merl vit", vit_start="published").eval())
    assert ratio < 0.2


def test_a_method_without_the_shared_parts_is_noticed() -> None:
    """Any parameter that is added to tokens counts, whatever its name."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(10, 8)
            self.places = nn.ParameterList([nn.Parameter(torch.randn(40, 8))])
            self.kinds = nn.Parameter(torch.zeros(1, 8))

        def embed_ecg(self, batch: Any) -> Tensor:
            tokens = self.map(batch.ecg[:, 0].unflatten(-1, (40, 10)))
            out: Tensor = (tokens + self.kinds + torch.cat([*self.places])).mean(1)
            return out

    (ratio,) = ratios(Encoder())
    assert ratio < 1 / 3


@pytest.mark.parametrize("input_rms", [0.25, 1.0])
def test_tokens_start_at_one(input_rms: float) -> None:
    torch.manual_seed(0)
    patches = input_rms * torch.randn(64, 5, 20)
    assert rms(LinearTokenizer(20, 64, input_rms)(patches)) == pytest.approx(1.0, rel=0.2)
    net = ViT(5, 100, 5, 64, 1, 2, input_rms)
    assert rms(net.patch(input_rms * torch.randn(64, 5, 100))) == pytest.approx(1.0, rel=0.2)
    assert rms(net.position) == pytest.approx(POSITION_RMS, rel=0.2)


def test_runs_with_the_earlier_start_load() -> None:
    """Only the start differs: names, shapes and use of the weights are the same."""
    before, now = build("merl vit", vit_start="published").eval(), build("merl vit", seed=1).eval()
    now.load_state_dict(before.state_dict())
    batch = make_batch(4)
    assert torch.equal(now.embed_ecg(batch), before.embed_ecg(batch))
