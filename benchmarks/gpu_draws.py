"""Random draws that are equal on every device: each is drawn on the host and copied to the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

CREATE = (torch.rand, torch.randn, torch.randint, torch.randperm)
LIKE = {torch.rand_like: torch.rand, torch.randn_like: torch.randn}
IN_PLACE = (Tensor.bernoulli_, Tensor.uniform_, Tensor.normal_, Tensor.random_, Tensor.exponential_)
SAMPLE = (torch.bernoulli, torch.multinomial)


class HostDraws(TorchFunctionMode):
    """A block in which torch draws random numbers with the host's generator, in float32, and copies them to the device.

    Dropout is drawn in the same way. Not covered: dropout inside fused attention, and draws inside compiled code.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func in CREATE:
            device = named.pop("device", None) or "cpu"
            return func(*args, **named).to(device)
        if func in LIKE:
            x = args[0]
            return LIKE[func](x.shape).to(device=named.get("device") or x.device, dtype=named.get("dtype") or x.dtype)
        if func in IN_PLACE:
            x = args[0]
            host = torch.empty(x.shape, dtype=torch.float32 if x.is_floating_point() else x.dtype)
            given = [one.cpu() if isinstance(one, Tensor) else one for one in args[1:]]
            with torch.no_grad():
                x.copy_(func(host, *given, **named))
            return x
        if func in SAMPLE:
            return func(args[0].cpu(), *args[1:], **named).to(args[0].device)
        if func is F.dropout:
            return _dropout(*args, **named)
        return func(*args, **named)


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout whose mask is drawn on the host."""
    if not training or not p:
        return x
    retained = torch.rand(x.shape) >= p
    return x * retained.to(device=x.device, dtype=x.dtype) / (1 - p)
