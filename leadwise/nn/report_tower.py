"""The report branch that methods share: the text encoder, the part of it that is trained, and the pooling of its tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise.batch import Batch, Signal, to_device
from leadwise.nn import text as reports
from leadwise.nn.encoder import EcgEncoder
from leadwise.nn.fusion import ReadingBlock
from leadwise.nn.losses import pairwise
from leadwise.nn.losses.multimodal import SameReport
from leadwise.nn.text import ReportEncoder, Tokenizer, Tokens
from leadwise.nn.transformer import Block, CausalBlock, CrossBlock
from leadwise.nn.views import pair_view

BLOCKS = (Block, CausalBlock, CrossBlock, ReadingBlock)


@dataclass(frozen=True)
class SmallBertSettings:
    """A pre-trained text encoder, or the sizes of a small BERT with fresh weights."""

    text_encoder: str = ""  # BERT folder or hub name; "" = a small BERT with fresh weights
    text_width: int = 256  # of the small BERT
    text_depth: int = 4
    text_heads: int = 4
    vocab_size: int = 4000  # of the small BERT's tokenizer


@dataclass(frozen=True)
class TextEncoderSettings(SmallBertSettings):
    """Text encoder, frozen layers and pooling. A method's Config inherits from it and sets its paper's values."""

    text_frozen_layers: int = 6  # of a pre-trained encoder: so many layers, and the embeddings
    text_pooling: Literal["cls", "mean", "pooler"] = "cls"  # tokens -> the report's vector
    max_tokens: int = 256  # longer reports are truncated; the share is logged

    @property
    def text_is_frozen(self) -> bool:
        """Whether no part of the text encoder is trained."""
        return False


@dataclass(frozen=True)
class _FreezingSettings(SmallBertSettings):
    text_frozen: Literal["whole", "layers"] = "whole"  # of a pre-trained encoder: all, or text_frozen_layers


@dataclass(frozen=True)
class TextSettings(TextEncoderSettings, _FreezingSettings):
    """The same, for methods whose pre-trained text encoder can also be frozen as a whole."""

    @property
    def text_is_frozen(self) -> bool:
        """Whether no part of the text encoder is trained; a small BERT with fresh weights always is."""
        return bool(self.text_encoder) and self.text_frozen == "whole"


def check_similar_report(similar_report: float, same_report: SameReport) -> None:
    """Check the setting `similar_report`: from which word overlap on two reports count as identical, if not 1.

    Raises:
        ValueError: it is not in (0, 1], or identical reports are not treated in any way.
    """
    if not 0 < similar_report <= 1:
        raise ValueError(f"similar_report = {similar_report}: must be in (0, 1]")
    if similar_report < 1 and same_report == "negative":
        raise ValueError("similar_report < 1 needs same_report = 'ignore' or 'positive'")


class ReportTower(ReportEncoder):
    """A ReportEncoder with its tokenizer. If frozen as a whole, it runs without gradient and without dropout."""

    def __init__(self, settings: TextEncoderSettings, tokenizer: Tokenizer, saved_folder: Path | None = None) -> None:
        """`saved_folder` is the folder to which `save_extra` wrote, when saved weights will be loaded into this encoder."""
        super().__init__(_bert(settings, len(tokenizer), saved_folder), settings.text_pooling)
        self.settings, self.tokenizer = settings, tokenizer

    def forward(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Token states (B, S, D) and the report's vector (B, D)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.settings.text_is_frozen):
            return super().forward(tokens)

    def train(self, mode: bool = True) -> Self:
        """Set training mode, except for an encoder that is frozen as a whole."""
        return super().train(mode and not self.settings.text_is_frozen)

    def tokenize(self, texts: list[str]) -> tuple[Tokens, float]:
        """Reports as tokens on the host, and the share of reports that were truncated."""
        return reports.tokenize(self.tokenizer, texts, self.settings.max_tokens)

    def read(self, texts: list[str]) -> Tensor:
        """Reports as vectors (B, D)."""
        out: Tensor = self(self.tokenize(texts)[0])[1]
        return out

    def save_extra(self, folder: Path) -> None:
        """Write the shape of a pre-trained text encoder, which is needed to build it again."""
        if self.settings.text_encoder:
            self.bert.config.save_pretrained(folder)  # type: ignore[operator, union-attr]

    @property
    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters with pre-trained weights, which get a lower learning rate."""
        return [p for p in self.bert.parameters() if p.requires_grad] if self.settings.text_encoder else []


