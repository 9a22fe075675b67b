"""Reports as tokens: a tokenizer without unknown characters, a BERT-family encoder, and two ways to hide tokens.

`transformers` is imported when it is used: its models take seconds to import, and methods on ECGs alone need none.

Works offline: an encoder is read from a local folder, or is small with fresh weights. The model hub is contacted only for a
name that is no folder, and remote code is never run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn

from leadwise.batch import Wordings, to_device
from leadwise.nn.transformer import CausalBlock

T = TypeVar("T")
Tokenizer = Any  # a transformers fast tokenizer; the library has no types

N_SENTINELS = 32
ONE_FINDING = 0.5  # of the setting `rewording`: probability that a report's view is one of its findings
# Groups of reports that are encoded together. With 64 reports on a CPU, eight groups were no faster than four. On a GPU,
# a group costs the time in which its kernels are started, which is more than padding costs.
MAX_GROUPS = 8
MIN_GROUP_SIZE = {"cpu": 16, "cuda": 512}
SENTINELS = [f"<hidden{i}>" for i in range(N_SENTINELS)]
MIN_PIECE_COUNT = 3  # of a word or a piece of a word in the training reports


def train_tokenizer(reports: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer trained on `reports`. Its alphabet is all bytes, so no character is unknown.

    Pieces that occur fewer than MIN_PIECE_COUNT times are split further: a shared tokenizer would contain the name of a
    person that someone typed into a report.
    """
    from transformers import PreTrainedTokenizerFast

    engine = Engine(models.BPE())
    engine.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    engine.decoder = decoders.ByteLevel()
    special = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", *SENTINELS]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_PIECE_COUNT,
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
    """The tokenizer of a folder or hub name; sentinels that it lacks are added."""
    from transformers import AutoTokenizer

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

    def to(self, device: str | torch.device) -> Tokens:
        """The same with its tensors on `device`."""
        return Tokens(to_device(self.ids, device), to_device(self.real, device))


def tokenize(tokenizer: Tokenizer, texts: list[str], max_tokens: int) -> tuple[Tokens, float]:
    """Reports padded to the longest of the batch, and the share of reports that were truncated at `max_tokens`.

    They are on the host, where their lengths are read without waiting for a GPU.
    """
    # the engine of the tokenizer: the same ids in half the time, because transformers converts token by token
    engine = tokenizer.backend_tokenizer
    engine.enable_truncation(max_tokens, direction=tokenizer.truncation_side)
    engine.no_padding()
    encodings = engine.encode_batch_fast(texts)

    lengths = np.array([len(one) for one in encodings])
    ids = np.full((len(texts), lengths.max()), tokenizer.pad_token_id, dtype=np.int64)
    for row, one in zip(ids, encodings):
        row[: len(one)] = one.ids
    real = np.arange(ids.shape[1]) < lengths[:, None]
    return Tokens(torch.from_numpy(ids), torch.from_numpy(real)), float((lengths >= max_tokens).mean())


def numbers(texts: Iterable[str]) -> Tensor:
    """(B,) int64: a hash of each text, equal for equal texts only, and the same on every process and in every pass."""
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts]
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64)


