"""What a trained writer's model is: standardised embeddings of ECGs in, the loss of reports or reports out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from leadwise.nn.text import Tokenizer

LIMIT = 5.0  # of standardised features: a feature that is nearly constant in training may be large elsewhere


class ReportModel(nn.Module):
    """Base class of the models of trained writers."""

    mean: Tensor
    inverse_std: Tensor
    tokenizer: Tokenizer

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("inverse_std", torch.ones(n_features))

    @property
    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters with borrowed weights; they get a lower learning rate (optim.pretrained_lr_scale)."""
        return []

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.mean.device

    def fit_scale(self, features: Tensor) -> None:
        """Take mean and standard deviation of the training embeddings (N, D)."""
        self.mean.copy_(features.mean(dim=0))
        self.inverse_std.copy_(1 / features.std(dim=0, correction=0).clamp(min=1e-6))

    def standardize(self, features: Tensor) -> Tensor:
        """Return embeddings (N, D) with the training mean 0 and standard deviation 1, within LIMIT."""
        return ((features - self.mean) * self.inverse_std).clamp(-LIMIT, LIMIT)

    def own_state(self) -> dict[str, Tensor]:
        """Return the tensors that a writer folder stores: what is trained, and the scale of the embeddings."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {name: x for name, x in self.state_dict().items() if name in trained or name in ("mean", "inverse_std")}

    def load_own_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the tensors that `own_state` returned.

        Raises:
            ValueError: a tensor is missing, unknown or of another shape.
        """
        own = {name: tensor.shape for name, tensor in self.own_state().items()}
        if own != {name: tensor.shape for name, tensor in tensors.items()}:
            raise ValueError("the stored tensors are not those of this model")
        self.load_state_dict(dict(tensors), strict=False)

    def losses(self, features: Tensor, texts: Sequence[str]) -> tuple[Tensor, int]:
        """Return the sum of the losses of all report tokens, and their number.

        Args:
            features: (B, D) embeddings of B ECGs.
            texts: their reports.
        """
        raise NotImplementedError

    def generate(self, features: Tensor) -> list[str]:
        """Return the reports of B ECGs with embeddings (B, D), by greedy decoding, as the tokenizer decodes them."""
        raise NotImplementedError

    def save_tokenizer(self, folder: Path) -> None:
        """Write what is needed besides settings and weights to `folder`, the writer's tokenizer/."""
        self.tokenizer.save_pretrained(folder)


class EcgProjector(nn.Sequential):
    """Two layers from an embedding (B, D) to `n_vectors` vectors (B, K, W) of unit scale."""

    def __init__(self, n_features: int, n_vectors: int, width: int) -> None:
        super().__init__(
            nn.Linear(n_features, width),
            nn.GELU(),
            nn.Linear(width, n_vectors * width),
            nn.Unflatten(1, (n_vectors, width)),
            nn.LayerNorm(width),
        )
