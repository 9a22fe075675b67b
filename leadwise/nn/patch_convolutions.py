"""Convolutions within many short patches, by matrix products: for embedding on a CPU.

A convolution library is made for long signals. On thousands of patches of 25 or 50 samples it needs several times as long as
copying each window and one matrix product. The layout is (patches, positions, channels), so that a window is contiguous, and the
statistics of a group norm are sums over positions. The results equal those of the modules to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PATCHES_AT_ONCE = 512  # the windows of so many patches fit into a processor's cache


def applies_to(x: Tensor) -> bool:
    """Return whether this code can replace the modules: on a CPU, in float32, without gradients, and not in an export."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.compiler.is_exporting()
    )


def in_pieces(patches: Tensor) -> Iterator[Tensor]:
    """Patches (M, P) in pieces that fit into the cache."""
    yield from patches.split(_PATCHES_AT_ONCE)


def flat_features(layers: nn.Sequential, patches: Tensor) -> Tensor:
    """The result of `layers` on patches (M, 1, P), flattened: (M, C * positions). patches: (M, P)."""
    x = patches[..., None]
    for convolution, norm in _stages(layers):
        x, scale, shift = _stage(convolution, norm, x)
        x = torch.addcmul(shift[:, None], x, scale[:, None])
    return x.transpose(1, 2).flatten(1)


def pooled_features(layers: nn.Sequential, patches: Tensor) -> Tensor:
    """The mean and the maximum over positions of the result of `layers`: (M, 2 C). patches: (M, P)."""
    x = patches[..., None]
    stages = list(_stages(layers))
    for number, (convolution, norm) in enumerate(stages, start=1):
        x, scale, shift = _stage(convolution, norm, x)
        if number < len(stages):
            x = torch.addcmul(shift[:, None], x, scale[:, None])
    # the last norm is one factor and one sum per channel: it follows the mean and the maximum
    largest = torch.where(scale > 0, x.amax(1), x.amin(1))
    return torch.cat([torch.addcmul(shift, x.mean(1), scale), torch.addcmul(shift, largest, scale)], dim=1)


def _stages(layers: nn.Sequential) -> Iterator[tuple[nn.Conv1d, nn.GroupNorm]]:
    """The convolution and the norm of each group of convolution, GELU and group norm."""
    for convolution, _, norm in zip(layers[::3], layers[1::3], layers[2::3], strict=True):
        assert isinstance(convolution, nn.Conv1d)
        assert isinstance(norm, nn.GroupNorm)
        yield convolution, norm


def _stage(convolution: nn.Conv1d, norm: nn.GroupNorm, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Convolution and GELU of x (M, T, C) -> (M, T', C'), and the norm's factor and summand (M, C')."""
    # windows (M T', K C) of the padded patches, and one product with the weights (K C, C')
    (kernel,), (stride,), (padding,) = convolution.kernel_size, convolution.stride, convolution.padding
    m, _, channels = x.shape
    x = F.pad(x, (0, 0, int(padding), int(padding)))
    n_positions = (x.shape[1] - kernel) // stride + 1
    row, position, _ = x.stride()
    windows = x.as_strided((m, n_positions, kernel * channels), (row, stride * position, 1))
    weight = convolution.weight.permute(2, 1, 0).reshape(kernel * channels, -1)
    bias = convolution.bias
    assert bias is not None
    out = F.gelu(torch.addmm(bias, windows.reshape(m * n_positions, -1), weight))
    out = out.reshape(m, n_positions, -1)

    # the statistics of each patch and group of channels
    sums, squares = out.sum(1), torch.linalg.vector_norm(out, dim=1).square()  # (M, C')
    grouped = (m, norm.num_groups, -1)
    n = n_positions * out.shape[2] // norm.num_groups
    mean = sums.reshape(grouped).sum(2, keepdim=True) / n
    variance = (squares.reshape(grouped).sum(2, keepdim=True) / n - mean.square()).clamp(min=0)
    factor = (variance + norm.eps).rsqrt()
    scale = (norm.weight.reshape(1, norm.num_groups, -1) * factor).reshape(m, -1)
    shift = norm.bias - (mean * factor * norm.weight.reshape(1, norm.num_groups, -1)).reshape(m, -1)
    return out, scale, shift
