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

    def __init__(self, n_features: int, n_token_ids: int = 0) -> None:
        """
        Args:
            n_features: D of the embeddings, or T code numbers of an ECG.
            n_token_ids: different code numbers; 0: the features are embeddings.
        """
        super().__init__()
        self.n_token_ids = n_token_ids
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
        """Take mean and standard deviation of the training embeddings (N, D); code numbers have none."""
        if self.n_token_ids:
            return
        self.mean.copy_(features.mean(dim=0))
        self.inverse_std.copy_(1 / features.std(dim=0, correction=0).clamp(min=1e-6))

    def standardize(self, features: Tensor) -> Tensor:
        """Return embeddings (N, D) with the training mean 0 and standard deviation 1, within LIMIT; code numbers as they are."""
        if self.n_token_ids:
            return features
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


class TokenEmbedder(nn.Sequential):
    """Code numbers of an ECG (B, T), as floats, to T vectors (B, T, W) of unit scale: one trained vector per code and place."""

    def __init__(self, n_tokens: int, n_ids: int, width: int) -> None:
        super().__init__(_Codes(n_tokens, n_ids, width), nn.LayerNorm(width))


class _Codes(nn.Module):
    def __init__(self, n_tokens: int, n_ids: int, width: int) -> None:
        super().__init__()
        self.code = nn.Embedding(n_ids, width)
        self.place = nn.Embedding(n_tokens, width)
        with torch.no_grad():
            self.place.weight.mul_(0.5)  # the code counts for more at the start

    def forward(self, numbers: Tensor) -> Tensor:
        out: Tensor = self.code(numbers.round().long()) + self.place.weight
        return out


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
