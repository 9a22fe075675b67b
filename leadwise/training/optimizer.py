"""TODO."""

from __future__ import annotations

import math

import torch
from torch import nn

from leadwise.config import OptimConfig
from leadwise.methods.contract import PretrainingMethod


def learning_rate(step: int, optim: OptimConfig) -> float:
    """The rate at a step: a straight rise over the warm-up, then a cosine down to `final_lr`."""
    rise = max(1, round(optim.warmup * optim.steps))
    if step < rise:
        return optim.lr * (step + 1) / rise
    way = (step - rise) / max(1, optim.steps - rise)
    return optim.final_lr + (optim.lr - optim.final_lr) * (1 + math.cos(math.pi * way)) / 2


def make_optimizer(method: PretrainingMethod, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW without decay on norms, biases and embeddings, and a lower rate for what came pre-trained."""
    pretrained = {id(p) for p in method.pretrained_parameters}
    tables = {id(m.weight) for m in method.modules() if isinstance(m, nn.Embedding)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, p in method.named_parameters():
        if p.requires_grad:
            # bare parameters named for what they embed: lead, temporal, mask and class embeddings
            embedding = id(p) in tables or not name.endswith("weight")
            key = (p.ndim >= 2 and not embedding, id(p) in pretrained)
            groups.setdefault(key, []).append(p)
    table = [
        {
            "params": group,
            "weight_decay": optim.weight_decay if decays else 0.0,
            "scale": optim.pretrained_lr_scale if borrowed else 1.0,
        }
        for (decays, borrowed), group in sorted(groups.items())
    ]
    return torch.optim.AdamW(table, lr=optim.lr, betas=optim.betas, fused=True)
