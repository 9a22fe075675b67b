"""The report branch that methods share: which text encoder, what of it learns, and how a report becomes a vector."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise.batch import Batch, Signal
from leadwise.nn import text as reports
from leadwise.nn.fusion import ReadingBlock
from leadwise.nn.text import ReportEncoder, Tokenizer, Tokens
from leadwise.nn.transformer import Block, CausalBlock, CrossBlock
from leadwise.nn.views import pair_view

BLOCKS = (Block, CausalBlock, CrossBlock, ReadingBlock)


@dataclass(frozen=True)
class TextSettings:
    """A borrowed text encoder, or a small BERT from nothing. A method's Config inherits, and sets its paper's values."""

    text_encoder: str = ""  # BERT folder or hub name; "" = small, from nothing
    text_width: int = 256  # of the small BERT
    text_depth: int = 4
    text_heads: int = 4
    vocab_size: int = 4000  # of the small BERT's tokenizer
    text_frozen: Literal["whole", "layers"] = "whole"  # of a borrowed encoder
    text_frozen_layers: int = 6  # with text_frozen = "layers": so many, and the embeddings
    text_pooling: Literal["cls", "mean", "pooler"] = "cls"  # tokens -> the report's vector
    max_tokens: int = 256  # longer reports are cut; the share is logged

    @property
    def text_is_frozen(self) -> bool:
        """Whether nothing of the text encoder learns; a small one from nothing always does."""
        return bool(self.text_encoder) and self.text_frozen == "whole"


class ReportTower(ReportEncoder):
    """A ReportEncoder with its tokenizer. One that is frozen whole has no graph and no dropout."""

    def __init__(self, settings: TextSettings, tokenizer: Tokenizer, saved_folder: Path | None = None) -> None:
        """`saved_folder` is the folder to which `save_extra` wrote, when the weights of a saved run will be loaded."""
        super().__init__(_bert(settings, len(tokenizer), saved_folder), settings.text_pooling)
        self.settings, self.tokenizer = settings, tokenizer

    def forward(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Token states (B, S, D) and the report's vector (B, D)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.settings.text_is_frozen):
            return super().forward(tokens)

    def train(self, mode: bool = True) -> Self:
        """Training mode, unless nothing of it learns."""
        return super().train(mode and not self.settings.text_is_frozen)

    def tokenize(self, texts: list[str]) -> tuple[Tokens, float]:
        """Reports as tokens, and the share that was cut."""
        return reports.tokenize(self.tokenizer, texts, self.settings.max_tokens, self.words.device)

    def read(self, texts: list[str]) -> Tensor:
        """Reports as vectors (B, D)."""
        out: Tensor = self(self.tokenize(texts)[0])[1]
        return out

    def save_extra(self, folder: Path) -> None:
        """Write the shape of a borrowed text encoder, which a rebuild needs."""
        if self.settings.text_encoder:
            self.bert.config.save_pretrained(folder)  # type: ignore[operator, union-attr]

    @property
    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters that came with weights and want a lower rate."""
        return [p for p in self.bert.parameters() if p.requires_grad] if self.settings.text_encoder else []


def _bert(settings: TextSettings, n_words: int, saved_folder: Path | None) -> nn.Module:
    s = settings
    if not s.text_encoder:
        return reports.bert_from_nothing(n_words, s.text_width, s.text_depth, s.text_heads, s.max_tokens)
    bert = reports.bert_shaped_as(saved_folder) if saved_folder else reports.bert_from(s.text_encoder, n_words)
    if s.text_is_frozen:
        bert.requires_grad_(False)
    else:
        reports.freeze(bert, s.text_frozen_layers)
    return bert


# What all methods that read reports have in common in their small sizes, so that a table compares methods and nothing else.
SMALL_REPORTS = {
    "text_width": 128, "text_depth": 2, "text_heads": 4, "text_pooling": "mean", "vocab_size": 1200, "max_tokens": 64,
    "shared_width": 128, "same_report": "ignore", "shift_s": 0.4, "gain": 0.1, "noise_mv": 0.02, "statement_dropout": 0.3,
}  # fmt: skip


class WithReports(nn.Module):
    """A method that reads reports, without its objective: `text` reads, `text_head` leads to the space shared with ECGs."""

    reads_reports: ClassVar[bool] = True
    embeds_text: ClassVar[bool] = True
    compares_records: ClassVar[bool] = True
    parts: tuple[str, ...] = ("backbone", "shared")  # what embed_ecg can return
    config: Any
    signal: Signal
    tokenizer: Tokenizer
    text: ReportTower
    text_head: nn.Module

    @staticmethod
    def make_tokenizer(config: TextSettings, texts: Iterable[str]) -> Tokenizer:
        """The text encoder's own tokenizer, or one trained on the cohort's training reports."""
        if config.text_encoder:
            return reports.load_tokenizer(config.text_encoder)
        return reports.train_tokenizer(texts, config.vocab_size)

    @staticmethod
    def load_tokenizer(folder: Path) -> Tokenizer:
        """The tokenizer that a run folder keeps."""
        return reports.load_tokenizer(folder)

    def shown(self, batch: Batch) -> Batch:
        """The training view of a batch; held-out patients are looked at as they are."""
        return pair_view(batch, self.config, self.signal) if self.training else batch

    def embed_text(self, texts: list[str]) -> Tensor:
        """(K, D) unit vectors of reports or prompts, in the shared space."""
        return F.normalize(self.text_head(self.text.read(texts)), dim=-1)

    def save_extra(self, folder: Path) -> None:
        """Write what a rebuild needs besides settings, tokenizer and weights: the shape of a borrowed text encoder."""
        self.text.save_extra(folder)

    @property
    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters that came with weights and want a lower rate."""
        return self.text.pretrained_parameters

    @property
    def compilable_modules(self) -> list[nn.Module]:
        """What torch.compile may take: blocks, which draw nothing. A batch norm of several processes talks to the others."""
        return [part for part in self.modules() if isinstance(part, BLOCKS)]