class ReportEncoder(nn.Module):
    """A BERT-family encoder that returns token states and one pooled vector per report."""

    def __init__(self, bert: nn.Module, pooling: Literal["cls", "mean", "pooler"]) -> None:
        super().__init__()
        self.bert, self.pooling = bert, pooling
        if pooling != "pooler":
            bert.register_module("pooler", None)  # it would get no gradient and only take memory
        elif getattr(bert, "pooler", None) is None:
            raise ValueError("text_pooling = 'pooler', but this text encoder has no pooler; use 'cls' or 'mean'")
        self.width: int = bert.config.hidden_size  # type: ignore[union-attr, assignment]
        self.heads: int = bert.config.num_attention_heads  # type: ignore[union-attr, assignment]

    def forward(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Token states (B, S, D), undefined on padding, and the pooled report (B, D).

        Reports of similar length are encoded together, so that a short report is not padded to the longest of the batch.
        The batch and the result are the same as without groups. Twice as fast as one padded batch
        (benchmarks/results/speed.md). The tokens are best on the host: their lengths are read.
        """
        tokens = tokens.to("cpu")
        kind = self.words.device.type
        n_groups = min(MAX_GROUPS, len(tokens.ids) // MIN_GROUP_SIZE.get(kind, MIN_GROUP_SIZE["cuda"]))
        if n_groups < 2:
            return self._encoded(tokens)

        # groups in the order of length, each padded to its own longest report
        lengths = tokens.real.sum(-1)
        order = lengths.argsort(stable=True)
        sorted_lengths, n_tokens = lengths[order].tolist(), tokens.ids.shape[1]
        groups, end = [], 0
        for rows in order.chunk(n_groups):
            end += len(rows)
            longest = sorted_lengths[end - 1]  # padding is on the right
            states, pooled = self._encoded(Tokens(tokens.ids[rows, :longest], tokens.real[rows, :longest]))
            groups.append((torch.nn.functional.pad(states, (0, 0, 0, n_tokens - longest)), pooled))

        # back to the order of the batch
        back = to_device(order.argsort(), self.words.device)
        return torch.cat([states for states, _ in groups])[back], torch.cat([pooled for _, pooled in groups])[back]

    def _encoded(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        mask = None if bool(tokens.real.all()) else tokens.real
        tokens = tokens.to(self.words.device)
        if mask is not None:
            mask = tokens.real.long()
            if getattr(self.bert.config, "_attn_implementation", "") == "sdpa":
                # the mask of each query: transformers reads a mask of each report, to see whether it masks anything
                b, s = tokens.ids.shape
                mask = tokens.real[:, None, None].expand(b, 1, s, s)
        out = self.bert(input_ids=tokens.ids, attention_mask=mask)
        states: Tensor = out.last_hidden_state
        if self.pooling == "pooler":
            return states, out.pooler_output
        if self.pooling == "cls":
            return states, states[:, 0]
        real = tokens.real[..., None]
        return states, (states * real).sum(1) / real.sum(1).clamp(min=1)

    @property
    def words(self) -> Tensor:
        """The word embedding table (V, D), shared with reconstruction heads."""
        table: Tensor = self.bert.get_input_embeddings().weight  # type: ignore[operator]
        return table


def bert_from_nothing(n_words: int, width: int, depth: int, heads: int, max_tokens: int) -> nn.Module:
    """A small BERT with fresh weights and no dropout."""
    from transformers import BertConfig, BertModel

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
    """The BERT of a local folder or hub name, with at least `n_words` word embeddings."""
    from transformers import AutoModel

    local = Path(folder).is_dir()
    model = AutoModel.from_pretrained(folder, local_files_only=local, trust_remote_code=False)
    if model.get_input_embeddings().weight.shape[0] < n_words:
        model.resize_token_embeddings(n_words, mean_resizing=False)
    out: nn.Module = model
    return out


def freeze(bert: nn.Module, n_layers: int) -> None:
    """Freeze a BERT's embeddings and first `n_layers` layers; embeddings of added sentinels stay at their initial values.

    Raises:
        ValueError: it has fewer layers, or its layers are not where BERT and DistilBERT have them.
    """
    if n_layers < 1:
        return
    model: Any = bert
    stack = getattr(model, "encoder", None) or getattr(model, "transformer", None)  # BERT-like; DistilBERT
    layers = getattr(stack, "layer", None)
    if layers is None:
        raise ValueError(
            f"text_frozen_layers = {n_layers}, but the layers of a {type(bert).__name__} are not where BERT has them; use 0"
        )
    if n_layers > len(layers):
        raise ValueError(f"text_frozen_layers = {n_layers}, but the text encoder has {len(layers)} layers")
    for part in (model.embeddings, *layers[:n_layers]):
        part.requires_grad_(False)


def is_bert_layer(module: nn.Module) -> bool:
    """Return whether `module` is one layer of a BERT-family encoder: a class such as BertLayer of transformers."""
    return type(module).__module__.startswith("transformers.") and type(module).__name__.endswith("Layer")


def bert_shaped_as(folder: Path) -> nn.Module:
    """A BERT of the shape described in `folder`, with fresh weights: the weights are loaded later."""
    from transformers import AutoConfig, AutoModel

    model: nn.Module = AutoModel.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
    return model


def choose_masked(tokens: Tokens, special: Tensor, ratio: float) -> Tensor:
    """A random `ratio` of each report's ordinary (not special) tokens, (B, S) bool; at least one of one or more."""
    ordinary = tokens.real & ~torch.isin(tokens.ids, special)
    noise = torch.rand(tokens.ids.shape, device=tokens.ids.device).masked_fill(~ordinary, torch.inf)
    n = ordinary.sum(-1, keepdim=True)
    quota = (n * ratio).round().long().clamp(min=1).minimum(n)
    return ordinary & (noise.argsort(-1).argsort(-1) < quota)


@dataclass(frozen=True)
class Cloze:
    """Reports with hidden tokens, and the tokens to predict."""

    question: Tokens  # the corrupted report
    prompt: Tensor  # (B, A) decoder input: the answer shifted right; unused where tokens are masked in place
    answer: Tensor  # (B, A) true ids
    scored: Tensor  # (B, A) bool: the hidden tokens, without sentinels and padding

    def to(self, device: str | torch.device) -> Cloze:
        """The same with its tensors on `device`."""
        moved = (to_device(x, device) for x in (self.prompt, self.answer, self.scored))
        return Cloze(self.question.to(device), *moved)


def mask_in_place(tokens: Tokens, masked: Tensor, mask_id: int, n_words: int) -> Cloze:
    """Hide tokens as BERT does: 80 % of the masked places become the mask token, 10 % a random word, 10 % are unchanged.

    masked: (B, S) bool.
    """
    draw = torch.rand(tokens.ids.shape, device=tokens.ids.device)
    random_word = torch.randint(n_words, tokens.ids.shape, device=tokens.ids.device)
    replaced = torch.where(draw < 0.8, mask_id, torch.where(draw < 0.9, random_word, tokens.ids))
    ids = torch.where(masked, replaced, tokens.ids)
    return Cloze(Tokens(ids, tokens.real), ids, tokens.ids, masked)


def cloze(tokens: Tokens, masked: Tensor, sentinels: Tensor, start_id: int, pad_id: int) -> Cloze:
    """Hide tokens as T5 does: each run of masked tokens becomes one sentinel; the answer is each sentinel and its tokens.

    masked: (B, S) bool.
    """
    # the runs of masked tokens, and the sentinel of each
    first = masked & ~torch.nn.functional.pad(masked[:, :-1], (1, 0))  # first token of each run
    run = first.cumsum(-1) - 1  # (B, S) number of the run a token is in
    masked = masked & (run < len(sentinels))  # with more runs than sentinels, the last runs are not hidden
    first = first & masked
    sentinel = sentinels[run.clamp(0, len(sentinels) - 1)]  # (B, S)

    # question: ordinary tokens and one sentinel per run
    ids, real = _pack(torch.where(first, sentinel, tokens.ids), tokens.real & (~masked | first), pad_id)

    # answer: each masked token, and before the first of a run its sentinel, which is not scored
    pair = torch.stack([sentinel, tokens.ids], dim=-1).flatten(1)  # (B, 2S)
    used = torch.stack([first, masked], dim=-1).flatten(1)
    scores = torch.stack([torch.zeros_like(masked), masked], dim=-1).flatten(1)
    answer, is_token = _pack(pair, used, pad_id)
    scored, _ = _pack(scores.long(), used, 0)
    prompt = torch.nn.functional.pad(answer[:, :-1], (1, 0), value=start_id)
    return Cloze(Tokens(ids, real), prompt, answer, scored.bool() & is_token)


def _pack(values: Tensor, used: Tensor, fill: int) -> tuple[Tensor, Tensor]:
    """The `used` values of each row moved to the left and padded with `fill`, and which places are not padding."""
    count = used.sum(-1)
    n = max(1, int(count.max()))
    order = torch.argsort(~used, dim=-1, stable=True)[:, :n]
    is_value = torch.arange(n, device=values.device)[None] < count[:, None]
    return values.gather(1, order).masked_fill(~is_value, fill), is_value


class ReportDecoder(nn.Module):
    """A small causal decoder: predicts the hidden tokens from the encoded report. The caller ties the word embeddings."""

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
    """A report's statements, for sources that do not list them: the parts between periods."""
    return tuple(s.strip() for s in report.rstrip(". ").split(". ") if s.strip())


def shuffled(statements: Sequence[str], drop: float, generator: torch.Generator | None = None) -> str:
    """A report of the statements in random order, each left out with probability `drop`; at least one remains."""
    if len(statements) < 2:
        return "".join(f"{statement}." for statement in statements)
    order = torch.randperm(len(statements), generator=generator).tolist()
    remains = torch.rand(len(statements), generator=generator) >= drop
    chosen = [statements[i] for i in order if remains[i]] or [statements[order[0]]]
    return ". ".join(chosen) + "."


def reword(statements: Sequence[str], wordings: Sequence[Wordings], rewording: float) -> tuple[str, ...]:
    """The statements of one report in other words, of which `wordings` has those of each statement.

    With probability `rewording / 2` the report becomes one random finding of it, which is the form of a prompt. Otherwise each
    statement is replaced with probability `rewording`; a statement without wordings stays. The text of a finding is
    drawn in two steps: a form (name; name and criterion; further wordings; a wider finding; a wider finding and its
    criterion), then a text of this form. Only the report's own statements are used, no label.
    """
    n_findings = sum(len(one.findings) for one in wordings)
    draws = iter(
        torch.rand(4 + 2 * n_findings + len(wordings)).tolist()
    )  # one call: torch.rand costs more than the rest

    # one finding alone
    prompts = [forms for one in wordings if one.is_prompt for forms in one.findings]
    if next(draws) < ONE_FINDING * rewording and prompts:
        return (_draw_text(_pick(prompts, next(draws)), draws),)

    # each statement
    return tuple(
        ". ".join(_draw_text(forms, draws) for forms in one.findings)
        if next(draws) < rewording and one.findings
        else statement
        for statement, one in zip(statements, wordings, strict=True)
    )


def _draw_text(forms: Sequence[Sequence[str]], draws: Iterator[float]) -> str:
    return _pick(_pick(forms, next(draws)), next(draws))


def _pick(options: Sequence[T], draw: float) -> T:
    """The option that `draw`, uniform in [0, 1), selects."""
    return options[int(draw * len(options))]


def drop_statements(reports: Sequence[str], statements: Sequence[Sequence[str]] | None, drop: float) -> tuple[str, ...]:
    """Each report `shuffled`: by the statements that the source lists, or else by its sentences."""
    return tuple(shuffled(one, drop) for one in statements or map(split, reports))
