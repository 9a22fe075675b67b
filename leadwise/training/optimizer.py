"""The optimiser and its learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from leadwise.config import OptimConfig
from leadwise.methods.contract import PretrainingMethod
from leadwise.nn.ecg_vae import ResidualBlock
from leadwise.nn.heads import Head, Projector
from leadwise.nn.report_tower import BLOCKS
from leadwise.nn.resnet import BasicBlock
from leadwise.nn.s4 import S4Block, StateSpace
from leadwise.nn.text import is_bert_layer
from leadwise.nn.transformer import Attention
from leadwise.training.muon import MuonWithAdamW


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
    """Return the optimiser of `optim.optimizer`.

    Weight decay applies to matrices, not to norms, biases and embeddings. Pretrained parameters have a lower rate, and AdamW
    in any case; so have A and dt of state-space layers if `optim.state_lr_scale` is not 1. Each parameter group has a "scale",
    the factor on the learning rate.
    """
    # group the parameters by (decays, pretrained, parts of a matrix for Muon; 0 = AdamW, dynamics of states)
    pretrained = {id(p) for p in method.pretrained_parameters}
    embedding_tables = {id(m.weight) for m in method.modules() if isinstance(m, nn.Embedding)}
    parts = matrix_parts(method) if optim.optimizer == "muon" else {}
    layers = [module for module in method.modules() if isinstance(module, StateSpace)]
    # with a factor of 1 the groups are those without it, so that runs of earlier versions are resumed
    slow = {id(p) for layer in layers for p in layer.dynamics} if optim.state_lr_scale != 1 else set()
    groups: dict[tuple[bool, bool, int, bool], list[nn.Parameter]] = {}
    for name, p in method.named_parameters():
        if p.requires_grad:
            # a parameter of a method itself (lead, time, mask and class embeddings) is not named "weight"
            is_embedding = id(p) in embedding_tables or not name.endswith("weight")
            is_pretrained = id(p) in pretrained
            n_parts = 0 if is_pretrained else parts.get(id(p), 0)
            decays, is_slow = p.ndim >= 2 and not is_embedding, id(p) in slow
            groups.setdefault((decays, is_pretrained, n_parts, is_slow), []).append(p)

    parameter_groups = [
        {
            "params": parameters,
            "weight_decay": optim.weight_decay if decays else 0.0,
            "scale": (optim.pretrained_lr_scale if is_pretrained else 1.0) * (optim.state_lr_scale if is_slow else 1.0),
            **({"muon": bool(n_parts), "n_parts": n_parts} if optim.optimizer == "muon" else {}),
        }
        for (decays, is_pretrained, n_parts, is_slow), parameters in sorted(groups.items())
    ]
    kind = MuonWithAdamW if optim.optimizer == "muon" else torch.optim.AdamW
    return kind(parameter_groups, lr=optim.lr, betas=optim.betas, fused=True)


def matrix_parts(method: nn.Module) -> dict[int, int]:
    """Return the matrices that Muon updates: the id of each parameter, and the number of equal blocks of its rows.

    They are the linear maps inside Transformer blocks, state-space blocks and heads, and the convolutions of residual blocks.
    Tokenisers, maps from and to samples, the systems of state-space layers and word embeddings are at the edge of a network
    or no matrices; AdamW is better there (Jordan et al. 2024).
    """
    parts: dict[int, int] = {}
    for container in method.modules():
        if not isinstance(
            container, (*BLOCKS, Head, Projector, BasicBlock, ResidualBlock, S4Block)
        ) and not is_bert_layer(container):
            continue
        for module in container.modules():
            if isinstance(module, nn.Linear | nn.Conv1d):
                parts.setdefault(id(module.weight), 1)
            elif isinstance(module, Attention):
                parts[id(module.key_value.weight)] = 2
            elif isinstance(module, S4Block):
                parts[id(module.mix.weight)] = 2
    return parts
