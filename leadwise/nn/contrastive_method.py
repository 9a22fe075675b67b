"""A method whose records are set against each other: what each says for itself, then what they say of each other."""

from __future__ import annotations

from torch import Tensor, nn

from leadwise.batch import Batch


def weighted(**weights: float) -> dict[str, float]:
    """The terms that have a weight: one of 0 takes its term away."""
    return {name: weight for name, weight in weights.items() if weight}


class Coupled(nn.Module):
    """`look` and `contrast` are a paper's; `forward` is one after the other (see `methods`)."""

    weights: dict[str, float]  # of each term

    def look(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weighted terms that each record has for itself, and what `contrast` has to know of it, a row a record."""
        raise NotImplementedError

    def contrast(self, pairs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted terms that need every record of the batch at once, those of other processes too."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted terms of the loss, by name."""
        own, pairs = self.look(batch)
        terms = own | self.contrast(pairs)
        return {name: terms[name] for name in self.weights}
