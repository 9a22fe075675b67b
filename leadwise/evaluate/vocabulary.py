"""Words of a text that a run's text encoder does not know, so that a score of such a text means little."""

from __future__ import annotations

import re
from collections.abc import Sequence

from leadwise.data import reports
from leadwise.data.messages import first_few
from leadwise.run import Run

_WORD = re.compile(r"[^\W\d_]{3,}")  # shorter ones, such as "v1" or "av", are often split although they are known


def unknown_words(run: Run, text: str) -> tuple[str, ...]:
    """Return the words of a text that the run does not know, in order, each once.

    The tokenizer of a small text encoder is made from the training reports. It has a token for each of their words, as far as
    its size allows, and spells any other word from pieces. So a word of several pieces was rare or absent in training. The
    tokenizer of a borrowed encoder has a token for unknown words; only these count, because it spells many known words
    from pieces.
    """
    tokenizer = run.method.tokenizer
    if tokenizer is None:
        return ()
    cleaned = reports.clean(text)
    encoded = tokenizer(cleaned, return_offsets_mapping=True, add_special_tokens=False)
    tokens = list(zip(encoded["input_ids"], encoded["offset_mapping"]))
    unknown = []
    for match in _WORD.finditer(cleaned):
        own = [number for number, (begin, end) in tokens if begin < match.end() and end > match.start()]
        is_known = tokenizer.unk_token_id not in own if tokenizer.unk_token is not None else len(own) == 1
        if not is_known:
            unknown.append(match[0])
    return tuple(dict.fromkeys(unknown))


def remark(words: Sequence[str]) -> str:
    """Return a remark for the reader of a result that depends on these unknown words; '' if there are none."""
    if not words:
        return ""
    listed = first_few((repr(word) for word in words), 6)
    return f"rare or absent in the training reports: {listed}; a score that depends on these words means little"
