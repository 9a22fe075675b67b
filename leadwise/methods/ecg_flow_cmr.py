"""ECGFlowCMR: heart images or phenotypes generated from an ECG, by a rectified flow that starts at their mean.
arXiv 2601.20904 (KDD 2026).

    L = L_flow + w_image L_image + w_kl L_kl

    z_1       the target in standardised units: phenotypes, or the latent vector of the images of all phases
    z_0       alpha e, e ~ N(0, 1): the mean template of the training targets, which is 0 in standardised units, plus noise
    L_flow    |v(x_t, t, ECG) - (z_1 - z_0)|^2, x_t = (1 - t) z_0 + t z_1, t uniform in [0, 1]; without the ECG in a share `drop`
    L_image   squared error of the reconstructed images, and L_kl = KL of the latents to N(0, 1), of their autoencoder
    draw      x at t = 1 of dx/dt = v_0 + guidance (v - v_0), v_0 without ECG, in `n_steps` midpoint steps from alpha_draw e

- target = "volume": images of the phases in `volume`. target = "phenotype": the vector of `phenotypes`.
- `method.draw` returns draws given ECGs. `leadwise.evaluate.flow_scores` judges them beside draws of another person's ECG.
- `data.init` names the run of the ECG encoder, of any method, trained further or frozen (`ecg_frozen`). The paper's first
  stage is a masked method with the phase of the heartbeat as a further target, such as st_mem with w_phase.
- `embed_ecg` returns the vector of the ECG encoder, on which the flow depends.

The equations, alpha (training 0.8, draws 0.6; best in the paper's table 1.0), drop, guidance and steps are the paper's. This
implementation departs from it as follows (in brackets: the setting that restores them):
- Images are two volumes, not a cine of 50 frames. Their autoencoder has one latent vector and no perceptual and adversarial
  losses, and is trained in the same run: the flow follows its latents, whose running mean is the template. A Transformer over
  4 x 50 x 12 x 12 latents does not learn on two cores in minutes; a vector does.
- The velocity is a residual network of vectors, on one vector of the ECG; the paper's is a Transformer with attention to 50
  tokens.
- `times` draws of (t, e) for each ECG and step: the encoder costs more than the velocity [times = 1].
- An unknown phenotype is left out of the loss, an absent phase of L_image, and a record without a phase of L_flow.

Two cautions. Draws are those of the posterior only with alpha_draw = alpha and guidance = 1 (SMALL): with the paper's values
their spread is too small, and guidance moves them away from the mean. A start from the mean gives good images without any use
of the ECG.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from leadwise import distributed
from leadwise.batch import Batch, Signal, Volume
from leadwise.config import check_ranges
from leadwise.methods.contract import MethodConfig, PretrainingMethod, nonzero_weights
from leadwise.methods.wrapped_encoder import WrappedEncoder
from leadwise.nn import flow, phenotypes
from leadwise.nn.encoder import EcgEncoder, EncoderSettings, check_part
from leadwise.nn.losses import anchors
from leadwise.nn.velocity import VectorVelocity
from leadwise.nn.views import UnchangedViewSettings, View, Views
from leadwise.nn.volume_encoder import volumes_of
from leadwise.nn.volume_vae import VolumeVae, draw_latent, kl_to_standard_normal

_RATE = 0.05  # of the running mean and variance of the latents
_DRAWS_AT_ONCE = 1024  # rows of the velocity


@dataclass(frozen=True)
class Config(EncoderSettings, UnchangedViewSettings, MethodConfig):
    target: Literal["volume", "phenotype"] = "volume"
    volume: Volume = field(default_factory=Volume)  # the images of target = "volume"
    phenotypes: tuple[str, ...] = ()  # of target = "phenotype"
    ecg_frozen: bool = False  # with data.init
    # the flow
    flow_width: int = 512
    flow_depth: int = 8
    alpha: float = 0.8  # noise of the start in training, in standard deviations of the targets
    alpha_draw: float = 0.6  # the same for draws
    drop: float = 0.1  # share of training targets without ECG
    guidance: float = 2.0  # of draws; 1: the ECG's own velocity, 0: without ECG
    n_steps: int = 10  # of draws
    times: int = 1  # draws of time and noise for each ECG and step
    # the autoencoder of images
    image_widths: tuple[int, ...] = (32, 64, 64)  # channels, each of which halves the plane
    latent: int = 64  # width of its vector
    w_image: float = 1.0
    w_kl: float = 1e-6

    def __post_init__(self) -> None:
        UnchangedViewSettings.__post_init__(self)
        check_ranges(self, flow_width=">= 1", flow_depth=">= 1", alpha="> 0", alpha_draw=">= 0", drop="[0, 1)")
        check_ranges(self, guidance=">= 0", n_steps=">= 1", times=">= 1", latent=">= 1", w_image="> 0", w_kl="> 0")
        if self.target == "phenotype" and not self.phenotypes:
            raise ValueError('target = "phenotype" needs phenotypes: set phenotypes, such as ["lvedv", "lvef"]')
        if self.target == "volume" and self.phenotypes:
            raise ValueError('target = "volume" reads no phenotypes: set target="phenotype", or phenotypes=[]')

    @property
    def uses_volumes(self) -> bool:
        """Whether images are read."""
        return self.target == "volume"

    @property
    def whole_batch(self) -> str:
        """The setting that forbids gradient accumulation, because latents are standardised over the batch, or ''."""
        return "method.target = 'volume'" if self.target == "volume" else super().whole_batch


NEEDS = "heart images or phenotypes: a cohort of `leadwise prepare ecg_cmr`"
# Settings for two CPU cores and the simulated pairs.
SMALL = {
    "encoder": "resnet", "resnet_width": 16, "view_crop": 0.4, "view_noise_mv": 0.02, "flow_width": 128, "flow_depth": 3,
    "alpha_draw": 0.8, "guidance": 1.0, "times": 8, "latent": 32,
}  # fmt: skip
SMALL_OPTIM = {"batch_size": 32, "lr": 1e-3, "weight_decay": 0.02}
# The smallest settings, for the contract tests.
_TINY = {"resnet_width": 8, "flow_width": 32, "flow_depth": 2, "times": 8, "n_steps": 4}
_VOLUME = Volume(slices=3, rows=12, columns=10)
TINY = {
    "": {**_TINY, "volume": _VOLUME, "image_widths": (4, 8), "latent": 6},
    "phenotype": {**_TINY, "target": "phenotype", "phenotypes": ("lvedv", "lvesv"), "view_crop": 0.5},
}  # fmt: skip


class Method(PretrainingMethod):
    config: Config
    reads_volumes = True
    reads_phenotypes = True
    starts_from = ("init",)
    compares_records = True
    draws_targets = True
    target_mean: Tensor
    target_deviation: Tensor
    n_updates: Tensor

    def __init__(
        self,
        config: Config,
        signal: Signal,
        tokenizer: object = None,
        saved_folder: Path | None = None,
        start: Mapping[str, PretrainingMethod] | None = None,
    ) -> None:
        """`start` holds the method of the run in data.init.

        Raises:
            ValueError: it has no ECG encoder, or there is none and `ecg_frozen` is set.
        """
        super().__init__(config, signal)
        c, init = config, (start or {}).get("init")
        is_volume = c.target == "volume"
        self.weights = (
            nonzero_weights(L_flow=1.0, L_image=c.w_image, L_kl=c.w_kl) if is_volume else nonzero_weights(L_flow=1.0)
        )

        # the ECG encoder: one of ours, or the method of another run
        if init is None:
            if c.ecg_frozen:
                raise ValueError("ecg_frozen = True needs an init run: set data.init, or ecg_frozen=False")
            self.ecg: EcgEncoder | WrappedEncoder = EcgEncoder(c, signal)
            width = self.ecg.width
        elif not init.embeds_ecg:
            raise ValueError("data.init is a run without an ECG encoder; choose another run")
        else:
            self.ecg = WrappedEncoder(init, ("backbone",), c.ecg_frozen)
            width = self.ecg.widths[0]
        self.view = Views(c, signal, self.ecg.grid)

        # the target's space, and the flow in it
        n_target = c.latent if is_volume else len(c.phenotypes)
        if is_volume:
            self.images = VolumeVae(c.volume.shape, c.image_widths, c.latent)
        self.velocity = VectorVelocity(n_target, width, c.flow_width, c.flow_depth)
        self.register_buffer("target_mean", torch.zeros(n_target))
        self.register_buffer("target_deviation", torch.ones(n_target))
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def take_phenotypes(self, table: Tensor) -> None:
        """Store the mean and the standard deviation of the training recordings' phenotypes (n, Q), NaN where unknown."""
        if self.config.target == "volume":
            return
        mean, deviation = phenotypes.mean_and_deviation(table)
        self._set_moments(mean, deviation.square(), 1.0)

    # --- the loss

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The term L_kl, and each record's own errors with whether it has any: means over the records that have one need the
        whole batch."""
        terms: dict[str, Tensor] = {}
        features: dict[str, Tensor] = {}
        if self.config.target == "volume":
            z1, known, features["image"], features["has_image"], divergence = self._latents(batch)
            terms["L_kl"] = self.weights["L_kl"] * divergence.mean()
        else:
            z1, known = self._phenotypes(batch)
        features["flow"] = self._flow_errors(z1, known, self._ecg_vectors(batch))
        features["has_flow"] = known.any(1).long()
        return terms, features

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted L_flow and L_image over the records of the whole batch, including other processes', that have a target."""
        every = distributed.gather_features(features)
        rows = distributed.local_rows(len(every["flow"]))
        return {
            name: self.weights[name] * anchors.mean_over_present(every[key], every[f"has_{key}"].bool(), rows)
            for name, key in (("L_flow", "flow"), ("L_image", "image"))
            if key in every
        }

    def _latents(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Of the images of a batch: standardised latents (B, Z) and where they are of all phases (B, Z); and of the autoencoder
        the squared error (B,) over the phases that a record has, whether it has any (B,), and the KL (B,)."""
        phases = self.config.volume.phases
        volume, present = volumes_of(batch, phases, phases)
        mean, log_variance = self.images.encode(volume)
        latent = draw_latent(mean, log_variance) if self.training else mean
        error = (self.images.decode(latent).float() - volume).square().mean((2, 3, 4)) * present  # (B, P)
        divergence = kl_to_standard_normal(mean.float(), log_variance.float())

        # the flow's target has no gradient: the autoencoder is trained by its own terms
        complete, latent = present.all(1), latent.detach().float()
        mean, deviation = self._follow(latent, complete) if self.training else (self.target_mean, self.target_deviation)
        z1 = (latent - mean) / deviation
        known = complete[:, None].expand(z1.shape)
        return z1, known, error.sum(1) / present.sum(1).clamp(min=1), present.any(1).long(), divergence

    def _phenotypes(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The standardised phenotypes (B, Q) of a batch, 0 where unknown, and which are known."""
        standard = phenotypes.standardised(batch, self.config.phenotypes, self.target_mean, self.target_deviation)
        return standard.nan_to_num(0.0), standard.isfinite()

    def _flow_errors(self, z1: Tensor, known: Tensor, vector: Tensor, drop: float | None = None) -> Tensor:
        """Each record's mean squared error (B,) of the velocity, over the known entries (B, Z) and `times` draws; 0 without."""
        c, n = self.config, len(z1)
        z1, known, vector = (x.repeat(c.times, *(1,) * (x.dim() - 1)) for x in (z1, known, vector))
        z0, t = c.alpha * torch.randn_like(z1), torch.rand(len(z1), device=z1.device)
        retained = torch.rand(len(z1), device=z1.device) >= (c.drop if drop is None else drop)
        # an unknown entry remains at its start
        x, velocity = flow.interpolate(z0, torch.where(known, z1, z0), t)
        error = (self._velocity(x, t, vector, retained) - velocity).square() * known
        each: Tensor = error.sum(1) / known.sum(1).clamp(min=1)
        return each.reshape(c.times, n).mean(0)

    @torch.no_grad()
    def _follow(self, latent: Tensor, complete: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation (Z,) of the latents (B, Z) of complete records of all processes, and update the running ones.

        Training uses those of the batch, as a batch norm does: the running ones are behind while the autoencoder learns.
        """
        one = complete.to(latent.dtype)[:, None]
        sums = torch.stack([one.expand(latent.shape).sum(0), (one * latent).sum(0), (one * latent.square()).sum(0)])
        n, total, squares = distributed.gather(sums[None]).sum(0)
        if n[0] < 2:
            return self.target_mean, self.target_deviation
        mean = total / n
        variance = (squares / n - mean.square()).clamp(min=0)
        self._set_moments(mean, variance, max(_RATE, 1 / (1 + int(self.n_updates))))
        self.n_updates += 1
        return mean, _deviation(variance)

    def _set_moments(self, mean: Tensor, variance: Tensor, rate: float) -> None:
        """Move the mean and the deviation of the targets (Z,) towards these; a variance of 0 counts as 1."""
        self.target_mean.lerp_(mean.to(self.target_mean), rate)
        self.target_deviation.lerp_(_deviation(variance).to(self.target_deviation), rate)

    # --- embeddings and draws

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) vectors of the ECG encoder, of whole ECGs.

        Raises:
            ValueError: an unknown part, or a record without an observed sample.
        """
        check_part(part, self.parts)
        return self._ecg_vectors(batch, whole=True)

    @torch.no_grad()
    def draw(
        self,
        batch: Batch,
        n_draws: int = 1,
        generator: torch.Generator | None = None,
        guidance: float | None = None,
        alpha: float | None = None,
    ) -> Tensor:
        """Return draws of the target given the ECGs of a batch: phenotypes (n, B, Q) in raw units, or images (n, B, P, D, H, W).

        Args:
            generator: of the noise, on the CPU.
            guidance: 0 draws without the ECG; default: the setting.
            alpha: noise of the start; 0: the mean template itself; default: the setting `alpha_draw`.
        """
        c = self.config
        weight, scale = c.guidance if guidance is None else guidance, c.alpha_draw if alpha is None else alpha
        vector = self._ecg_vectors(batch, whole=True)
        noise = torch.randn(n_draws, len(batch), len(self.target_mean), generator=generator).to(vector.device)
        starts, conditions = (scale * noise).flatten(0, 1), vector.repeat(n_draws, 1)
        drawn = torch.cat(
            [
                self._target(flow.sample(self._guided(condition, weight), z0, c.n_steps))
                for z0, condition in zip(torch.split(starts, _DRAWS_AT_ONCE), torch.split(conditions, _DRAWS_AT_ONCE))
            ]
        )
        return drawn.reshape(n_draws, len(batch), *drawn.shape[1:])

    @torch.no_grad()
    def rebuild_volume(self, batch: Batch) -> Tensor:
        """Return the images (B, P, D, H, W) of a batch through the autoencoder: the best that draws can be.

        Raises:
            ValueError: the target is not images.
        """
        if self.config.target != "volume":
            raise ValueError('this run draws phenotypes; train one with target = "volume"')
        phases = self.config.volume.phases
        volume, _ = volumes_of(batch, phases, phases)
        return self.images.decode(self.images.encode(volume)[0])

    def _guided(self, condition: Tensor, weight: float) -> flow.Velocity:
        """The velocity without the condition (B, D), moved by `weight` towards that with it."""
        with_ecg = torch.ones(len(condition), dtype=torch.bool, device=condition.device)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            if weight == 1:
                return self._velocity(x, t, condition, with_ecg)
            without = self._velocity(x, t, condition, ~with_ecg)
            return without + weight * (self._velocity(x, t, condition, with_ecg) - without) if weight else without

        return velocity

    def _velocity(self, x: Tensor, t: Tensor, vector: Tensor, retained: Tensor) -> Tensor:
        out: Tensor = self.velocity(x, t, vector, retained)
        return out.float()

    def _target(self, z: Tensor) -> Tensor:
        """Standardised targets (B, Z) -> phenotypes (B, Q) in raw units, or images (B, P, D, H, W)."""
        raw = z * self.target_deviation + self.target_mean
        return raw if self.config.target == "phenotype" else self.images.decode(raw)

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """Of a held-out batch: the flow's loss with and without the ECG, for the same times and noise; the image error."""
        out = {}
        if self.config.target == "volume":
            z1, known, error, has_image, _ = self._latents(batch)
            out["image_error"] = float(error.sum() / has_image.sum().clamp(min=1))
        else:
            z1, known = self._phenotypes(batch)
        vector, n_known = self._ecg_vectors(batch, whole=True), known.any(1).sum().clamp(min=1)
        for name, drop in (("flow_with_ecg", 0.0), ("flow_without_ecg", 1.0)):
            with torch.random.fork_rng([z1.device] if z1.is_cuda else []):
                torch.manual_seed(0)
                out[name] = float(self._flow_errors(z1, known, vector, drop).sum() / n_known)
        return out

    def _ecg_vectors(self, batch: Batch, whole: bool = False) -> Tensor:
        """The ECGs' vectors (B, D): of a random view in training, unless `whole`."""
        is_view = self.training and not whole
        view = self.view(batch) if is_view else View(batch, torch.zeros(len(batch), device=batch.ecg.device).long())
        if isinstance(self.ecg, WrappedEncoder):
            vector: Tensor = self.ecg(view)[0]
        else:
            vector = self.ecg(view.batch, view.start if is_view else None)
        return vector


def _deviation(variance: Tensor) -> Tensor:
    """The standard deviation; a variance of 0 counts as 1."""
    return torch.where(variance > 0, variance, 1.0).sqrt()
