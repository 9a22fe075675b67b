"""The writer `local`: a causal language model of `transformers` from a local folder, with LoRA and the ECG as a prefix.

The embedding of the ECG is standardised and goes through two layers to K vectors, which take the place of word embeddings
before the instruction and the report. The language model is frozen; low-rank maps (LoRA, arXiv 2106.09685) beside its linear
layers are trained with the projection, at a rate that is `optim.pretrained_lr_scale` of the projection's. The writer folder
contains the projection and the low-rank maps only, and names the folder of the language model.

With `projection_steps`, training has two stages, as in LLaVA (arXiv 2304.08485): the projection alone at the full rate, then
the projection and the low-rank maps at the lower rate. Each stage has its own warm-up and its own fall of the rate.

With the input "tokens", the ECG is the code numbers of a run of `beat_tokenizer`. Each code has a vector of its own beside the
frozen word embeddings, which is trained with the projection's rate: new rows of a frozen embedding would not train.

The loss is that of the report's tokens alone. With `paraphrase`, the instruction of each training report is drawn from the
setting `instruction` and PARAPHRASES; held-out reports and written ones always have `instruction`.

Needs the extra reports-llm. Nothing is downloaded, and code in the folder is never run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise.config import check_ranges
from leadwise.generate.report_model import EcgProjector, ReportModel, TokenEmbedder
from leadwise.generate.writer import WriterError

BASE = "base.json"
PARAPHRASES = (
    "Write the report of this 12-lead ECG:",
    "Describe the findings of this electrocardiogram:",
    "ECG interpretation:",
    "What does this ECG show? Answer as a report:",
    "State rhythm, conduction and abnormalities of this recording:",
    "Read this 12-lead electrocardiogram and report it:",
    "Report, as an ECG machine prints it:",
)
"""Other wordings of the instruction, which training draws with `paraphrase`."""


@dataclass(frozen=True)
class LocalSettings:
    """The settings of the writer `local`, the table [writer] without its `kind`."""

    model: str  # folder of a causal language model of transformers, with its tokenizer
    vectors: int = 16  # K, into which the ECG is projected
    max_tokens: int = 128  # of a report, with its end; a longer one is cut
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    instruction: str = "Report of this 12-lead ECG:"  # between the ECG and the report
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the language model; what is trained is float32
    paraphrase: bool = False  # training draws a wording of the instruction for each report
    projection_steps: int = 0  # first steps, in which the projection alone is trained; 0: one stage
    numbers: Literal["keep", "remove"] = "keep"  # remove: measurements are taken out of the training reports
    input: Literal["vectors", "tokens"] = "vectors"  # an embedding of the ECG, or the code numbers of a tokenizer's run

    def __post_init__(self) -> None:
        check_ranges(
            self, vectors=">= 1", max_tokens=">= 3", lora_rank=">= 1", lora_alpha=">= 1", lora_dropout="[0, 1)"
        )
        check_ranges(self, projection_steps=">= 0")

    @property
    def instructions(self) -> tuple[str, ...]:
        """The wordings that training draws from; the first is that of written reports."""
        return (self.instruction, *PARAPHRASES) if self.paraphrase else (self.instruction,)


class LocalModel(ReportModel):
    """The language model, its low-rank maps, and the projection of the ECG."""

    def __init__(
        self, settings: LocalSettings, n_features: int, saved_folder: Path | None = None, n_token_ids: int = 0
    ) -> None:
        """Open the language model.

        Args:
            saved_folder: the folder to which `save_tokenizer` wrote: the language model must be that of the training.

        Raises:
            WriterError: peft is not installed, the folder has no usable language model, or it is another one.
        """
        super().__init__(n_features, n_token_ids)
        self.settings = settings
        folder = Path(settings.model)
        self.identity = _identity(folder)
        if saved_folder is not None and _stored_identity(saved_folder) != self.identity:
            raise WriterError(
                f"{folder} is not the language model that the writer was trained with; set writer.model in writer.toml to that "
                "model's folder"
            )
        base, self.tokenizer = _open_model(folder, settings)
        self.start, self.end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        most = getattr(base.config, "max_position_embeddings", None)
        self.instructions = [self._ids(text) for text in settings.instructions]
        n_vectors = n_features if n_token_ids else settings.vectors
        needed = 1 + n_vectors + max(map(len, self.instructions)) + settings.max_tokens
        if most is not None and needed > most:
            raise WriterError(
                f"the language model in {folder} has {most} positions, and a report needs {needed}; lower writer.max_tokens"
            )
        self.lm: nn.Module = _with_lora(base, settings)
        width = base.config.hidden_size
        self.project: nn.Sequential = (
            TokenEmbedder(n_features, n_token_ids, width)
            if n_token_ids
            else EcgProjector(n_features, settings.vectors, width)
        )
        # vectors of the size of word embeddings, which a frozen model expects
        with torch.no_grad():
            self.project[-1].weight.fill_(float(base.get_input_embeddings().weight.float().std()))  # type: ignore[operator]

    @property
    def pretrained_parameters(self) -> list[nn.Parameter]:
        """The low-rank maps, which change borrowed layers."""
        return [parameter for parameter in self.lm.parameters() if parameter.requires_grad]

    def losses(self, features: Tensor, texts: Sequence[str]) -> tuple[Tensor, int]:
        """Return the sum of the losses of all report tokens, and their number."""
        # the instructions and the reports, each with its end, padded on the right
        before = self._drawn_instructions(len(texts))
        reports = [[*self._ids(text)[: self.settings.max_tokens - 1], self.end] for text in texts]
        rows = [[*one, *report] for one, report in zip(before, reports)]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [self.end] * (longest - len(row)) for row in rows], device=self.device)
        place = torch.arange(longest, device=self.device)
        real = place < torch.tensor([len(row) for row in rows], device=self.device)[:, None]
        is_report = real & (place >= torch.tensor([len(one) for one in before], device=self.device)[:, None])

        # the logits of the places before each token
        ecg = self._ecg(features)
        x = torch.cat([ecg, self._words(ids[:, :-1])], dim=1)
        attended = torch.cat([real.new_ones(ecg.shape[:2]), real[:, 1:]], dim=1)
        logits = self.lm(inputs_embeds=x, attention_mask=attended.long(), use_cache=False).logits
        logits = logits[:, ecg.shape[1] - 1 :].float()
        return F.cross_entropy(logits[is_report], ids[is_report], reduction="sum"), int(is_report.sum())

    def generate(self, features: Tensor) -> list[str]:
        """Return the reports of B ECGs with embeddings (B, D), by greedy decoding."""
        x = self._begin(features)
        language_model: Any = self.lm
        ids = language_model.generate(
            inputs_embeds=x,
            attention_mask=torch.ones(x.shape[:2], dtype=torch.long, device=x.device),
            max_new_tokens=self.settings.max_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=self.end,
            pad_token_id=self.end,
        )
        return [self.tokenizer.decode(row, skip_special_tokens=True) for row in ids.tolist()]

    def save_tokenizer(self, folder: Path) -> None:
        """Write which language model the writer belongs to, and its tokenizer."""
        self.tokenizer.save_pretrained(folder)
        (folder / BASE).write_text(json.dumps(self.identity, indent=1) + "\n", encoding="utf-8")

    def _drawn_instructions(self, n: int) -> list[list[int]]:
        """Return the tokens of the instruction of each of N reports: drawn in training, else the first wording."""
        if not self.training or len(self.instructions) == 1:
            return [self.instructions[0]] * n
        return [self.instructions[k] for k in torch.randint(len(self.instructions), (n,)).tolist()]

    def _begin(self, features: Tensor) -> Tensor:
        """Return the places (B, P, W) before a written report: the start, the ECG, and the instruction."""
        ids = torch.tensor([self.instructions[0]], dtype=torch.long, device=self.device)
        return torch.cat([self._ecg(features), self._words(ids).expand(len(features), -1, -1)], dim=1)

    def _ecg(self, features: Tensor) -> Tensor:
        """Return the first places (B, P, W): the start, if the tokenizer has one, and the ECG."""
        start = [] if self.start is None else [self.start]
        words = self._words(torch.tensor([start], dtype=torch.long, device=self.device)).expand(len(features), -1, -1)
        return torch.cat([words, self.project(self.standardize(features)).to(words.dtype)], dim=1)

    def _words(self, ids: Tensor) -> Tensor:
        words: Tensor = self.lm.get_input_embeddings()(ids)  # type: ignore[operator]
        return words

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _open_model(folder: Path, settings: LocalSettings) -> tuple[Any, Any]:
    """Return the language model and the tokenizer of a folder.

    Raises:
        WriterError: the folder has none that can be used.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, dtype=getattr(torch, settings.dtype)
        )
    except Exception as error:  # transformers raises a dozen types for a folder that it cannot use
        raise WriterError(
            f"writer.model = {str(folder)!r} is no causal language model with a tokenizer that transformers opens "
            f"({type(error).__name__}); set it to a folder written by save_pretrained"
        ) from None
    if tokenizer.eos_token_id is None:
        raise WriterError(f"the tokenizer in {folder} has no end token (eos_token); set writer.model to another model")
    return model, tokenizer


def _with_lora(base: nn.Module, settings: LocalSettings) -> nn.Module:
    """Return the frozen language model with low-rank maps beside its linear layers."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise WriterError("the writer 'local' needs peft: pip install 'leadwise[reports-llm]'") from None
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    model: nn.Module = get_peft_model(base, config)
    return model


def _identity(folder: Path) -> dict[str, int]:
    """Return the names and sizes of a language model's files: hashing them would take longer than loading them.

    Raises:
        WriterError: there is no such folder.
    """
    if not (folder / "config.json").is_file():
        raise WriterError(
            f"writer.model = {str(folder)!r} has no config.json; set it to a folder with a causal language model of transformers"
        )
    files: Iterable[Path] = sorted(folder.iterdir())
    return {path.name: path.stat().st_size for path in files if path.suffix in (".json", ".safetensors", ".bin")}


def _stored_identity(folder: Path) -> dict[str, int] | None:
    try:
        identity: dict[str, int] = json.loads((folder / BASE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return identity
