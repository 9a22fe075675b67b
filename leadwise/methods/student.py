"""Student: a small encoder trained to the embeddings of a trained run, its teacher.
Distillation after Hinton et al., arXiv 1503.02531; relations after Tung and Mori, arXiv 1907.09682 (ICCV 2019).

    L = w_shared L_shared + w_relations L_relations + w_backbone L_backbone

    s, t         unit vectors of a record by the student and by the teacher, in the teacher's shared space
    L_shared     |s - t|^2 / V, V the variance of t over the training records; |s - t|^2 = 2 (1 - cosine)
    L_relations  (s_i . s_j - t_i . t_j)^2 over pairs of the batch, divided by the variance of t_i . t_j
    L_backbone   squared error of a linear map of the student's backbone to the teacher's, each dimension scaled to variance 1

Each term is 0 for the teacher's own vectors and about 1 for a student that returns the mean.

- The teacher is `data.teacher`: a run folder, a name that ships with the package, or a hub id. It reads the same leads, rate
  and duration, and has a text encoder.
- The teacher's vectors are of the unchanged ECG and are computed once; the student is trained on random views of the ECG.
- The run contains the teacher's tokenizer, text encoder and text head, unchanged. It needs no teacher after training, and its
  zero-shot prompts are those of the teacher.
- Reports and labels are not read: recordings without a report count too, with data.min_report_words = 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise import distributed
from leadwise.batch import Batch, Signal
from leadwise.config import check_ranges
from leadwise.methods.contract import MethodConfig, PretrainingMethod, nonzero_weights
from leadwise.nn.encoder import EcgEncoder, EncoderSettings, WithEcgEncoder, check_part
from leadwise.nn.heads import Head, described_layers, layers_of
from leadwise.nn.losses import distillation, multimodal
from leadwise.nn.report_tower import ReportTower, TextEncoderSettings, WithReports
from leadwise.nn.text import Tokenizer
from leadwise.nn.views import PairViewSettings

_N_RELATIONS = 1000  # training records whose inner products give the variance of the relations


@dataclass(frozen=True)
class Config(EncoderSettings, PairViewSettings, TextEncoderSettings, MethodConfig):
    resnet_width: int = 16  # channels of the first stage; the feature is eight times as wide
    # of the teacher; a run takes these settings from it, and the text settings above
    text_head: tuple[str, ...] = ("linear 256",)  # layers of the teacher's text head
    backbone_width: int = 0  # D of the teacher's part "backbone"; 0 = L_backbone is not used
    # loss
    w_shared: float = 1.0  # weights of the terms; 0 removes the term and its computation
    w_relations: float = 1.0
    w_backbone: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, w_shared="> 0", w_relations=">= 0", w_backbone=">= 0", backbone_width=">= 0")

    @property
    def text_is_frozen(self) -> bool:
        """The teacher's text encoder is never trained."""
        return True


NEEDS = "data.teacher: a trained run with a text encoder"
# The smallest settings, for the contract tests.
_TEXT = {"text_width": 32, "text_depth": 1, "text_heads": 2, "vocab_size": 400, "max_tokens": 48}
TINY = {
    "": {"resnet_width": 8, "text_head": ("linear 32", "gelu", "norm", "linear 16"), "backbone_width": 8, **_TEXT},
    "lead_time": {
        "encoder": "lead_time", "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "text_head": ("linear 16",),
        "backbone_width": 8, "w_relations": 0.0, **_TEXT,
    },
}  # fmt: skip


