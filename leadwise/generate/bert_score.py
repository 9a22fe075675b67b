"""BERTScore with a model from a local folder (Zhang et al. 2020); nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leadwise.generate.pairs import ReportScoreError, check_pairs

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class BertLayer:
    """What BERTScore compares: hidden states of a model in a local folder."""

    folder: Path
    layer: int  # 0 is the embedding layer

    def check(self) -> None:
        """Raise ReportScoreError if the model cannot be used, before any report is written."""
        bert_score(["a"], ["a"], self.folder, self.layer)


@dataclass(frozen=True)
class BertScores:
    """Means over reports; the values depend on the model and the layer."""

    precision: float
    recall: float
    f1: float
    model: str  # name of the folder
    layer: int
    n_reports: int

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))

    def row(self) -> dict[str, Any]:
        """Return the table row."""
        return {f"BERTScore ({self.model}, layer {self.layer})": self.f1}


def bert_score(
    references: Sequence[str], generated: Sequence[str], folder: Path, layer: int, batch_size: int = 32
) -> BertScores:
    """Return BERTScore of N generated reports: each token is matched with the most similar one of the other text.

    Lower or upper case as the model's tokenizer does; all tokens weigh the same; special tokens are left out; no rescaling with
    a baseline; texts are cut at the length of the model. An empty generated report scores 0.

    Args:
        folder: a model and tokenizer that `transformers` can load.
        layer: hidden states to compare; 0 is the embedding layer.

    Raises:
        ReportScoreError: as in `check_pairs`, the folder cannot be loaded, or the model has no such layer.
    """
    check_pairs(references, generated)
    import torch
    from transformers import AutoModel, AutoTokenizer

    # the model
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    except (OSError, ValueError) as error:
        raise ReportScoreError(
            f"{folder}: no model and tokenizer that transformers can load; name the folder of a saved model"
        ) from error
    n_layers = int(model.config.num_hidden_layers)
    if not 0 <= layer <= n_layers:
        raise ReportScoreError(f"{folder}: the model has layers 0 to {n_layers}, not {layer}")

    # each distinct text once
    texts = sorted({text for text in (*references, *generated) if text.strip()})
    vectors: dict[str, torch.Tensor] = {}
    with torch.inference_mode():
        for start in range(0, len(texts), batch_size):
            part = texts[start : start + batch_size]
            batch = tokenizer(part, padding=True, truncation=True, max_length=_most_tokens(model), return_tensors="pt")
            hidden = model(**batch, output_hidden_states=True).hidden_states[layer]
            special = torch.tensor(tokenizer.all_special_ids)
            real = batch["attention_mask"].bool() & ~torch.isin(batch["input_ids"], special)
            normed = torch.nn.functional.normalize(hidden, dim=-1)
            vectors.update({text: normed[row, real[row]] for row, text in enumerate(part)})

    # greedy matching
    total = [0.0, 0.0, 0.0]
    for reference, text in zip(references, generated):
        ours, theirs = vectors.get(text), vectors[reference]
        if ours is not None and len(ours) and len(theirs):
            similarity = ours @ theirs.T
            precision, recall = float(similarity.amax(1).mean()), float(similarity.amax(0).mean())
            both = precision + recall
            values = (precision, recall, 2 * precision * recall / both if both else 0.0)
            total = [value + more for value, more in zip(total, values)]
    precision, recall, f1 = (value / len(references) for value in total)
    return BertScores(precision, recall, f1, Path(folder).name, layer, len(references))


def _most_tokens(model: Any) -> int:
    """Return the tokens that fit into the model: positions of RoBERTa and its kin begin after the number of its padding."""
    positions = int(getattr(model.config, "max_position_embeddings", 512))
    offset = int(model.config.pad_token_id) + 1 if "roberta" in model.config.model_type else 0
    return positions - offset
