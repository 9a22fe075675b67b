"""Encoders of volumes, images of the heart in slices: (B, D, H, W) in, one vector out.

small       four blocks of a convolution of stride 2 for each slice by itself, the mean over the plane, and a linear map over
            slices. A block's norm is over the channels of a position, so that nothing depends on the batch and areas keep
            their size.
resnet50    the "slow" 3-D ResNet-50 (Feichtenhofer et al. 2019, arXiv 1812.03982) with one input channel: convolutions over
            slices in the last two stages only, the mean over the plane, and the same linear map over slices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise.batch import Batch, Volume
from leadwise.config import check_ranges
from leadwise.nn.batch_norm import BatchNorm
from leadwise.nn.encoder import check_part

_STAGES = ((64, 256, 3, 1), (128, 512, 4, 1), (256, 1024, 6, 3), (512, 2048, 3, 3))  # inner, outer, blocks, slices


@dataclass(frozen=True)
class VolumeEncoderSettings:
    """Kind and size of the encoder of volumes."""

    volume_encoder: Literal["small", "resnet50"] = "small"
    volume_widths: tuple[int, ...] = (16, 32, 64, 128)  # channels of the blocks of the small encoder
    volume_width: int = 128  # of the encoder's output vector
    volume_shared: bool = False  # one encoder for all phases, instead of one for each
    volume_noise: float = 0.0  # white noise on training volumes, largest standard deviation
    volume_flip: bool = False  # mirror the columns of a training volume at random, the same in all phases of a record

    def __post_init__(self) -> None:
        check_ranges(self, volume_width=">= 1", volume_noise=">= 0")
        if not self.volume_widths or min(self.volume_widths) < 1:
            raise ValueError(f"volume_widths = {list(self.volume_widths)}: must be one or more widths of 1 or more")

    @property
    def volume_whole_batch(self) -> str:
        """The setting that forbids gradient accumulation (batch norm needs all records of a process in one pass), or ''."""
        return "method.volume_encoder = 'resnet50'" if self.volume_encoder == "resnet50" else ""


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each position: (B, C, H, W) -> the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        return out


class SliceEncoder(nn.Module):
    """The small encoder: (B, D, H, W) -> (B, width)."""

    def __init__(self, n_slices: int, widths: Sequence[int], width: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for before, after in pairwise((1, *widths)):
            blocks += [nn.Conv2d(before, after, 3, stride=2, padding=1), ChannelNorm(after), nn.GELU()]
        self.blocks = nn.Sequential(*blocks)
        self.mix_slices = _slice_mixer(n_slices)
        self.out = nn.Linear(widths[-1], width)

    def feature_map(self, volume: Tensor) -> Tensor:
        """(B, C, D, h, w): the output of the blocks, before the mean over the plane."""
        maps = self._maps(volume)
        return maps.reshape(*volume.shape[:2], *maps.shape[1:]).transpose(1, 2)

    def _maps(self, volume: Tensor) -> Tensor:
        # channels last in memory, as the norm over channels reads them: a step takes a fifth less time on a CPU
        planes = volume.flatten(0, 1)[:, None].to(memory_format=torch.channels_last)
        out: Tensor = self.blocks(planes)  # (B D, C, h, w)
        return out

    def forward(self, volume: Tensor) -> Tensor:
        slices = self._maps(volume).mean((2, 3))  # (B D, C)
        by_slice = slices.reshape(*volume.shape[:2], -1).transpose(1, 2)  # (B, C, D)
        out: Tensor = self.out(self.mix_slices(by_slice)[..., 0])
        return out


class _VolumeNorm(BatchNorm):
    """Batch norm of (B, C, D, H, W) over all positions."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(2)).reshape(x.shape)


