"""The optimiser and its learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from leadwise.config import OptimConfig
from leadwise.methods.contract import PretrainingMethod


def learning_rate(step: int, optim: OptimConfig) -> float:
    """Return the learning rate of a step: a linear rise during the warm-up, then a cosine down to `final_lr`.

    It depends on the step and on the current settings alone. If `optim.steps` grows, the rate from then on is that of a run
    of the larger number of steps: a run that had ended at `final_lr` goes on with a higher rate, and the rate falls again to
    `final_lr` at the new end. So a longer run stays exact under further interruptions; it is not equal to a run that had
    the larger number from its first step.
    """
    n_warmup = max(1, round(optim.warmup * optim.steps))
    if step < n_warmup:
        return optim.lr * (step + 1) / n_warmup
    progress = (step - n_warmup) / max(1, optim.steps - n_warmup)
    return optim.final_lr + (optim.lr - optim.final_lr) * (1 + math.cos(math.pi * progress)) / 2


def make_optimizer(method: PretrainingMethod, optim: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW, without weight decay on norms, biases and embeddings, and with a lower rate for pretrained parameters.

    Each parameter group has a "scale", the factor on the learning rate.
    """
    # group the parameters by (decays, pretrained)
    pretrained = {id(p) for p in method.pretrained_parameters}
    embedding_tables = {id(m.weight) for m in method.modules() if isinstance(m, nn.Embedding)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, p in method.named_parameters():
        if p.requires_grad:
            # a parameter of a method itself (lead, time, mask and class embeddings) is not named "weight"
            is_embedding = id(p) in embedding_tables or not name.endswith("weight")
            groups.setdefault((p.ndim >= 2 and not is_embedding, id(p) in pretrained), []).append(p)

    parameter_groups = [
        {
            "params": parameters,
            "weight_decay": optim.weight_decay if decays else 0.0,
            "scale": optim.pretrained_lr_scale if is_pretrained else 1.0,
        }
        for (decays, is_pretrained), parameters in sorted(groups.items())
    ]
    return torch.optim.AdamW(parameter_groups, lr=optim.lr, betas=optim.betas, fused=True)
