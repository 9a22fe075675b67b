"""MELP: From Token to Rhythm: A Multi-Scale Approach for ECG-Language Pretraining.
arXiv 2506.21803 (ICML 2025).

    L = L_rhythm + w_token L_token + w_beat L_beat

    tokens      the encoder's output for each time
    beats       attention pooling of the tokens by a few learnable queries, LayerNorm, linear map
    L_rhythm    symmetric InfoNCE of the mean of the beats with the projected report, learnable scale
    L_beat      symmetric cross-entropy of a local similarity: each statement of a report, the mean of its tokens' states, attends
                to the beats of each ECG (nn/local_alignment.py, after GLoRIA)
    L_token     cross-entropy of the report's next word, from a causal decoder that attends to the ECG through its own queries

Known from the abstract and the released code (no other part of the paper was accessible): the three levels and the computation
of each, the weights 1, 2 and 0.2, the numbers of queries (13 and 128), 256 shared dimensions, the decoder's six layers, the
scale's start at 1 / 0.07 and its upper bound of 100, the constants 4, 5 and 10 of the local similarity, statements that end at
periods, the text encoder (MedCPT, half of it frozen), 128 tokens of text.

This implementation departs from them as follows (in brackets: the setting that restores the paper's text):
- The ECG encoder is a Transformer of the paper's width and depth on patches, or any other of nn/encoder.py; the paper's is
  convolutions and a Transformer like wav2vec 2.0. It starts from random weights. The paper's encoder is pre-trained on the ECGs
  alone (hidden codes, and two halves of a record), and its text encoder on cardiology text.
- The paper runs its BERT with a causal mask, uses the state of a CLS token at the end as the report's vector, and the decoder
  reads those states. Here the BERT stays bidirectional, as it was trained, and the decoder reads plain word embeddings:
  bidirectional states would contain the words to predict.
- Statements are compared with the beats of `local_group` consecutive records of the batch: 64 is the paper's share of one GPU,
  and there this term compares only records of the same GPU. Its cost therefore grows with the batch, not with its square, and the
  gradient does not depend on how a batch is split.
- A statement without a final period counts too; text after the eighth statement is part of the eighth [n_statements].
- L_token is the mean over each report's words, then over reports, so that the mean over equal shares of a batch is exact.
- The logarithm of a sum over statements favours reports with many of them, as in the paper's code.
- same_report = "ignore" or "positive" is ours, for L_rhythm and L_beat; the paper does not treat identical reports specially.
- The probe's feature is the encoder's mean, as for every method here; the paper's code uses the mean of the beats before the
  linear map.
- Not implemented: report generation by beam search, and selection of weights by zero-shot scores on labelled records.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise import distributed
from leadwise.batch import Batch, Signal
from leadwise.config import check_ranges
from leadwise.methods.contract import MethodConfig, PretrainingMethod, nonzero_weights
from leadwise.nn import local_alignment
from leadwise.nn.encoder import EcgEncoder, EncoderSettings, Kind, WithEcgEncoder, check_part
from leadwise.nn.heads import QueryPool
from leadwise.nn.losses import multimodal
from leadwise.nn.losses.multimodal import SameReport
from leadwise.nn.report_tower import SMALL_REPORTS, ReportTower, TextSettings, WithReports
from leadwise.nn.text import ReportDecoder, Tokenizer, Tokens
from leadwise.nn.views import PairViewSettings, report_ids
from leadwise.nn.vit import ViT


@dataclass(frozen=True)
class Config(EncoderSettings, TextSettings, PairViewSettings, MethodConfig):
    # ECG branch
    encoder: Kind = "vit"
    width: int = 768
    depth: int = 8
    heads: int = 12
    beat_queries: int = 13  # Q, queries that pool the beats
    token_queries: int = 128  # queries that pool the decoder's input
    query_heads: int = 8  # attention heads of both
    # report branch (the paper: ncbi/MedCPT-Query-Encoder, trained further)
    text_frozen: Literal["whole", "layers"] = "layers"  # frozen part of a pre-trained encoder
    max_tokens: int = 128  # longer reports are truncated; the share is logged
    n_statements: int = 8  # largest number per report; further text is part of the last
    decoder_depth: int = 6
    decoder_heads: int = 8
    # alignment
    shared_width: int = 256  # of z_ecg, z_text, beats and statements
    temperature: float = 0.07  # initial temperature of L_rhythm
    local_scale: float = 10.0  # scale of the local similarity in L_beat's cross-entropy
    local_group: int = 64  # number of records that L_beat compares with each other
    same_report: SameReport = "negative"  # pairs of records with identical reports
    w_rhythm: float = 1.0
    w_beat: float = 0.2  # 0 removes the term and its computation
    w_token: float = 2.0  # 0 removes the term and its computation

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, temperature="> 0", local_scale="> 0", local_group=">= 2", n_statements=">= 1")
        check_ranges(self, w_rhythm="> 0", w_beat=">= 0", w_token=">= 0")  # without w_rhythm there is no shared space


NEEDS = "reports of several statements; otherwise its second level equals its first"
# Settings for two CPU cores; views and report branch are those of the other methods with reports.
SMALL = {
    "encoder": "resnet", "resnet_width": 16, "beat_queries": 10, "token_queries": 16, "query_heads": 4, "decoder_depth": 1,
    "decoder_heads": 4, **SMALL_REPORTS,
}  # fmt: skip
# The smallest settings, for the contract tests.
TINY = {
    "": {
        "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "beat_queries": 3, "token_queries": 4, "query_heads": 2,
        "decoder_depth": 1, "decoder_heads": 2, "text_width": 32, "text_depth": 1, "text_heads": 2, "vocab_size": 400,
        "max_tokens": 48, "shared_width": 16, "local_group": 8,
    },
    "resnet": {
        "encoder": "resnet", "resnet_width": 8, "beat_queries": 3, "token_queries": 4, "query_heads": 2,
        "decoder_depth": 1, "decoder_heads": 2, "text_width": 32, "text_depth": 1, "text_heads": 2, "vocab_size": 400,
        "max_tokens": 48, "shared_width": 16, "local_group": 3,
    },
}  # fmt: skip


class Method(WithEcgEncoder, WithReports, PretrainingMethod):
    falling_terms = ("L_rhythm", "L_beat", "L_token")
    config: Config
    closing: Tensor
    special: Tensor

    def __init__(self, config: Config, signal: Signal, tokenizer: Tokenizer, saved_folder: Path | None = None) -> None:
        """`saved_folder` is the folder to which `save_extra` wrote, when saved weights will be loaded into this method."""
        super().__init__(config, signal, tokenizer)
        c = config
        self.weights = nonzero_weights(L_rhythm=c.w_rhythm, L_beat=c.w_beat, L_token=c.w_token)
        self.ecg = EcgEncoder(c, signal)
        self.text = ReportTower(c, tokenizer, saved_folder)

        # rhythm and beats
        self.beat_pool = QueryPool(self.ecg.width, c.shared_width, c.query_heads, c.beat_queries)
        self.beat_map = nn.Linear(c.shared_width, c.shared_width, bias=False)
        self.text_head = nn.Sequential(
            nn.Linear(self.text.width, c.shared_width), nn.GELU(), nn.Linear(c.shared_width, c.shared_width)
        )
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / c.temperature)))
        if c.w_beat:
            self.statement_map = nn.Linear(self.text.width, c.shared_width)
            self.register_buffer("closing", local_alignment.closing_words(tokenizer), persistent=False)
            self.register_buffer("special", torch.tensor(tokenizer.all_special_ids), persistent=False)

        # tokens
        if c.w_token:
            self.token_pool = QueryPool(self.ecg.width, self.text.width, c.query_heads, c.token_queries)
            self.decoder = ReportDecoder(self.text.width, c.decoder_depth, c.decoder_heads, c.max_tokens)
            self.word_bias = nn.Parameter(torch.zeros(len(tokenizer)))

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Weighted L_token; and the features that `batch_terms` compares, one row per record."""
        # encode both
        c = self.config
        view = self.training_view(batch)
        tokens, real = self._tokens(view)
        words, _ = self.text.tokenize(list(view.report))
        states, e_text = self.text(words)
        words = words.to(states.device)

        # features of L_rhythm and L_beat
        beats = self._beats(tokens, real)
        features = {"ecg": beats.mean(1), "text": self.text_head(e_text), "report": report_ids(batch, view)}
        if c.w_beat:
            number, inside = local_alignment.statement_numbers(words, self.closing, self.special, c.n_statements)
            means, n_statements = local_alignment.statement_means(states, number, inside, c.n_statements)
            features |= {"beats": beats, "statements": self.statement_map(means), "n_statements": n_statements}

        # L_token
        terms: dict[str, Tensor] = {}
        if c.w_token:
            errors = self._next_word_errors(words, self.token_pool(tokens, real))
            terms["L_token"] = c.w_token * multimodal.token_reconstruction(errors)
        return terms, features

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weighted L_rhythm and L_beat over the whole batch, including other processes' records."""
        c = self.config
        every = distributed.gather_features(features)
        local_rows = distributed.local_rows(len(every["report"]))
        rhythm = multimodal.aligned(
            every["ecg"], every["text"], every["report"], self.log_scale.exp(), c.same_report, local_rows
        )
        terms = {"L_rhythm": c.w_rhythm * rhythm}
        if c.w_beat:
            terms["L_beat"] = c.w_beat * self._beat_loss(every, local_rows)
        return terms

    def after_step(self, progress: float) -> None:
        """Limit the learnable scale to 100, as CLIP does."""
        self.log_scale.data.clamp_(max=math.log(100.0))

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of ECGs; any subset of leads may be observed.

        backbone: the encoder's mean (the probe's feature). shared: unit vectors in the space of `embed_text`.

        Raises:
            ValueError: an unknown part, or a record without an observed sample.
        """
        check_part(part, self.parts)
        if part == "backbone":
            out: Tensor = self.ecg(batch)
            return out
        return F.normalize(self._beats(*self._tokens(batch)).mean(1), dim=-1)

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """Figures that a run logs in addition to its losses, for one held-out batch."""
        words, cut = self.text.tokenize(list(batch.report))
        out = multimodal.effective_ranks(self.embed_ecg(batch, "shared"), self.text_head(self.text(words)[1]))
        return out | {"reports_cut": cut, "scale": float(self.log_scale.exp())}

    # --- tokens, words and beats

    def _tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, D), and (B, N) bool, True where any lead was observed."""
        tokens, real = self.ecg.tokens(batch)
        if isinstance(self.ecg.model, ViT):  # it returns its tokens without its last norm
            tokens = self.ecg.model.norm(tokens)
        return tokens, real

    def _beats(self, tokens: Tensor, real: Tensor) -> Tensor:
        out: Tensor = self.beat_map(self.beat_pool(tokens, real))  # (B, Q, D)
        return out

    def _next_word_errors(self, words: Tokens, memory: Tensor) -> Tensor:
        """Errors of each report's next words (B, 2), as `multimodal.token_errors` returns them; memory (B, Q, D) is the ECG."""
        table = self.text.words
        states = self.decoder(F.embedding(words.ids[:, :-1], table), memory, None)
        logits = states @ table[: len(self.word_bias)].T + self.word_bias  # (B, S - 1, V)
        return multimodal.token_errors(logits, words.ids[:, 1:], words.real[:, 1:])

    def _beat_loss(self, every: dict[str, Tensor], local_rows: slice) -> Tensor:
        """L_beat: the mean over this process's rows, each compared with the records of its group."""
        c, losses = self.config, []
        with torch.autocast(every["beats"].device.type, enabled=False):
            for group, own in local_alignment.groups(len(every["beats"]), c.local_group, local_rows):
                similarity = local_alignment.local_similarity(
                    every["statements"][group], every["n_statements"][group], every["beats"][group]
                )
                loss = local_alignment.local_nce(similarity, every["report"][group], c.local_scale, c.same_report)
                losses.append(loss[own])
        return torch.cat(losses).mean()
