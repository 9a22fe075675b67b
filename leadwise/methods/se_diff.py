"""SE-Diff: simulator- and experience-enhanced diffusion of ECGs from text, age, sex and heart rate.
arXiv 2511.09895 (ICLR 2026).

    stage = "vae"        L = L_rec + w_kl L_kl + w_beat L_beat + w_spectral L_spectral
    stage = "diffusion"  L = L_eps (or L_flow) + w_ode L_ode + w_interlead L_interlead, in the latents of a trained autoencoder
    stage = "both"       the sum, in one run; the latents are detached

    L_rec        squared error of the decoded ECG over observed samples, mV^2
    L_kl         KL of the latent Gaussian to N(0, 1)
    L_beat       squared error of the record's mean beat, -0.2 s to 0.4 s around R, from the latents by a decoder of its own
    L_spectral   squared error of the spectra's magnitudes
    L_eps        squared error of the noise (DDPM)             L_flow    squared error of the velocity (rectified flow)
    L_ode        departure of the beat of the denoised latents from the differential equation of a heartbeat (nn.losses.beat_ode)
    L_interlead  squared violation of the limb-lead law by that beat [generated = "twelve"]

- Leads I, II and V1 to V6 are generated, and III, aVR, aVL, aVF follow from them, so that the limb-lead law holds exactly.
- `data.init` of stage "diffusion" is a run of stage "vae". `data.init_text` is any run with a text encoder: it is used frozen.
  Without it the text encoder is that of the settings, which is trained here unless it is a pre-trained one.
- Age and sex are those of the cohort, where it has them. The heart rate is measured: R peaks of the recording. Each condition is
  left out at random, so that it may be unknown, and all together for guidance.
- L_ode and L_interlead weigh each record by the share of signal a_t of its step, and only steps with a_t >= low_noise count.

This implementation departs from the paper and its code as follows (in brackets: the setting that restores them):
- The released code computes L_ode and L_interlead without gradient, with weights of 0 and 3e-7. Here they have one.
- It generates all twelve leads, and its limb-lead law has wrong signs [generated = "twelve"; with the right signs].
- The beat is the mean over the record's beats; the code's is around its second R peak.
- The equation's waves are at angles and widths that the report's findings and the heart rate imply (nn.beat_waves), as in the
  paper; their amplitudes are fitted to the record's own beat, lead by lead, instead of a table for each class.
- The beat decoder pools over time, because the mean beat has no place in it.
- The text is the report by a local encoder, instead of a paid service's embedding of a report that a language model wrote
  ("experience").
- objective = "flow" is rectified flow, which needs fewer steps of sampling. SMALL has it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from leadwise.batch import SEXES, Batch, Signal, to_device
from leadwise.config import check_ranges
from leadwise.methods.contract import Conditions, MethodConfig, PretrainingMethod, nonzero_weights
from leadwise.nn import diffusion, ecg_vae, flow, phase
from leadwise.nn.beat_waves import waves_of
from leadwise.nn.condition_tokens import ConditionTokens
from leadwise.nn.ecg_latents import BEFORE_S, EcgLatents, beat_samples, mean_beat
from leadwise.nn.eight_leads import EIGHT, from_eight, limb_residual
from leadwise.nn.encoder import check_part
from leadwise.nn.losses import beat_ode
from leadwise.nn.normalize import normalize
from leadwise.nn.observed import observed_records
from leadwise.nn.report_tower import BLOCKS, ReportTower, TextSettings, WithReports
from leadwise.nn.text import Tokenizer
from leadwise.nn.unet1d import UNet1d
from leadwise.nn.views import report_view

_SPANS = (120.0, 1.0, 300.0)  # years, sex, bpm: the numbers are divided by them
_AT_ONCE = 64  # ECGs that are generated together
Conditioning = tuple[Tensor, Tensor, Tensor]  # tokens, which of them are read, vector


@dataclass(frozen=True)
class Config(TextSettings, MethodConfig):
    stage: Literal["vae", "diffusion", "both"] = "both"
    generated: Literal["eight", "twelve"] = "eight"  # leads that are generated; the others of the signal are derived
    text_pooling: Literal["cls", "mean", "pooler"] = "mean"
    statement_dropout: float = 0.0  # probability that a statement is left out of a report
    rewording: float = 0.0  # probability that a statement is replaced by another wording of its finding
    # the autoencoder; stage "diffusion" takes these settings from data.init
    vae_widths: tuple[int, ...] = (128, 256, 512, 512)  # channels, finest first; time is halved between two
    latent: int = 4  # channels of the latents
    beat_width: int = 64  # channels of the beat decoder
    w_kl: float = 1e-4
    w_beat: float = 1.0
    w_spectral: float = 0.1
    # the generator
    objective: Literal["ddpm", "flow"] = "ddpm"
    diffusion_steps: int = 1000  # of ddpm
    beta_start: float = 0.00085
    beta_end: float = 0.012
    unet_widths: tuple[int, ...] = (64, 128, 256, 256)  # channels, finest first; time is halved between two
    unet_kernel: int = 7
    unet_heads: int = 4
    token_width: int = 256  # of the conditions
    condition_drop: float = 0.1  # probability that a condition is left out, and that all are
    low_noise: float = 0.5  # least a_t of steps that L_ode and L_interlead count
    w_ode: float = 0.1
    w_interlead: float = 1.0  # of generated = "twelve"
    # sampling; may be changed after training
    sampling_steps: int = 100  # of ddpm by DDIM; flow takes half as many midpoint steps
    guidance: float = 1.0  # 1: none; above, conditions weigh more than in the data

    def __post_init__(self) -> None:
        check_ranges(self, statement_dropout="[0, 1]", rewording="[0, 1]", condition_drop="[0, 1)", low_noise="(0, 1)")
        check_ranges(self, w_kl=">= 0", w_beat="> 0", w_spectral=">= 0", w_ode=">= 0", w_interlead=">= 0")
        check_ranges(self, diffusion_steps=">= 2", beta_start="(0, 1)", beta_end="(0, 1)", sampling_steps=">= 2")
        check_ranges(self, latent=">= 1", beat_width=">= 4", token_width=">= 4", guidance=">= 0", unet_kernel=">= 3")
        if self.unet_kernel % 2 == 0:
            raise ValueError(f"unet_kernel = {self.unet_kernel}: must be odd")


NEEDS = 'stage "diffusion": data.init, a run of stage "vae"'
SIGNAL = Signal(rate_hz=100, duration_s=10.0)  # the paper's has 102.4 Hz
# Settings for two CPU cores.
SMALL = {
    "vae_widths": (16, 32, 48, 64), "beat_width": 32, "text_width": 128, "text_depth": 2, "text_heads": 4,
    "vocab_size": 1200, "max_tokens": 64, "statement_dropout": 0.2, "objective": "flow", "unet_widths": (48, 96, 128),
    "unet_kernel": 5, "token_width": 96, "guidance": 2.0,
}  # fmt: skip
SMALL_OPTIM = {"batch_size": 32, "lr": 1e-3}
# The smallest settings, for the contract tests.
_TINY = {
    "vae_widths": (4, 8), "latent": 2, "beat_width": 8, "text_width": 32, "text_depth": 1, "text_heads": 2, "vocab_size": 400,
    "max_tokens": 48, "unet_widths": (8, 16), "unet_kernel": 3, "unet_heads": 2, "token_width": 16, "sampling_steps": 4,
}  # fmt: skip
TINY = {
    "": _TINY,
    "vae": {**_TINY, "stage": "vae"},
    "twelve": {**_TINY, "generated": "twelve", "objective": "flow", "guidance": 1.5},
}


class Method(PretrainingMethod):
    config: Config
    reads_reports = True
    reads_person = True
    generates_ecgs = True
    starts_from = ("init", "init_text")
    places: Tensor
    shares: Tensor
    to_signal: Tensor

    def __init__(
        self,
        config: Config,
        signal: Signal,
        tokenizer: Tokenizer,
        saved_folder: Path | None = None,
        start: Mapping[str, PretrainingMethod] | None = None,
    ) -> None:
        """`saved_folder`: where `save_extra` wrote. `start`: the methods of the runs in data.init and data.init_text.

        Raises:
            ValueError: settings, a signal or runs that do not fit.
        """
        super().__init__(config, signal, tokenizer)
        c, start = config, start or {}
        self.leads = EIGHT if c.generated == "eight" else signal.leads
        self._check_signal()
        self.generates_ecgs = c.stage != "vae"
        places = [signal.leads.index(lead) for lead in self.leads]
        self.register_buffer("places", torch.tensor(places), persistent=False)
        matrix = from_eight(signal.leads) if c.generated == "eight" else torch.eye(len(signal.leads))
        self.register_buffer("to_signal", matrix, persistent=False)  # (L, generated leads)
        w_vae = {"L_rec": 1.0, "L_kl": c.w_kl, "L_beat": c.w_beat, "L_spectral": c.w_spectral}
        w_generator = {"L_eps" if c.objective == "ddpm" else "L_flow": 1.0, "L_ode": c.w_ode}
        w_generator |= {"L_interlead": c.w_interlead} if c.generated == "twelve" else {}
        self.weights = nonzero_weights(
            **(w_vae if c.stage != "diffusion" else {}), **(w_generator if self.generates_ecgs else {})
        )

        # the autoencoder: a new one, or that of data.init, which is not trained further
        if c.stage == "diffusion":
            self.latents = self._latents_of(start.get("init"))
        elif "init" in start:
            raise ValueError(f'data.init is set, but stage = "{c.stage}" trains its own autoencoder; leave it empty')
        else:
            self.latents = EcgLatents(len(self.leads), signal.rate_hz, c.vae_widths, c.latent, c.beat_width)

        # the text encoder and the generator
        if not self.generates_ecgs:
            if "init_text" in start:
                raise ValueError('data.init_text is set, but stage = "vae" reads no text; leave it empty')
            return
        self.text_is_frozen = "init_text" in start or c.text_is_frozen
        self.text = (
            self._tower_of(start["init_text"]) if "init_text" in start else ReportTower(c, tokenizer, saved_folder)
        )
        vector_width = 4 * c.unet_widths[0]
        self.conditions = ConditionTokens(self.text.width, len(_SPANS), c.token_width, vector_width)
        self.time = nn.Sequential(
            nn.Linear(vector_width, vector_width), nn.SiLU(), nn.Linear(vector_width, vector_width)
        )
        channels = self.latents.vae.latent
        self.unet = UNet1d(channels, c.unet_widths, c.unet_kernel, vector_width, c.token_width, c.unet_heads)
        shares = diffusion.signal_shares(c.diffusion_steps, c.beta_start, c.beta_end)
        self.register_buffer("shares", shares, persistent=False)

    def _check_signal(self) -> None:
        """Raise ValueError for a signal that cannot be generated in mV."""
        missing = [lead for lead in EIGHT if lead not in self.signal.leads]
        if missing or (self.config.generated == "twelve" and len(self.signal.leads) < 12):
            needed = "all twelve" if self.config.generated == "twelve" else ", ".join(EIGHT)
            raise ValueError(f"signal.leads = {list(self.signal.leads)}: this method generates {needed}; add them")
        if self.signal.normalize != "mv":
            raise ValueError(f'signal.normalize = "{self.signal.normalize}": generated ECGs are in mV; set it to "mv"')

    def _latents_of(self, init: PretrainingMethod | None) -> EcgLatents:
        """The trained autoencoder of data.init, frozen."""
        if not isinstance(init, Method):
            given = "data.init is empty" if init is None else "data.init is a run of another method"
            raise ValueError(
                f'stage = "diffusion", but {given}; set it to a run of se_diff with stage = "vae", or set stage=both'
            )
        if init.leads != self.leads:
            raise ValueError(f'data.init has generated = "{init.config.generated}"; set generated to it')
        return init.latents.requires_grad_(False)

    @staticmethod
    def _tower_of(init: PretrainingMethod) -> ReportTower:
        """The text encoder of data.init_text, frozen."""
        if not init.embeds_text or not isinstance(init.text_branch[0], ReportTower):
            raise ValueError("data.init_text is a run without a text encoder; choose a run that embeds texts")
        return init.text_branch[0].requires_grad_(False)

    @staticmethod
    def make_tokenizer(config: Config, texts: Iterable[str]) -> Tokenizer:
        """The pre-trained text encoder's tokenizer, or a new one trained on `texts`."""
        return WithReports.make_tokenizer(config, texts)

    @staticmethod
    def load_tokenizer(folder: Path) -> Tokenizer:
        """The tokenizer saved in `folder`."""
        return WithReports.load_tokenizer(folder)

    def save_extra(self, folder: Path) -> None:
        """Write the shape of a pre-trained text encoder of these settings."""
        if self.generates_ecgs:
            self.text.save_extra(folder)

    def train(self, mode: bool = True) -> Self:
        """Set training mode, except for a frozen text encoder."""
        super().train(mode)
        if self.generates_ecgs and self.text_is_frozen:
            self.text.eval()
        return self

    @property
    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters with pre-trained weights: those of the text encoder."""
        return self.text.pretrained_parameters if self.generates_ecgs and not self.text_is_frozen else []

    @property
    def compilable_modules(self) -> list[nn.Module]:
        """Modules that torch.compile may compile: the blocks, which draw no random numbers."""
        return [part for part in self.modules() if isinstance(part, BLOCKS)]

    # --- the loss

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted terms of the loss, by name; each is a mean over the records."""
        ecg, observed = self._generated_leads(batch)
        peaks = phase.r_peaks(batch, self.signal)
        beat, has_beat = mean_beat(ecg, observed, peaks, self.signal.rate_hz)
        terms: dict[str, Tensor] = {}
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.stage != "diffusion"):
            mean, log_variance = self.latents.vae.encode(ecg)
        if self.config.stage != "diffusion":
            terms |= self._vae_terms(ecg, observed, mean, log_variance, beat, has_beat)
            if self.training:
                self.latents.update_scale(mean)
        if self.generates_ecgs:
            rate = phase.heart_rate(peaks, self.signal.rate_hz)
            terms |= self._generator_terms(batch, observed, mean.detach(), rate, beat, has_beat)
        return {name: weight * terms[name] for name, weight in self.weights.items()}

    def _vae_terms(
        self, ecg: Tensor, observed: Tensor, mean: Tensor, log_variance: Tensor, beat: Tensor, has_beat: Tensor
    ) -> dict[str, Tensor]:
        """L_rec, L_kl, L_beat and L_spectral."""
        z = ecg_vae.sample(mean, log_variance) if self.training else mean
        decoded = self.latents.vae.decode(z, ecg.shape[-1]) * observed
        n_observed = observed.sum((1, 2)).clamp(min=1)
        terms = {
            "L_rec": ((decoded - ecg).square().sum((1, 2)) / n_observed).mean(),
            "L_kl": ecg_vae.divergence(mean, log_variance),
            "L_beat": ((self.latents.beat(z) - beat).square().mean((1, 2)) * has_beat).mean(),
        }
        if self.config.w_spectral:
            magnitude = [torch.fft.rfft(x, norm="ortho").abs() for x in (decoded, ecg)]
            terms["L_spectral"] = (magnitude[0] - magnitude[1]).square().mean()
        return terms

    def _generator_terms(
        self, batch: Batch, observed: Tensor, latents: Tensor, rate_bpm: Tensor, beat: Tensor, has_beat: Tensor
    ) -> dict[str, Tensor]:
        """L_eps or L_flow, L_ode and L_interlead, given detached latents (B, C, steps)."""
        # noisy latents, and what the network estimates of them
        c, z = self.config, self.latents.scale(latents)
        conditioning = self._training_conditions(batch, rate_bpm)
        noise = to_device(torch.randn(z.shape), z.device)
        if c.objective == "ddpm":
            step = to_device(torch.randint(c.diffusion_steps, (len(z),)), z.device)
            share = self.shares[step]
            noisy, target = diffusion.add_noise(z, noise, share), noise
            estimate = self._estimate(noisy, step / c.diffusion_steps, conditioning)
            denoised = diffusion.without_noise(noisy, estimate, share)
        else:
            t = to_device(torch.rand(len(z)), z.device)
            noisy, target = flow.interpolate(noise, z, t)
            share = t.square() / (t.square() + (1 - t).square())
            estimate = self._estimate(noisy, t, conditioning)
            denoised = noisy + (1 - t)[:, None, None] * estimate

        # the main term, over the steps whose samples are observed in all leads
        whole = self._whole_steps(observed, z.shape[-1])[:, None]
        error = ((estimate - target).square() * whole).mean(1).sum(-1) / whole.sum((1, 2)).clamp(min=1)
        terms = {"L_eps" if c.objective == "ddpm" else "L_flow": error.mean()}

        # the beat of the denoised latents; its decoder is not trained by these terms
        weight = share * (share >= c.low_noise) * has_beat
        weights = {name: p.detach() for name, p in self.latents.beat.named_parameters()}
        estimated: Tensor = functional_call(self.latents.beat, weights, (self.latents.unscale(denoised),))
        if c.w_ode:
            terms["L_ode"] = (weight * self._ode_departure(estimated, beat, batch.report, rate_bpm)).mean()
        if c.generated == "twelve":
            violation = limb_residual(estimated, self.leads).square().mean((1, 2))
            terms["L_interlead"] = (weight * violation).mean()
        return terms

    def _ode_departure(self, estimated: Tensor, beat: Tensor, reports: Sequence[str], rate_bpm: Tensor) -> Tensor:
        """By how much estimated beats (B, L, N) depart from the equation that is fitted to the records' own beats: (B,)."""
        step_s = 1 / self.signal.rate_hz
        seconds = torch.arange(beat_samples(self.signal.rate_hz), device=beat.device) * step_s - BEFORE_S
        theta = 2 * torch.pi * seconds * (rate_bpm.nan_to_num(60.0) / 60)[:, None]
        dynamics = beat_ode.fit(beat, waves_of(reports, rate_bpm).pulls(theta), step_s)
        return beat_ode.departure(estimated, dynamics, step_s, beat_ode.mean_squared_step(beat))

    def _estimate(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The network's estimate of noise or velocity at times t (B,) in [0, 1]."""
        tokens, is_read, vector = conditioning
        vector = vector + self.time(flow.time_features(t, vector.shape[1]).to(vector))
        out: Tensor = self.unet(noisy, vector, tokens, is_read)
        return out

    # --- conditions

    def _training_conditions(self, batch: Batch, rate_bpm: Tensor) -> Conditioning:
        """The conditions of a batch; in training, of a view of its reports and with some left out."""
        c, b = self.config, len(batch)
        person = torch.full((b, 2), torch.nan, device=rate_bpm.device) if batch.person is None else batch.person
        numbers = torch.cat([person, rate_bpm[:, None]], dim=1)
        if not self.training:
            return self._conditions(list(batch.report), numbers)
        is_kept = (torch.rand(b, 1 + len(_SPANS)) >= c.condition_drop) & (torch.rand(b, 1) >= c.condition_drop)
        views = report_view(batch, c.statement_dropout, c.rewording)
        texts = [text if is_used else "" for text, is_used in zip(views, is_kept[:, 0].tolist())]
        return self._conditions(texts, numbers.masked_fill(~to_device(is_kept[:, 1:], numbers.device), torch.nan))

    def _conditions(self, texts: list[str], numbers: Tensor) -> Conditioning:
        """Texts, "" where unknown, and age, sex and heart rate (B, 3), NaN where unknown, as tokens and a vector."""
        tokens = self.text.tokenize(texts)[0]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.text_is_frozen):
            states, summary = self.text(tokens)
        has_text = to_device(torch.tensor([bool(text.strip()) for text in texts]), states.device)
        out: Conditioning = self.conditions(
            states, tokens.real.to(states.device), summary, has_text, numbers / numbers.new_tensor(_SPANS)
        )
        return out

    # --- generation

    @torch.no_grad()
    def generate(self, texts: Sequence[str], conditions: Sequence[Conditions], seed: int) -> Tensor:
        """ECGs (B, L, T) in mV for texts and conditions; the same seed gives the same ECGs, one by one.

        Raises:
            ValueError: a run of stage "vae", or another number of conditions than of texts.
        """
        if not self.generates_ecgs:
            raise ValueError(
                'this run has stage = "vae" and generates nothing; train a run of stage "diffusion" from it'
            )
        if len(texts) != len(conditions):
            raise ValueError(f"{len(texts)} texts, but {len(conditions)} conditions; give one for each text")
        device = self.to_signal.device
        table = [[one.age_years, _sex_number(one.sex), one.heart_rate_bpm] for one in conditions]
        numbers = torch.tensor([[torch.nan if x is None else x for x in row] for row in table], device=device)
        pieces = []
        for begin in range(0, len(texts), _AT_ONCE):
            some = slice(begin, begin + _AT_ONCE)
            z = torch.stack([self._noise(seed, place) for place in range(begin, begin + len(texts[some]))]).to(device)
            z = self._sample(z, list(texts[some]), numbers[some])
            decoded = self.latents.vae.decode(self.latents.unscale(z), self.signal.n_samples)
            pieces.append(self.to_signal @ decoded)
        return torch.cat(pieces) if pieces else torch.zeros(0, *self.to_signal.shape[:1], self.signal.n_samples)

    def _noise(self, seed: int, place: int) -> Tensor:
        """The noise (C, steps) from which one ECG starts; it does not depend on how many are generated."""
        digest = hashlib.blake2b(f"{seed} {place}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
        vae = self.latents.vae
        return torch.randn(vae.latent, vae.n_steps(self.signal.n_samples), generator=generator)

    def _sample(self, z: Tensor, texts: list[str], numbers: Tensor) -> Tensor:
        """Latents (B, C, steps) from noise, with guidance."""
        c = self.config
        conditioning = self._conditions(texts, numbers)
        free = self._conditions([""] * len(texts), torch.full_like(numbers, torch.nan)) if c.guidance != 1 else None

        def estimate(x: Tensor, t: Tensor) -> Tensor:
            conditional = self._estimate(x, t, conditioning)
            if free is None:
                return conditional
            without = self._estimate(x, t, free)
            return without + c.guidance * (conditional - without)

        if c.objective == "flow":
            return flow.sample(estimate, z, max(1, c.sampling_steps // 2))
        return diffusion.ddim(lambda x, t: estimate(x, t / c.diffusion_steps), z, self.shares, c.sampling_steps)

    # --- embeddings

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of ECGs: the mean of the autoencoder's features over the steps with an observed sample.

        Raises:
            ValueError: an unknown part, or a record without an observed sample.
        """
        check_part(part, self.parts)
        is_observed = observed_records(batch)
        if not torch.compiler.is_exporting() and not bool(is_observed.all()):
            name = batch.record[int((~is_observed).float().argmax())]
            raise ValueError(f"record {name} has no observed sample, so it cannot be embedded; leave it out")
        ecg, _ = self._generated_leads(batch)
        features: Tensor = self.latents.vae.encoder(_padded(ecg, self.latents.vae.stride))
        observed = _padded(batch.observed.any(1, keepdim=True).float(), self.latents.vae.stride)
        real = torch.nn.functional.max_pool1d(observed, self.latents.vae.stride)  # (B, 1, steps)
        return (features * real).sum(-1) / real.sum(-1).clamp(min=1)

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """Of a held-out batch: the correlation of decoded with true samples, and the same for the mean beat."""
        ecg, observed = self._generated_leads(batch)
        mean, _ = self.latents.vae.encode(ecg)
        decoded = self.latents.vae.decode(mean, ecg.shape[-1])
        peaks = phase.r_peaks(batch, self.signal)
        beat, has_beat = mean_beat(ecg, observed, peaks, self.signal.rate_hz)
        return {
            "decoded_r": _correlation(decoded[observed], ecg[observed]),
            "beat_r": _correlation(self.latents.beat(mean)[has_beat].flatten(), beat[has_beat].flatten()),
        }

    # --- parts

    def _generated_leads(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The leads that are generated, in mV with median 0, and which samples of them are observed: (B, leads, T)."""
        observed = batch.observed[:, self.places]
        return normalize(batch.ecg[:, self.places], observed, self.signal.normalize), observed

    def _whole_steps(self, observed: Tensor, n_steps: int) -> Tensor:
        """(B, steps) bool: the latent steps whose samples are observed in all generated leads."""
        padded = _padded((~observed.all(1, keepdim=True)).float(), self.latents.vae.stride)
        return torch.nn.functional.max_pool1d(padded, self.latents.vae.stride)[:, 0, :n_steps] == 0


def _padded(x: Tensor, stride: int) -> Tensor:
    """`x` (B, C, T) with its last sample repeated until T is a multiple of the stride."""
    missing = -x.shape[-1] % stride
    return torch.nn.functional.pad(x, (0, missing), mode="replicate") if missing else x


def _sex_number(sex: str | None) -> float | None:
    return None if sex is None else float(SEXES.index(sex))


def _correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's r of two vectors; 0 if one of them is constant or empty."""
    if not len(a):
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-12))
