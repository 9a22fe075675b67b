"""Reports as tokens: a tokenizer that knows every character, a BERT-family encoder, and the two ways to hide tokens.

Offline first: an encoder comes from a local folder, or is small and starts from nothing; a hub is asked only for a name
that is no folder, and remote code is never run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from leadwise.nn.transformer import CausalBlock

Tokenizer = Any  # a transformers fast tokenizer; the library has no types

N_SENTINELS = 32
GROUPS, FEWEST_OF_A_GROUP = 8, 16  # of reports that are encoded together; of 64, eight groups were no faster than four
SENTINELS = [f"<hidden{i}>" for i in range(N_SENTINELS)]


def train_tokenizer(reports: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer trained on `reports`. Bytes are its alphabet, so no character is ever unknown."""
    engine = Engine(models.BPE())
    engine.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    engine.decoder = decoders.ByteLevel()
    special = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", *SENTINELS]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator(reports, trainer)
    engine.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=engine, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"
    )


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a folder or hub name, with our sentinels added where it lacks them."""
    tokenizer = AutoTokenizer.from_pretrained(
        str(folder), local_files_only=Path(folder).is_dir(), trust_remote_code=False
    )
    tokenizer.add_tokens([s for s in SENTINELS if s not in tokenizer.get_vocab()], special_tokens=True)
    return tokenizer


@dataclass(frozen=True)
class Tokens:
    """B reports as padded ids."""

    ids: Tensor  # (B, S) int64
    real: Tensor  # (B, S) bool, false on padding


def tokenize(tokenizer: Tokenizer, texts: list[str], max_tokens: int, device: torch.device) -> tuple[Tokens, float]:
    """Reports padded to the longest of the batch, and the share of reports that were cut at `max_tokens`."""
    out = tokenizer(texts, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
    ids, real = out["input_ids"], out["attention_mask"].bool()
    cut = float((real.sum(-1) >= max_tokens).float().mean())
    return Tokens(ids.to(device), real.to(device)), cut


def numbers(texts: Iterable[str]) -> Tensor:
    """(B,) int64: a number for each text that is the same, on every process and in every pass, for the same text only."""
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts]
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64)


class ReportEncoder(nn.Module):
    """A BERT-family encoder: token states, and one pooled vector a report."""

    def __init__(self, bert: nn.Module, pooling: Literal["cls", "mean", "pooler"]) -> None:
        super().__init__()
        self.bert, self.pooling = bert, pooling
        if pooling != "pooler":
            bert.register_module("pooler", None)  # never learning, it would only be carried about
        elif getattr(bert, "pooler", None) is None:
            raise ValueError("text_pooling = 'pooler', but this text encoder has no pooler; use 'cls' or 'mean'")
        self.width: int = bert.config.hidden_size  # type: ignore[union-attr, assignment]
        self.heads: int = bert.config.num_attention_heads  # type: ignore[union-attr, assignment]

    def forward(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Token states (B, S, D), of no meaning on padding, and the pooled report (B, D).

        Reports of like length are encoded together, so that a short one does not pay for the longest of the batch; who is
        in the batch, and the result, stay the same. Twice as fast as one padded batch (benchmarks/results/speed.md).
        """
        n_groups = min(GROUPS, len(tokens.ids) // FEWEST_OF_A_GROUP)
        if n_groups < 2:
            return self._encoded(tokens)
        lengths = tokens.real.sum(-1)
        order = lengths.argsort(stable=True)
        sizes, n_tokens = lengths[order].tolist(), tokens.ids.shape[1]
        found, begin = [], 0
        for rows in order.chunk(n_groups):
            begin += len(rows)
            longest = sizes[begin - 1]  # tokens stand at the left
            states, pooled = self._encoded(Tokens(tokens.ids[rows, :longest], tokens.real[rows, :longest]))
            found.append((torch.nn.functional.pad(states, (0, 0, 0, n_tokens - longest)), pooled))
        back = order.argsort()
        return torch.cat([states for states, _ in found])[back], torch.cat([pooled for _, pooled in found])[back]

    def _encoded(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        out = self.bert(input_ids=tokens.ids, attention_mask=tokens.real.long())
        states: Tensor = out.last_hidden_state
        if self.pooling == "pooler":
            return states, out.pooler_output
        if self.pooling == "cls":
            return states, states[:, 0]
        real = tokens.real[..., None]
        return states, (states * real).sum(1) / real.sum(1).clamp(min=1)

    @property
    def words(self) -> Tensor:
        """The word embedding table (V, D), which reconstruction heads share."""
        table: Tensor = self.bert.get_input_embeddings().weight  # type: ignore[operator]
        return table


def bert_from_nothing(n_words: int, width: int, depth: int, heads: int, max_tokens: int) -> nn.Module:
    """A small BERT with fresh weights and no dropout."""
    config = BertConfig(
        vocab_size=n_words,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=max_tokens,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model: nn.Module = BertModel(config, add_pooling_layer=True)
    return model


def bert_from(folder: str, n_words: int) -> nn.Module:
    """The BERT of a local folder or hub name, with room for `n_words`."""
    local = Path(folder).is_dir()
    model = AutoModel.from_pretrained(folder, local_files_only=local, trust_remote_code=False)
    if model.get_input_embeddings().weight.shape[0] < n_words:
        model.resize_token_embeddings(n_words, mean_resizing=False)
    out: nn.Module = model
    return out


def freeze(bert: nn.Module, n_layers: int) -> None:
    """Take a BERT's embeddings and first `n_layers` layers out of training; sentinels that were added keep their start.

    Raises:
        ValueError: it has fewer layers.
    """
    if n_layers < 1:
        return
    model: Any = bert
    stack = getattr(model, "encoder", None) or getattr(model, "transformer", None)  # BERT and its kin; DistilBERT
    layers = getattr(stack, "layer", None)
    if layers is None:
        raise ValueError(
            f"text_frozen_layers = {n_layers}, but the layers of a {type(bert).__name__} are not where BERT has them; use 0"
        )
    if n_layers > len(layers):
        raise ValueError(f"text_frozen_layers = {n_layers}, but the text encoder has {len(layers)} layers")
    for part in (model.embeddings, *layers[:n_layers]):
        part.requires_grad_(False)


def bert_shaped_as(folder: Path) -> nn.Module:
    """A BERT of the shape that `folder` describes, weights fresh: the weights come from elsewhere."""
    model: nn.Module = AutoModel.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
    return model


def choose_masked(tokens: Tokens, special: Tensor, ratio: float) -> Tensor:
    """A random `ratio` of each report's ordinary tokens, (B, S) bool; at least one where there is one."""
    ordinary = tokens.real & ~torch.isin(tokens.ids, special)
    noise = torch.rand(tokens.ids.shape, device=tokens.ids.device).masked_fill(~ordinary, torch.inf)
    n = ordinary.sum(-1, keepdim=True)
    quota = (n * ratio).round().long().clamp(min=1).minimum(n)
    return ordinary & (noise.argsort(-1).argsort(-1) < quota)


@dataclass(frozen=True)
class Cloze:
    """A report with hidden tokens, and what has to be written back."""

    question: Tokens  # the corrupted report
    prompt: Tensor  # (B, A) decoder input: the answer shifted right; in place: unused, the question itself
    answer: Tensor  # (B, A) true ids
    scored: Tensor  # (B, A) bool: the hidden tokens themselves, not sentinels or padding


def mask_in_place(tokens: Tokens, masked: Tensor, mask_id: int, n_words: int, mix: bool = True) -> Cloze:
    """BERT's way: of the masked places 80 % become the mask token, 10 % a random word, 10 % stay; all of them without `mix`.

    masked: (B, S) bool.
    """
    if not mix:
        ids = torch.where(masked, mask_id, tokens.ids)
        return Cloze(Tokens(ids, tokens.real), ids, tokens.ids, masked)
    fate = torch.rand(tokens.ids.shape, device=tokens.ids.device)
    random_word = torch.randint(n_words, tokens.ids.shape, device=tokens.ids.device)
    replaced = torch.where(fate < 0.8, mask_id, torch.where(fate < 0.9, random_word, tokens.ids))
    ids = torch.where(masked, replaced, tokens.ids)
    return Cloze(Tokens(ids, tokens.real), ids, tokens.ids, masked)


def cloze(tokens: Tokens, masked: Tensor, sentinels: Tensor, start_id: int, pad_id: int) -> Cloze:
    """T5's way: each run of masked tokens becomes one sentinel; the answer is each sentinel, then its tokens.

    masked: (B, S) bool.
    """
    first = masked & ~torch.nn.functional.pad(masked[:, :-1], (1, 0))  # first token of each run
    run = first.cumsum(-1) - 1  # (B, S) number of the run a token is in
    masked = masked & (run < len(sentinels))  # more runs than sentinels: the last ones stay as they were
    first = first & masked
    mark = sentinels[run.clamp(0, len(sentinels) - 1)]  # (B, S)

    kept = tokens.real & (~masked | first)
    ids, real = _pack(torch.where(first, mark, tokens.ids), kept, pad_id)

    # each masked token writes one place of the answer, the first of a run writes its sentinel before it
    pair = torch.stack([mark, tokens.ids], dim=-1).flatten(1)  # (B, 2S)
    written = torch.stack([first, masked], dim=-1).flatten(1)
    scores = torch.stack([torch.zeros_like(masked), masked], dim=-1).flatten(1)
    answer, there = _pack(pair, written, pad_id)
    scored, _ = _pack(scores.long(), written, 0)
    prompt = torch.nn.functional.pad(answer[:, :-1], (1, 0), value=start_id)
    return Cloze(Tokens(ids, real), prompt, answer, scored.bool() & there)


def _pack(values: Tensor, kept: Tensor, fill: int) -> tuple[Tensor, Tensor]:
    """The kept values of each row moved to its left, padded with `fill`; and which places are taken."""
    count = kept.sum(-1)
    n = max(1, int(count.max()))
    order = torch.argsort(~kept, dim=-1, stable=True)[:, :n]
    taken = torch.arange(n, device=values.device)[None] < count[:, None]
    return values.gather(1, order).masked_fill(~taken, fill), taken


class ReportDecoder(nn.Module):
    """A small causal decoder that reads the encoded report and writes the hidden tokens; words are tied by the caller."""

    def __init__(self, width: int, depth: int, heads: int, max_tokens: int) -> None:
        super().__init__()
        self.position = nn.Parameter(0.02 * torch.randn(2 * max_tokens, width))
        self.blocks = nn.ModuleList(CausalBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, words: Tensor, memory: Tensor, real: Tensor | None) -> Tensor:
        """words: (B, A, D) embedded prompt; memory: (B, S, D); -> (B, A, D)."""
        x = words + self.position[: words.shape[1]]
        for block in self.blocks:
            x = block(x, memory, real)
        out: Tensor = self.norm(x)
        return out


def split(report: str) -> tuple[str, ...]:
    """A report's statements, where nobody listed them: what stands between periods."""
    return tuple(s.strip() for s in report.rstrip(". ").split(". ") if s.strip())


def shuffled(statements: Sequence[str], drop: float, generator: torch.Generator | None = None) -> str:
    """A report of the statements in a random order, each left out with chance `drop`, one at least kept."""
    if len(statements) < 2:
        return "".join(f"{statement}." for statement in statements)
    order = torch.randperm(len(statements), generator=generator).tolist()
    keep = torch.rand(len(statements), generator=generator) >= drop
    chosen = [statements[i] for i in order if keep[i]] or [statements[order[0]]]
    return ". ".join(chosen) + "."
