"""MELP: From Token to Rhythm: A Multi-Scale Approach for ECG-Language Pretraining.
arXiv 2506.21803 (ICML 2025).

    L = L_rhythm + w_token L_token + w_beat L_beat

    tokens      what the encoder makes of each time
    beats       a few queries that ask all tokens, LayerNorm, linear map
    L_rhythm    symmetric InfoNCE of the beats' mean with the projected report, learnt scale
    L_beat      symmetric cross-entropy of a local similarity: statements of each report, each the mean of its tokens' states,
                look for themselves among the beats of each ECG (nn/local_alignment.py, after GLoRIA)
    L_token     cross-entropy of the report's next word, by a causal decoder that reads the ECG through queries of its own

Known, from the abstract and from the released code (no other part of the paper could be read): the three levels and how each
is computed, the weights 1, 2 and 0.2, the numbers of queries (13 and 128), 256 shared dimensions, the decoder's six layers, the
scale's start at 1 / 0.07 and its ceiling of 100, the local similarity's constants 4, 5 and 10, the statements' borders at
periods, the text encoder (MedCPT, half of it frozen), 128 tokens of text.

Where we depart from them, and why (the option that restores it in brackets):
- The ECG encoder is a Transformer of the paper's width and depth on patches, or any other of nn/encoder.py; the paper's is
  convolutions and a Transformer in wav2vec 2.0's manner. It begins from nothing here: the paper's is trained before on the
  ECGs alone (hidden codes, and two halves of a record), and its text encoder on cardiology text.
- The paper runs its BERT with a causal mask, takes the state of a CLS token at the end as the report's vector, and lets the
  decoder read those states. Ours stays as it was trained, in both directions, and the decoder reads plain words: the states of
  all other words would hand it the answer.
- Statements seek their beats among `local_group` records, as they stand in the batch: 64 is the paper's share of one GPU,
  which there is all that this term sees. So its cost grows with the batch, not with its square, and the gradient does not
  depend on how a batch is shared out.
- A statement that no period ends counts too; what follows the eighth is part of it [n_statements].
- L_token is the mean over each report's words first, then over reports, so that the mean over shares of a batch is exact.
- The logarithm of a sum over statements favours reports with many of them, as in the paper's code.
- same_report = "ignore" or "positive" is ours, for L_rhythm and L_beat; the paper knows nothing of equal reports.
- The probe's feature is the encoder's mean, as of every method here; the paper's code takes the beats' mean before the map.
- Not here: reports written by beam search, and weights chosen by zero-shot scores on labelled records.
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
from leadwise.methods.contract import MethodConfig, PretrainingMethod, nonzero_weights
from leadwise.nn import local_alignment
from leadwise.nn.encoder import (
    EcgEncoder,
    EncoderSettings,
    Kind,
    check_part,
)
from leadwise.nn.heads import QueryPool
from leadwise.nn.losses import multimodal
from leadwise.nn.losses.multimodal import SameReport
from leadwise.nn.report_tower import (
    SMALL_REPORTS,
    ReportTower,
    TextSettings,
    WithReports,
)
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
    beat_queries: int = 13  # Q, of the alignment
    token_queries: int = 128  # that the decoder reads
    query_heads: int = 8  # of both
    # report branch (the paper: ncbi/MedCPT-Query-Encoder, trained further)
    text_frozen: Literal["whole", "layers"] = "layers"  # of a borrowed encoder
    max_tokens: int = 128  # longer reports are cut; the share is logged
    n_statements: int = 8  # of a report; what follows is part of the last
    decoder_depth: int = 6
    decoder_heads: int = 8
    # alignment
    shared_width: int = 256  # of z_ecg, z_text, beats and statements
    temperature: float = 0.07  # where L_rhythm's begins
    local_scale: float = 10.0  # of the local similarity in L_beat's cross-entropy
    local_group: int = 64  # records among which L_beat compares
    same_report: SameReport = "negative"  # pairs with word for word the same report
    w_rhythm: float = 1.0
    w_beat: float = 0.2  # 0 takes the term and its compute away
    w_token: float = 2.0  # 0 takes the term and its compute away

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.local_scale <= 0 or self.local_group < 2 or self.n_statements < 1:
            got = f"{self.temperature}, {self.local_scale}, {self.local_group} and {self.n_statements}"
            raise ValueError(
                f"melp wants temperature > 0, local_scale > 0, local_group >= 2 and n_statements >= 1; got {got}"
            )
        if self.w_rhythm <= 0 or min(self.w_beat, self.w_token) < 0:
            raise ValueError(
                "w_rhythm must be positive (without it there is no shared space), w_beat and w_token 0 or more; "
                f"got {self.w_rhythm}, {self.w_beat} and {self.w_token}"
            )


NEEDS = "reports of several statements, or its second level is its first"
# A size for two CPU cores; views and report branch are those of the other methods that read reports.
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


class Method(WithReports, PretrainingMethod):
    falling_terms = ("L_rhythm", "L_beat", "L_token")
    config: Config
    closing: Tensor
    special: Tensor

    def __init__(self, config: Config, signal: Signal, tokenizer: Tokenizer, saved_folder: Path | None = None) -> None:
        """`saved_folder` is the folder to which `save_extra` wrote, when the weights of a saved run will be loaded."""
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
        """L_token; and what `batch_terms` compares, one row per record."""
        c = self.config
        view = self.training_view(batch)
        found, real = self._tokens(view)
        words, _ = self.text.tokenize(list(view.report))
        states, e_text = self.text(words)
        beats = self._beats(found, real)
        terms: dict[str, Tensor] = {}
        features = {"ecg": beats.mean(1), "text": self.text_head(e_text), "report": report_ids(batch, view)}
        if c.w_beat:
            where = local_alignment.statement_numbers(words, self.closing, self.special, c.n_statements)
            means, n_said = local_alignment.statement_means(states, *where, c.n_statements)
            features |= {"beats": beats, "statements": self.statement_map(means), "n_said": n_said}
        if c.w_token:
            errors = self._write(words, self.token_pool(found, real))
            terms["L_token"] = c.w_token * multimodal.token_reconstruction(errors)
        return terms, features

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted terms that need every record of the batch at once, those of other processes too."""
        c = self.config
        every = distributed.gather_features(features)
        local_rows = distributed.local_rows(len(every["report"]))
        rhythm = multimodal.aligned(
            every["ecg"], every["text"], every["report"], self.log_scale.exp(), c.same_report, local_rows
        )
        terms = {"L_rhythm": c.w_rhythm * rhythm}
        if c.w_beat:
            terms["L_beat"] = c.w_beat * self._local(every, local_rows)
        return terms

    def after_step(self, progress: float) -> None:
        """CLIP's ceiling on a learnt scale: 100."""
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
        """What a run wants to watch beside its losses, on one held-out batch."""
        words, cut = self.text.tokenize(list(batch.report))
        out = multimodal.effective_ranks(self.embed_ecg(batch, "shared"), self.text_head(self.text(words)[1]))
        return out | {"reports_cut": cut, "scale": float(self.log_scale.exp())}

    # --- the steps

    def _tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, D), and of which anything was observed (B, N)."""
        found, real = self.ecg.tokens(batch)
        if isinstance(self.ecg.model, ViT):  # whose tokens come before its norm
            found = self.ecg.model.norm(found)
        return found, real

    def _beats(self, found: Tensor, real: Tensor) -> Tensor:
        out: Tensor = self.beat_map(self.beat_pool(found, real))  # (B, Q, D)
        return out

    def _write(self, words: Tokens, memory: Tensor) -> Tensor:
        """Errors of each report's next words (B, 2), as `losses.token_errors` gives them; memory (B, Q, D) is the ECG."""
        table = self.text.words
        states = self.decoder(F.embedding(words.ids[:, :-1], table), memory, None)
        logits = states @ table[: len(self.word_bias)].T + self.word_bias  # (B, S - 1, V)
        return multimodal.token_errors(logits, words.ids[:, 1:], words.real[:, 1:])

    def _local(self, every: dict[str, Tensor], local_rows: slice) -> Tensor:
        """L_beat: the mean over this process's rows, each within its group."""
        c, each = self.config, []
        with torch.autocast(every["beats"].device.type, enabled=False):
            for group, own in local_alignment.groups(len(every["beats"]), c.local_group, local_rows):
                similarity = local_alignment.local_similarity(
                    every["statements"][group], every["n_said"][group], every["beats"][group]
                )
                loss = local_alignment.local_nce(similarity, every["report"][group], c.local_scale, c.same_report)
                each.append(loss[own])
        return torch.cat(each).mean()