class _Bottleneck(nn.Module):
    """Residual block of three convolutions; the first may span several slices, the second halves the plane."""

    def __init__(self, width: int, inner: int, outer: int, stride: int, slices: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(width, inner, (slices, 1, 1), padding=(slices // 2, 0, 0), bias=False), _VolumeNorm(inner), nn.ReLU(),
            nn.Conv3d(inner, inner, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False), _VolumeNorm(inner), nn.ReLU(),
            nn.Conv3d(inner, outer, 1, bias=False), _VolumeNorm(outer),
        )  # fmt: skip
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width != outer:
            self.shortcut = nn.Sequential(
                nn.Conv3d(width, outer, 1, (1, stride, stride), bias=False), _VolumeNorm(outer)
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layers(x) + self.shortcut(x))


class SlowResNet50(nn.Module):
    """The 3-D ResNet-50: (B, D, H, W) -> (B, width)."""

    def __init__(self, n_slices: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv3d(1, 64, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False), _VolumeNorm(64), nn.ReLU(),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        ]  # fmt: skip
        before = 64
        for number, (inner, outer, n_blocks, slices) in enumerate(_STAGES):
            for block in range(n_blocks):
                stride = 2 if number and not block else 1
                layers.append(_Bottleneck(before, inner, outer, stride, slices))
                before = outer
        self.layers = nn.Sequential(*layers)
        self.mix_slices = _slice_mixer(n_slices)
        self.out = nn.Linear(before, width)

    def feature_map(self, volume: Tensor) -> Tensor:
        """(B, C, D, h, w): the output of the last stage, before the mean over the plane."""
        out: Tensor = self.layers(volume[:, None])
        return out

    def forward(self, volume: Tensor) -> Tensor:
        by_slice = self.feature_map(volume).mean((3, 4))  # (B, C, D)
        out: Tensor = self.out(self.mix_slices(by_slice)[..., 0])
        return out


class VolumeEncoder(nn.Module):
    """One encoder for each phase, or one for all: volumes (B, P, D, H, W) -> vectors (B, P, width).

    A frozen encoder has no gradient and stays in eval mode, so that no running statistic of a batch norm moves. The linear map
    `out` at its end can be trained while the rest is frozen.
    """

    def __init__(self, settings: VolumeEncoderSettings, phases: Sequence[str], n_slices: int) -> None:
        super().__init__()
        self.settings, self.phases, self.n_slices = settings, tuple(phases), n_slices
        self.width, self.frozen = settings.volume_width, False
        self.map_width = settings.volume_widths[-1] if settings.volume_encoder == "small" else _STAGES[-1][1]
        names = ("all",) if settings.volume_shared else self.phases
        self.models = nn.ModuleDict({name: _encoder(settings, n_slices) for name in names})

    def select(self, phases: Sequence[str]) -> VolumeEncoder:
        """Return the encoders of some of the phases, with the same weights."""
        out = VolumeEncoder(self.settings, phases, self.n_slices)
        out.models = nn.ModuleDict({name: self.models[name] for name in out.models})
        return out

    def freeze(self) -> None:
        """Freeze all but the last linear maps."""
        self.frozen = True
        self.requires_grad_(False)
        for model in self.models.values():
            model.out.requires_grad_(True)
        self.train(self.training)

    def freeze_pooling(self) -> None:
        """Freeze the layers behind the feature map, which `tokens` does not use."""
        for model in self.models.values():
            model.mix_slices.requires_grad_(False)
            model.out.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set training mode, except for a frozen encoder."""
        return super().train(mode and not self.frozen)

    def forward(self, volume: Tensor, present: Tensor) -> Tensor:
        """(B, P, width); 0 where a phase is not `present` (B, P). Absent volumes are not encoded.

        Raises:
            ValueError: a volume of another number of phases or slices.
        """
        return self._by_phase(volume, present, lambda model, images: model(images))

    def tokens(self, volume: Tensor, present: Tensor) -> Tensor:
        """(B, P, N, map_width): the feature map of each phase before pooling, N positions of slices and plane.

        Absent volumes are 0, and errors are those of `forward`.
        """
        return self._by_phase(
            volume, present, lambda model, images: model.feature_map(images).flatten(2).transpose(1, 2)
        )

    @torch.no_grad()
    def n_places(self, volume: Volume) -> int:
        """Return N of `tokens` for such volumes, measured on a blank one, which changes no running statistic of a batch norm."""
        model: Any = next(iter(self.models.values()))
        was_training = model.training
        model.eval()
        blank = torch.zeros(1, *volume.shape[1:])
        n: int = model.feature_map(blank).flatten(2).shape[-1]
        model.train(was_training)
        return n

    def _by_phase(self, volume: Tensor, present: Tensor, encode: Callable[[Any, Tensor], Tensor]) -> Tensor:
        """`encode` of the volumes of each phase by its encoder, (B, P, ...); 0 where a phase is not present."""
        if volume.shape[1:3] != (len(self.phases), self.n_slices):
            raise ValueError(
                f"volumes have {volume.shape[1]} phases of {volume.shape[2]} slices, and the encoder reads "
                f"{len(self.phases)} ({', '.join(self.phases)}) of {self.n_slices}"
            )
        vectors = []
        for number, phase in enumerate(self.phases):
            model = self.models["all" if self.settings.volume_shared else phase]
            rows = present[:, number].nonzero()[:, 0]
            if len(rows) == len(volume):
                vectors.append(encode(model, volume[:, number]))
                continue
            # of a phase that no record has, one empty volume is encoded with weight 0: each weight takes part in each step
            encoded = encode(model, volume[rows if len(rows) else slice(0, 1), number])
            full = encoded.new_zeros(len(volume), *encoded.shape[1:])
            vectors.append(full.index_add(0, rows, encoded) if len(rows) else full + 0.0 * encoded.sum())
        return torch.stack(vectors, dim=1)


def volume_view(volume: Tensor, settings: VolumeEncoderSettings) -> Tensor:
    """A random view of volumes (B, P, D, H, W), with one draw for all phases of a record, so that both show the same heart.

    The mirror image exchanges left and right ventricle, which is why it is off by default.
    """
    if settings.volume_flip:
        mirrored = torch.rand(len(volume), 1, 1, 1, 1, device=volume.device) < 0.5
        volume = torch.where(mirrored, volume.flip(-1), volume)
    if settings.volume_noise:
        level = settings.volume_noise * torch.rand(len(volume), 1, 1, 1, 1, device=volume.device)
        volume = volume + level * torch.randn_like(volume)
    return volume


def volumes_of(batch: Batch, phases: Sequence[str], chosen: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The volumes (B, P, D, H, W) of the `chosen` phases and which are present (B, P), of a batch that has `phases`.

    Raises:
        ValueError: the batch has no volumes, or another number of phases.
    """
    if batch.volume is None or batch.has_volume is None:
        raise ValueError("the batch has no images of the heart: read Recordings with volume=...")
    if batch.volume.shape[1] != len(phases):
        raise ValueError(f"the batch has images of {batch.volume.shape[1]} phases, and the method reads {len(phases)}")
    if tuple(phases) == tuple(chosen):
        return batch.volume, batch.has_volume
    numbers = [tuple(phases).index(phase) for phase in chosen]
    return batch.volume[:, numbers], batch.has_volume[:, numbers]


def phases_of_part(part: str, phases: Sequence[str], present: Tensor, record: Sequence[str]) -> list[int]:
    """Return the numbers of the phases that a part of `embed_volume` is of: one phase, or all for "both" and "shared".

    present: (B, P) bool; record: B names.

    Raises:
        ValueError: an unknown part, or a record without any image of it.
    """
    part = "both" if part == "shared" else part
    check_part(part, (*phases, "both"))
    chosen = list(range(len(phases))) if part == "both" else [tuple(phases).index(part)]
    absent = (~present[:, chosen].any(1)).nonzero()[:, 0].tolist()
    if absent:
        raise ValueError(
            f"record {record[absent[0]]}: it has no image of {' or '.join(phases[i] for i in chosen)}; leave the recording out"
        )
    return chosen


def frozen_encoder(branch: tuple[Volume, nn.Module], volume: Volume, phases: Sequence[str]) -> VolumeEncoder:
    """Return the encoders of another run for some phases, frozen except for their last linear maps.

    Args:
        branch: the images that the other run reads, and its encoders.
        volume: the images of this run.
        phases: the phases of this run that are encoded.

    Raises:
        ValueError: the other run reads other images.
    """
    theirs, encoder = branch
    assert isinstance(encoder, VolumeEncoder)
    missing = [phase for phase in phases if phase not in theirs.phases]
    if missing:
        raise ValueError(
            f"data.init_volume has images of {', '.join(theirs.phases)}, and not of {', '.join(missing)}; set "
            f"volume.phases={list(theirs.phases)}"
        )
    if replace(volume, phases=theirs.phases) != theirs:
        raise ValueError(
            f"data.init_volume has images of shape {theirs.shape[1:]}, spacing {theirs.spacing_mm} mm, normalize = "
            f"'{theirs.normalize}', and this config others; set the table [method.volume] to them"
        )
    encoder = encoder.select(phases)
    encoder.freeze()
    return encoder


def _encoder(settings: VolumeEncoderSettings, n_slices: int) -> SliceEncoder | SlowResNet50:
    if settings.volume_encoder == "resnet50":
        return SlowResNet50(n_slices, settings.volume_width)
    return SliceEncoder(n_slices, settings.volume_widths, settings.volume_width)


def _slice_mixer(n_slices: int) -> nn.Linear:
    """A linear map of the slices to one value, which starts as their mean."""
    mixer = nn.Linear(n_slices, 1)
    nn.init.constant_(mixer.weight, 1 / n_slices)
    nn.init.zeros_(mixer.bias)
    return mixer