def _bert(settings: TextEncoderSettings, n_words: int, saved_folder: Path | None) -> nn.Module:
    s = settings
    if not s.text_encoder:
        return reports.bert_from_nothing(n_words, s.text_width, s.text_depth, s.text_heads, s.max_tokens)
    bert = reports.bert_shaped_as(saved_folder) if saved_folder else reports.bert_from(s.text_encoder, n_words)
    if s.text_is_frozen:
        bert.requires_grad_(False)
    else:
        reports.freeze(bert, s.text_frozen_layers)
    return bert


# Settings that all methods with reports share in their SMALL settings, so that a table compares only the methods.
SMALL_REPORTS = {
    "text_width": 128, "text_depth": 2, "text_heads": 4, "text_pooling": "mean", "vocab_size": 1200, "max_tokens": 64,
    "shared_width": 128, "same_report": "ignore", "shift_s": 0.4, "gain": 0.1, "noise_mv": 0.02, "statement_dropout": 0.3,
}  # fmt: skip


class WithReports(nn.Module):
    """A method with a report branch, without its objective: `text` encodes, `text_head` maps to the space shared with ECGs."""

    reads_reports: ClassVar[bool] = True
    embeds_text: bool = True
    compares_records: ClassVar[bool] = True
    parts: tuple[str, ...] = ("backbone", "shared")
    config: Any
    signal: Signal
    tokenizer: Tokenizer
    text: ReportTower
    text_head: nn.Module

    @staticmethod
    def make_tokenizer(config: TextEncoderSettings, texts: Iterable[str]) -> Tokenizer:
        """The pre-trained text encoder's tokenizer, or a new one trained on `texts`, the cohort's training reports."""
        if config.text_encoder:
            return reports.load_tokenizer(config.text_encoder)
        return reports.train_tokenizer(texts, config.vocab_size)

    @staticmethod
    def load_tokenizer(folder: Path) -> Tokenizer:
        """The tokenizer saved in `folder`."""
        return reports.load_tokenizer(folder)

    def training_view(self, batch: Batch) -> Batch:
        """The training view of a batch; in eval mode the batch itself."""
        grid = self.ecg.grid if isinstance(self.ecg, EcgEncoder) else 1
        return pair_view(batch, self.config, self.signal, grid) if self.training else batch

    def words(self, batch: Batch) -> Tensor:
        """Unit vectors (B, V) of which words of the vocabulary each report of the batch has, on the ECGs' device.

        Two reports are similar by their cosine. Of whole reports: two views of one report are still the same report.
        """
        tokens, _ = self.text.tokenize(list(batch.report))
        special = torch.tensor(self.tokenizer.all_special_ids)
        counted = tokens.real & ~torch.isin(tokens.ids, special)
        return to_device(pairwise.bags_of_words(tokens.ids, counted, len(self.tokenizer)), batch.ecg.device)

    @property
    def text_branch(self) -> tuple[ReportTower, nn.Module]:
        """The report tower and the head behind `embed_text`."""
        return self.text, self.text_head

    def embed_text(self, texts: list[str]) -> Tensor:
        """(K, D) unit vectors of reports or prompts, in the shared space."""
        return F.normalize(self.text_head(self.text.read(texts)), dim=-1)

    def save_extra(self, folder: Path) -> None:
        """Write what is needed to build the method again, besides settings, tokenizer and weights: a pre-trained text
        encoder's shape."""
        self.text.save_extra(folder)

    @property
    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters with pre-trained weights, which get a lower learning rate."""
        return self.text.pretrained_parameters

    @property
    def compilable_modules(self) -> list[nn.Module]:
        """Modules that torch.compile may compile: blocks, which draw no random numbers. Not a batch norm: it communicates
        with other processes."""
        return [part for part in self.modules() if isinstance(part, BLOCKS)]
