"""The contract of a method. Every file in this folder is a paper; the name in a config is the name of the file.

A method file holds `Config` (a frozen dataclass: the paper's values are the defaults) and `Method`:

    class Method(nn.Module):
        parts: tuple[str, ...]                                  # what embed_ecg can give; "backbone" always
        def __init__(self, config: Config, signal: Signal, tokenizer: Tokenizer | None, kept: Path | None) -> None
        def forward(self, batch: Batch) -> dict[str, Tensor]    # weighted loss terms; training minimises their sum
        def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor     # (B, D), eval mode, nothing masked
        weights: dict[str, float]                               # of each term: raw = weighted / weight

A method that reads reports has `tokenizer`, `embed_text(texts) -> (K, D)` in the space of the part "shared", and, of the class
itself, `make_tokenizer(config, reports)` and `load_tokenizer(folder)` (nn/report_tower.py has all but the first).
Optional: `SMALL` beside the class (settings for two CPU cores, what `leadwise reproduce` takes where no config is given),
`ALSO_SMALL` (those of the method's other rows in tables), `SMALL_OPTIM` (settings of [optim] that go with them), `NEEDS` (of the
data, beside what it reads), `SIGNAL` (the paper's, where the default does not fit its settings), `after_step(progress)` (momentum
teachers, schedules),
`measure(batch) -> dict[str, float]` (what to watch on held-out patients), `pretrained_parameters` (a lower rate),
`keep(folder)` (what a rebuild needs; the folder comes back as `kept`), `reconstruct(batch)` (for pictures), `compiles` (modules
that torch.compile may take: those that draw nothing at random), `has_specific` (false where these settings give the part
"specific" no head), `decodes_specific` (the decoder is given that part: `reconstruct` then takes `specific_of`, whose part).

A step's batch may be shared out to several processes, and to several passes of each. A method whose terms set records against
each other therefore offers `forward` in two steps, and `forward` itself is one after the other:

    def look(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]     # own terms; pairs
    def contrast(self, pairs: dict[str, Tensor]) -> dict[str, Tensor]               # the other terms

Own terms are what each record says for itself: means over the batch's records, whose denominator is their number, so that the
mean over equal shares is exact. Pairs are what records have to know of each other, tensors with a row for each record: vectors,
and numbers by which the same report is known. `contrast` gets the pairs of all passes, detached, asks the other processes for
theirs (`ranks.gather`), and returns the mean over its own rows, or the whole batch's value. Its gradient goes back through a
second look, which must draw the same: random numbers come from torch, numpy or random, whose states the loop sets by step and
place. Every trainable parameter takes part in every batch. What cannot be shared out to passes is refused: `Config.whole_batch`
names the setting that is against it, '' if none. A method without `look` is taken to have own terms only.
"""

from __future__ import annotations
