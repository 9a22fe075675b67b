"""The writer `tiny`: a small causal language model, trained here on the training reports and conditioned on a frozen run.

An embedding of the ECG is standardised and goes through two layers to K vectors. With the fusion "prefix" they are the first K
tokens of the text. With "kv", as in MEIT (arXiv 2403.04945, ACL Findings 2025), they go through the key and value projections
of every layer and are prepended to its keys and values; they have no position and no output. MEIT projects to one vector of a
head's width and repeats it for every head; here there are K vectors of the full width.

With the input "tokens", the ECG is not an embedding but the code numbers of a run of `beat_tokenizer`: each code has a trained
vector, and the ECG has as many places as tokens. Numbers are read by the name of the record, like embeddings.

The loss is the cross entropy of the report's tokens and of its end. Decoding is greedy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise.config import check_ranges
from leadwise.generate.report_model import EcgProjector, ReportModel, TokenEmbedder
from leadwise.generate.writer import WriterError
from leadwise.nn.causal_lm import CausalLM, KeyValues
from leadwise.nn.text import Tokenizer, Tokens, tokenize, train_tokenizer

N_GROUPS = 4  # of a batch on a CPU, by length: half of the time with reports of 20 to 70 tokens


@dataclass(frozen=True)
class TinySettings:
    """The settings of the writer `tiny`, the table [writer] without its `kind`."""

    fusion: Literal["prefix", "kv"] = "prefix"  # prefix: first tokens of the text; kv: keys and values of every layer
    vectors: int = 16  # K, into which the ECG is projected
    width: int = 256
    depth: int = 4
    heads: int = 4
    positions: int = 256  # most places of a text, with a prefix also the ECG's
    vocabulary: int = 4000  # most tokens of the tokenizer, which is trained on the training reports
    max_tokens: int = 128  # of a report, with its start and end; a longer one is cut
    dropout: float = 0.1
    numbers: Literal["keep", "remove"] = "keep"  # remove: measurements are taken out of the training reports
    input: Literal["vectors", "tokens"] = "vectors"  # an embedding of the ECG, or the code numbers of a tokenizer's run

    def __post_init__(self) -> None:
        check_ranges(self, vectors=">= 1", width=">= 1", depth=">= 1", heads=">= 1", max_tokens=">= 3")
        check_ranges(self, vocabulary=">= 300", dropout="[0, 1)")
        # how many tokens an ECG has is known with the run
        is_prefix = self.fusion == "prefix" and self.input == "vectors"
        needed = self.max_tokens + (self.vectors if is_prefix else 0)
        if self.positions < needed:
            raise ValueError(
                f"writer.positions = {self.positions} is too small for {needed} places; raise it, or lower writer.max_tokens"
            )
        if self.width % self.heads:
            raise ValueError(f"writer.width = {self.width} must be a multiple of writer.heads = {self.heads}")


class TinyModel(ReportModel):
    """The language model and the projection of the ECG."""

    def __init__(self, settings: TinySettings, tokenizer: Tokenizer, n_features: int, n_token_ids: int = 0) -> None:
        """
        Raises:
            WriterError: the places are too few for the tokens of an ECG and a report.
        """
        super().__init__(n_features, n_token_ids)
        self.settings, self.tokenizer = settings, tokenizer
        needed = n_features + settings.max_tokens
        if n_token_ids and settings.fusion == "prefix" and settings.positions < needed:
            raise WriterError(
                f"writer.positions = {settings.positions} is too small for the {n_features} tokens of an ECG and a report; set "
                f"writer.positions={needed}, or writer.fusion=kv"
            )
        self.project: nn.Module = (
            TokenEmbedder(n_features, n_token_ids, settings.width)
            if n_token_ids
            else EcgProjector(n_features, settings.vectors, settings.width)
        )
        self.lm = CausalLM(
            len(tokenizer), settings.width, settings.depth, settings.heads, settings.positions, settings.dropout
        )
        end = tokenizer.sep_token_id
        self.start, self.end = tokenizer.cls_token_id, end
        self.unwritten = [number for number in tokenizer.all_special_ids if number != end]

    @staticmethod
    def make_tokenizer(settings: TinySettings, texts: Iterable[str]) -> Tokenizer:
        """Return a tokenizer trained on the training reports."""
        return train_tokenizer(texts, settings.vocabulary)

    def losses(self, features: Tensor, texts: Sequence[str]) -> tuple[Tensor, int]:
        """Return the sum of the losses of all report tokens, and their number."""
        # reports of similar length together, so that a short one is not padded to the longest of the batch
        tokens, _ = tokenize(self.tokenizer, list(texts), self.settings.max_tokens)
        n_groups = N_GROUPS if self.device.type == "cpu" and len(texts) >= 4 * N_GROUPS else 1
        lengths = tokens.real.sum(dim=1)
        sums = []
        for rows in lengths.argsort(stable=True).chunk(n_groups):
            longest = int(lengths[rows].max())
            own = Tokens(tokens.ids[rows, :longest], tokens.real[rows, :longest]).to(self.device)
            sums.append(self._loss_sum(features[rows.to(features.device)], own))
        return torch.stack(sums).sum(), int(tokens.real[:, 1:].sum())

    def _loss_sum(self, features: Tensor, tokens: Tokens) -> Tensor:
        x, past = self._begin(features, tokens.ids[:, :-1])
        states, _ = self.lm(x, 0, past)
        states = states[:, -(tokens.ids.shape[1] - 1) :]
        target, real = tokens.ids[:, 1:], tokens.real[:, 1:]
        return F.cross_entropy(self.lm.logits(states[real]), target[real], reduction="sum")

    def generate(self, features: Tensor) -> list[str]:
        """Return the reports of B ECGs with embeddings (B, D), by greedy decoding."""
        n, begin = len(features), 0
        x, past = self._begin(features, features.new_full((n, 1), self.start, dtype=torch.long))
        ended = torch.zeros(n, dtype=torch.bool, device=features.device)
        columns: list[Tensor] = []

        # one token at a time, with the keys and values of the places before it
        for _ in range(self.settings.max_tokens - 1):
            states, past = self.lm(x, begin, past)
            logits = self.lm.logits(states[:, -1])
            logits[:, self.unwritten] = -torch.inf
            token = logits.argmax(dim=-1).masked_fill(ended, self.end)
            columns.append(token)
            ended = ended | (token == self.end)
            if bool(ended.all()):
                break
            begin += x.shape[1]
            x = self.lm.word(token[:, None])

        ids = torch.stack(columns, dim=1).tolist()
        engine = self.tokenizer.backend_tokenizer
        return [engine.decode(row, skip_special_tokens=True) for row in ids]

    def _begin(self, features: Tensor, ids: Tensor) -> tuple[Tensor, list[KeyValues] | None]:
        """Return the first places (B, S, W) of texts that begin with `ids`, and the ECG's keys and values with "kv"."""
        vectors, words = self.project(self.standardize(features)), self.lm.word(ids)
        if self.settings.fusion == "kv":
            return words, self.lm.key_values(vectors)
        return torch.cat([vectors, words], dim=1), None