class Method(WithEcgEncoder, WithReports, PretrainingMethod):
    config: Config
    learns_from_teacher = True
    teacher_parts = ("shared", "backbone")
    shared_mean: Tensor
    shared_variance: Tensor
    relation_variance: Tensor
    backbone_mean: Tensor
    backbone_deviation: Tensor

    def __init__(self, config: Config, signal: Signal, tokenizer: Tokenizer, saved_folder: Path | None = None) -> None:
        """`saved_folder` is the folder to which `save_extra` wrote: of this run, or of the teacher."""
        super().__init__(config, signal, tokenizer)
        c = config
        w_backbone = c.w_backbone if c.backbone_width else 0.0
        self.weights = nonzero_weights(L_shared=c.w_shared, L_relations=c.w_relations, L_backbone=w_backbone)

        # report -> shared, as in the teacher; not trained
        self.text = ReportTower(c, tokenizer, saved_folder)
        self.text_head = nn.Sequential(*layers_of(c.text_head, self.text.width))
        for module in (self.text, self.text_head):
            module.requires_grad_(False)
        shared_width = next(m.out_features for m in reversed(self.text_head) if isinstance(m, nn.Linear))

        # ECG -> shared, and the map to the teacher's backbone
        self.ecg = EcgEncoder(c, signal)
        self.ecg_shared = Head(self.ecg.width, shared_width)
        if w_backbone:
            self.to_backbone = nn.Linear(self.ecg.width, c.backbone_width)

        # statistics of the teacher's training vectors, which scale the terms
        self.register_buffer("shared_mean", torch.zeros(shared_width))
        self.register_buffer("shared_variance", torch.tensor(1.0))
        self.register_buffer("relation_variance", torch.tensor(1.0))
        self.register_buffer("backbone_mean", torch.zeros(c.backbone_width))
        self.register_buffer("backbone_deviation", torch.ones(c.backbone_width))

    @staticmethod
    def teacher_settings(teacher: PretrainingMethod, widths: dict[str, int]) -> dict[str, Any]:
        """Return the settings of the teacher's text encoder and head, and the width of its backbone.

        Raises:
            ValueError: the head has a layer that a student cannot copy.
        """
        tower, head = teacher.text_branch
        assert isinstance(tower, ReportTower)
        names = [field.name for field in dataclasses.fields(TextEncoderSettings)]
        text = {name: getattr(tower.settings, name) for name in names}
        return {**text, "text_head": list(described_layers(head)), "backbone_width": widths["backbone"]}

    @torch.no_grad()
    def take_teacher(self, teacher: PretrainingMethod, targets: Tensor) -> None:
        """Copy the teacher's text encoder and head, and compute the statistics of its vectors `targets` (n, D)."""
        tower, head = teacher.text_branch
        self.text.load_state_dict(tower.state_dict())
        for own, copied in zip(self.text_head.parameters(), head.parameters(), strict=True):
            own.copy_(copied)

        shared, backbone = self._split(targets.to(self.shared_mean.device))
        self.shared_mean.copy_(shared.mean(0))
        self.shared_variance.fill_((shared - self.shared_mean).square().sum(-1).mean().clamp(min=1e-6))
        some = shared[torch.linspace(0, len(shared) - 1, min(len(shared), _N_RELATIONS)).long()]
        off_diagonal = ~torch.eye(len(some), dtype=torch.bool, device=some.device)
        self.relation_variance.fill_((some @ some.T)[off_diagonal].var(correction=0).nan_to_num(1.0).clamp(min=1e-6))
        self.backbone_mean.copy_(backbone.mean(0))
        self.backbone_deviation.copy_(backbone.std(0, correction=0).clamp(min=1e-3))

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weighted terms of each record by itself, and the unit vectors that `batch_terms` compares.

        Raises:
            ValueError: the batch has no vectors of a teacher, or vectors of another width.
        """
        shared, backbone = self._split(self._target(batch))
        feature = self.ecg(self.training_view(batch))
        own = _unit(self.ecg_shared(feature))
        terms = {"L_shared": distillation.unexplained(own, shared, self.shared_variance)}
        if "L_backbone" in self.weights:
            scaled = (backbone - self.backbone_mean) / self.backbone_deviation
            terms["L_backbone"] = (self.to_backbone(feature).float() - scaled).square().mean()
        features = {"student": own, "teacher": shared} if self.config.w_relations else {}
        return {name: self.weights[name] * term for name, term in terms.items()}, features

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted term over pairs of the whole batch, including other processes' records."""
        if not features:
            return {}
        every = distributed.gather_features(features)
        rows = distributed.local_rows(len(every["student"]))
        term = distillation.relations(every["student"], every["teacher"], self.relation_variance, rows)
        return {"L_relations": self.weights["L_relations"] * term}

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of ECGs; any subset of leads may be observed.

        backbone: the encoder's vector. shared: unit vectors in the teacher's shared space, that of `embed_text`.

        Raises:
            ValueError: an unknown part, or a record without an observed sample.
        """
        return self.embed_parts(batch, (part,))[0]

    def embed_parts(self, batch: Batch, parts: Sequence[str]) -> list[Tensor]:
        """Return `embed_ecg` of each of `parts`, from one pass of the encoder."""
        for part in parts:
            check_part(part, self.parts)
        feature: Tensor = self.ecg(batch)
        return [feature if part == "backbone" else F.normalize(self.ecg_shared(feature), dim=-1) for part in parts]

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """Cosines of student and teacher on held-out records, also without the teacher's mean, and the student's rank."""
        shared, _ = self._split(self._target(batch))
        own = self.embed_ecg(batch, "shared").float()
        centred = F.cosine_similarity(own - self.shared_mean, shared - self.shared_mean, dim=-1)
        return {
            "cos_teacher": float(F.cosine_similarity(own, shared, dim=-1).mean()),
            "cos_teacher_centred": float(centred.mean()),
            "effective_rank": multimodal.effective_rank(own),
        }

    def _target(self, batch: Batch) -> Tensor:
        """The teacher's vectors (B, D) of a batch."""
        width = len(self.shared_mean) + self.config.backbone_width
        if batch.target is None:
            raise ValueError("the batch has no vectors of a teacher: set data.teacher to a trained run")
        if batch.target.shape[1] != width:
            raise ValueError(
                f"the teacher's vectors have width {batch.target.shape[1]}, and the student expects {width}"
            )
        return batch.target

    def _split(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's shared unit vectors (B, S) and backbone (B, W), from both together."""
        n = len(self.shared_mean)
        return target[:, :n].float(), target[:, n:].float()


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.float(), dim=-1)
