"""Zero-shot scores of single ECGs, with what is needed to read them: the range over wordings and the place in a reference.

A cosine alone misleads: in some runs every text of heart disease has a cosine near 0.8 to every ECG. So each score has the
range over the wordings of its class, its percentile among the ECGs of a reference cohort, the words that the run does not know,
and the reason if the ECG is not interpretable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from leadwise.evaluate import prompts as prompt_files
from leadwise.evaluate.embed import Features
from leadwise.evaluate.metrics.score import Floats
from leadwise.evaluate.prompts import ClassPrompts, PromptError
from leadwise.evaluate.text_embeddings import class_vector, cosines, embed_prompts, unit
from leadwise.evaluate.vocabulary import unknown_words
from leadwise.run import Run

Wordings = Mapping[str, ClassPrompts]  # class -> its plain name and texts


def find_wordings(prompts: object, source: str = "") -> dict[str, ClassPrompts]:
    """Return the wordings of each class.

    Args:
        prompts: a list of texts, each a class of its own; a dict of class to text or texts; the path of a prompt file; or
            the name of a task whose prompts are shipped.
        source: the data set of a task, where several have a task of that name.

    Raises:
        PromptError: no class, an empty text, or no such task or file.
    """
    if isinstance(prompts, str | Path):
        is_file = isinstance(prompts, Path) or prompts.endswith(".toml")
        loaded = prompt_files.load(Path(prompts) if is_file else _shipped_file(str(prompts), source))
        return dict(zip(loaded.names, loaded.for_classes(loaded.names)))

    # texts of the caller
    if isinstance(prompts, Mapping):
        texts = {str(name): [own] if isinstance(own, str) else list(own) for name, own in prompts.items()}
    elif isinstance(prompts, Sequence):
        texts = {str(text): [text] for text in prompts}
    else:
        raise PromptError(f"prompts are a list of texts, a dict, a task or a file; got {type(prompts).__name__}")
    for name, own in texts.items():
        if not own or not all(isinstance(text, str) and any(map(str.isalnum, text)) for text in own):
            raise PromptError(
                f"prompts: class {name!r} has no text, or an empty one; give each class one or more texts"
            )
    if not texts:
        raise PromptError("prompts: no class; give at least one text")
    return {name: ClassPrompts(name, tuple(own)) for name, own in texts.items()}


def _shipped_file(name: str, source: str) -> Path:
    """Return the shipped prompt file of a task: that of the data set, or the only one with a task of that name."""
    stems = {path.stem: path for path in prompt_files.shipped()}
    if f"{source}_{name}" in stems or name in stems:
        return stems.get(f"{source}_{name}") or stems[name]
    own = [stem for stem in stems if stem.endswith(f"_{name}")]
    if len(own) == 1:
        return stems[own[0]]
    raise PromptError(
        f"prompts={name!r} is no task with shipped prompts ({', '.join(stems)}) and no .toml file; for one text, pass a list: "
        f"[{name!r}]"
    )


def score_wordings(
    run: Run, ecg: Features, names: Sequence[str], wordings: Wordings, reference: Features | None = None
) -> pd.DataFrame:
    """Return one row per ECG and class: cosine, low, high, percentile, n_prompts and unknown_words.

    cosine is that of `leadwise zeroshot`: to the mean direction of the class's wordings. low and high are the range of the
    cosines to single wordings, NaN with one wording; the cosine to the mean can be above that range. percentile is the share
    of the reference, in percent, with a lower cosine to this class; ties count half; NaN without a reference.

    Args:
        ecg: shared embeddings (N, D); a row of NaN gives scores of NaN.
        names: N names of the ECGs.
        reference: shared embeddings (M, D) of the reference.

    Raises:
        NoTextEncoderError: the run has no text encoder.
    """
    vectors = embed_prompts(run, list(wordings.values()))
    of_class = [class_vector(texts) for texts in vectors]
    scores = cosines(ecg, of_class)  # (N, K)
    of_reference = None if reference is None else cosines(reference, of_class)
    tables = []
    for k, (code, entry) in enumerate(wordings.items()):
        each = np.asarray(unit(ecg) @ unit(vectors[k]).T)  # (N, P)
        several = each.shape[1] > 1
        unknown = dict.fromkeys(word for text in entry.prompts for word in unknown_words(run, text))
        tables.append(
            pd.DataFrame(
                {
                    "ecg": list(names),
                    "class": code,
                    "cosine": scores[:, k],
                    "low": each.min(axis=1) if several else np.nan,
                    "high": each.max(axis=1) if several else np.nan,
                    "percentile": np.nan if of_reference is None else percentiles(scores[:, k], of_reference[:, k]),
                    "n_prompts": len(entry.prompts),
                    "unknown_words": ", ".join(unknown),
                }
            )
        )
    # ECG by ECG, classes in their order
    table = pd.concat(tables)
    return table.sort_index(kind="stable")


def percentiles(values: Floats, reference: Floats) -> Floats:
    """Return the percentage of `reference` (M,) below each of `values` (N,), ties counted half; NaN for NaN."""
    ordered = np.sort(reference[np.isfinite(reference)])
    below, up_to = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    result: Floats = np.where(np.isfinite(values), 50.0 * (below + up_to) / max(1, len(ordered)), np.nan)
    return result
