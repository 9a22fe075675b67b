"""WearECG: twelve leads from the few of a wearable device, by a variational autoencoder in one dimension.
October 2025; the authors' code is PKUDigitalHealth/WearECG-reconstruction (MIT), nothing of which is used here.

    L = L_unobserved + w_observed L_observed + L_kl + w_einthoven L_einthoven + w_deviation L_deviation

    L_unobserved   squared error in mV^2 of samples in the leads that the encoder did not receive
    L_observed     the same of the leads that it received
    L_kl           beta x divergence of the latents' posterior from N(0, 1), summed over channels, mean over steps
    L_einthoven    squared residual of the four equations of the limb leads, each minus its mean over time
    L_deviation    negative log-likelihood of the error of L_unobserved under a predicted standard deviation

The encoder receives the given leads and twelve channels of masks. In training, the given leads of a record are a random
set: half of the time one of NAMED_SETS, which wearable devices and monitors record, otherwise a random number of random
leads. A completed ECG is decoded from the mean of the latents.

This implementation departs from the paper and its code as follows (in brackets: the setting that restores the paper's text):
- In the released training and test scripts, the lines that mask leads are comments: that model is an autoencoder of twelve
  leads, and the published numbers cannot be traced to the code. Here leads are hidden, as in the paper's text, and any set of
  leads can be given, not only II, V1 and V5.
- The decoder's output is added to a linear map of the given leads, whose coefficients follow from the products of leads in a
  population and from the set that is given (nn/lead_map.py). The population is that of PTB-XL, and more and more that of the
  training ECGs. The map is what a model of leads must exceed; a network that first has to learn it exceeds it only after a
  long training [base = "none"].
- The last stage of the decoder also reads the given leads and their mask, so that four latent channels need not transmit what
  is known [condition = False].
- L_observed, L_einthoven and L_deviation are ours, and the text has MSE + beta KL over all leads [weights of 0].
- The posterior of the latents, given the same leads, has no reason to be as wide as the error: its width only adds to the
  loss. So L_deviation trains a small network on the output, without gradients to the rest. A draw is a decoded draw of the
  latents plus, in each lead, one normal number x that deviation.
- Not implemented: the optional perceptual loss on features of ECGFounder, which the released settings disable; the factor
  0.18215 on the latents, which matters only to a diffusion model that reads them.
- The test of the paper draws from the posterior; here the mean is decoded, which has the lower error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from leadwise import distributed
from leadwise.batch import Batch, Signal
from leadwise.config import check_ranges
from leadwise.methods.contract import MethodConfig, PretrainingMethod, nonzero_weights
from leadwise.nn.completion import given_part, recorded_on_top
from leadwise.nn.ecg_vae import EcgVae, divergence, sample
from leadwise.nn.encoder import check_part, valid_only
from leadwise.nn.lead_map import LIMB_WEIGHTS, linear_estimate, population_covariance
from leadwise.nn.losses import masked
from leadwise.nn.masking import any_in_bins
from leadwise.nn.normalize import normalize
from leadwise.nn.observed import observed_records

NAMED_SETS = (("II", "V1", "V5"), ("I",), ("I", "II"), tuple(LIMB_WEIGHTS))
NAMED_SHARE = 0.5  # of the records whose given leads are one of NAMED_SETS
_LOG_VARIANCE = (-12.0, 4.0)  # of the error in mV^2
_DEVIATION_CHANNELS = 24
_N_POPULATION = 200  # training ECGs that outweigh the population of PTB-XL in the linear map


@dataclass(frozen=True)
class Config(MethodConfig):
    widths: tuple[int, ...] = (128, 256, 512, 512)  # channels of the stages; time is halved between two of them
    latent: int = 4  # channels of a latent step
    heads: int = 1  # of the attention block
    beta: float = 1e-4  # weight of the divergence
    base: Literal["linear", "none"] = "linear"  # what the decoder's output is added to: the linear map, or 0
    condition: bool = True  # the last stage of the decoder reads the given leads
    w_observed: float = 0.1
    w_einthoven: float = 0.1
    w_deviation: float = 0.01  # of L_deviation; 0: draws differ by their latents only

    def __post_init__(self) -> None:
        check_ranges(self, beta="> 0", w_observed=">= 0", w_einthoven=">= 0", w_deviation=">= 0", latent=">= 1")


# Settings for two CPU cores and signals of 1,000 samples.
SMALL = {"widths": (24, 32, 48, 64), "latent": 8, "heads": 2}
SMALL_OPTIM = {"batch_size": 32, "lr": 2e-3, "optimizer": "muon"}
# The smallest settings, for the contract tests.
TINY = {
    "": {"widths": (8, 8, 16), "latent": 4},
    "paper": {
        "widths": (8, 8, 16), "latent": 4, "base": "none", "condition": False, "w_observed": 1.0, "w_einthoven": 0.0,
        "w_deviation": 0.0,
    },
}  # fmt: skip


class Method(PretrainingMethod):
    completes_leads = True
    falling_terms: tuple[str, ...] = ("L_unobserved",)
    config: Config
    covariance: Tensor
    n_covariance: Tensor
    product_sum: Tensor
    product_count: Tensor
    named: Tensor

    def __init__(
        self, config: Config, signal: Signal, tokenizer: object = None, saved_folder: Path | None = None
    ) -> None:
        """
        Raises:
            ValueError: a normalisation that removes millivolts, or fewer than two leads.
        """
        super().__init__(config, signal)
        c, n_leads = config, len(signal.leads)
        if signal.normalize != "mv":
            raise ValueError(f"signal.normalize = '{signal.normalize}': this method completes leads in mV; set 'mv'")
        if n_leads < 2:
            raise ValueError(f"signal.leads = {list(signal.leads)}: name two leads or more, of which one can be hidden")
        has_limb_law = set(LIMB_WEIGHTS) <= set(signal.leads)
        self.weights = nonzero_weights(
            L_unobserved=1.0,
            L_observed=c.w_observed,
            L_kl=c.beta,
            L_einthoven=c.w_einthoven * has_limb_law,
            L_deviation=c.w_deviation,
        )
        n_condition = 2 * n_leads if c.condition else 0
        self.vae = EcgVae(2 * n_leads, n_leads, c.widths, c.latent, c.heads, n_condition)
        if c.w_deviation:
            self.deviation = nn.Sequential(
                nn.Conv1d(3 * n_leads, _DEVIATION_CHANNELS, 9, padding=4),
                nn.SiLU(),
                nn.Conv1d(_DEVIATION_CHANNELS, n_leads, 9, padding=4),
            )
        # products of leads: of the population, then also of the training ECGs; those of the current step beside them
        self.register_buffer("covariance", population_covariance(signal.leads))
        self.register_buffer("n_covariance", torch.tensor(float(_N_POPULATION), dtype=torch.float64))
        self.register_buffer("product_sum", torch.zeros_like(self.covariance), persistent=False)
        self.register_buffer("product_count", torch.zeros_like(self.n_covariance), persistent=False)
        named = [[lead in one for lead in signal.leads] for one in NAMED_SETS]
        self.register_buffer("named", torch.tensor([one for one in named if any(one)]), persistent=False)

    # --- the loss

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss, by name."""
        # the given leads, and the estimate of all from a draw of the latents
        ecg, c = self._scaled(batch), self.config
        if self.training and torch.is_grad_enabled() and c.base == "linear":
            self._collect_products(ecg.detach(), batch.observed)
        given = self.draw_given(batch.observed)
        mask = batch.observed & given[..., None]
        mean, log_variance = self.vae.encode(self._inputs(ecg, mask))
        estimate = self._decode(sample(mean, log_variance) if self.training else mean, ecg, mask)

        # its errors, and the deviation of these errors
        hidden = batch.observed & ~given[..., None]
        terms = {
            "L_unobserved": masked.reconstruction(estimate, ecg, hidden),
            "L_observed": masked.reconstruction(estimate, ecg, mask),
            "L_kl": divergence(mean, log_variance),
        }
        if "L_einthoven" in self.weights:
            terms["L_einthoven"] = einthoven(estimate, self.signal.leads)
        if c.w_deviation:
            log_deviation = self._log_variance(estimate.detach(), ecg, mask)
            error = (estimate - ecg).detach().square()
            terms["L_deviation"] = negative_log_likelihood(error, log_deviation, hidden)
        return {name: weight * terms[name] for name, weight in self.weights.items()}

    def draw_given(self, observed: Tensor) -> Tensor:
        """Which leads (B, L) bool the encoder receives, at random; each is observed, and each record has one or more.

        observed: (B, L, T) bool. Random numbers are drawn on the host.
        """
        has = observed.any(-1).cpu()  # (B, L)
        b, n_leads = has.shape
        # random sets: as many leads as are drawn, from 1 to all but one
        count = torch.randint(1, n_leads, (b, 1))
        rank = torch.rand(b, n_leads).masked_fill(~has, 2.0).argsort(-1).argsort(-1)
        given = rank < count
        # named sets in their place, where the record has one of their leads
        number = torch.randint(len(self.named), (b,)) if len(self.named) else torch.zeros(b, dtype=torch.long)
        is_named = torch.rand(b) < NAMED_SHARE
        if len(self.named):
            named = self.named.cpu()[number]
            given = torch.where((is_named & (named & has).any(-1))[:, None], named, given)
        return (given & has).to(observed.device)

    @torch.no_grad()
    def _collect_products(self, ecg: Tensor, observed: Tensor) -> None:
        """Add the mean products of the leads of completely observed ECGs (B, L, T) to those of this step."""
        whole = ecg[observed.flatten(1).all(-1)].to(self.product_sum.dtype)
        self.product_sum += torch.einsum("blt,bmt->lm", whole, whole) / ecg.shape[-1]
        self.product_count += len(whole)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the products of the leads to the mean over all training ECGs so far, of all processes."""
        total, count = (distributed.gather(x[None]).sum(0) for x in (self.product_sum, self.product_count))
        self.n_covariance += count
        self.covariance += (total - count * self.covariance) / self.n_covariance
        self.product_sum.zero_()
        self.product_count.zero_()

    # --- embeddings

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings: the mean over time of the encoder's last features; any subset of leads may be observed.

        Raises:
            ValueError: an unknown part, or a record without an observed sample.
        """
        check_part(part, self.parts)
        features = self.vae.features(self._inputs(self._scaled(batch), batch.observed))  # (B, D, N)
        real = any_in_bins(batch.observed.any(1), features.shape[-1]).to(features.dtype)[:, None]
        out: Tensor = (features * real).sum(-1) / real.sum(-1).clamp(min=1)
        return out

    # --- completed leads

    @torch.no_grad()
    def complete(self, batch: Batch, observed: Tensor, n_draws: int = 1) -> Tensor:
        """ECGs (n_draws, B, L, T) in mV from the leads `observed` (B, L) bool.

        The first is decoded from the mean of the latents. The others are decoded from draws of them, plus one normal number x
        the predicted deviation in each lead.
        """
        part, given = given_part(batch, observed)
        ecg = self._scaled(part)
        mean, log_variance = self.vae.encode(self._inputs(ecg, part.observed))
        estimate = self._decode(mean, ecg, part.observed)
        draws = [estimate]
        for _ in range(n_draws - 1):
            draw = self._decode(sample(mean, log_variance), ecg, part.observed)
            if self.config.w_deviation:
                deviation = (0.5 * self._log_variance(estimate, ecg, part.observed)).exp()
                draw = draw + torch.randn(*draw.shape[:2], 1).to(draw.device) * deviation
            draws.append(draw)
        return recorded_on_top(torch.stack(draws), part, given, self.signal.leads)

    # --- parts of both

    def _scaled(self, batch: Batch) -> Tensor:
        """The ECG (B, L, T) in mV minus each lead's median, 0 where unobserved.

        Raises:
            ValueError: a record without an observed sample.
        """
        ecg = normalize(batch.ecg, batch.observed, "mv")
        reason = "no sample was observed; leave the recording out"
        return valid_only(ecg, observed_records(batch), batch.record, reason)

    def _inputs(self, ecg: Tensor, mask: Tensor) -> Tensor:
        """The given samples beside their mask, (B, 2 L, T)."""
        return torch.cat([ecg * mask, mask.to(ecg.dtype)], dim=1)

    def _decode(self, z: Tensor, ecg: Tensor, mask: Tensor) -> Tensor:
        """All leads (B, L, T) in mV minus their median, from latents and the given samples."""
        condition = self._inputs(ecg, mask) if self.config.condition else None
        out = self.vae.decode(z, ecg.shape[-1], condition)
        if self.config.base == "linear":
            out = out + linear_estimate(ecg * mask, mask.any(-1), self.covariance)
        return out

    def _log_variance(self, estimate: Tensor, ecg: Tensor, mask: Tensor) -> Tensor:
        """The log-variance (B, L, T) of the error of an estimate in mV^2."""
        out: Tensor = self.deviation(torch.cat([estimate, self._inputs(ecg, mask)], dim=1))
        return (out - 4.0).clamp(*_LOG_VARIANCE)  # starts near 0.14 mV


def einthoven(ecg: Tensor, leads: tuple[str, ...]) -> Tensor:
    """Mean squared residual of the four equations of the limb leads, each minus its mean over time; ecg (B, L, T).

    The mean over time does not count: each lead is relative to its own median.
    """
    row = {lead: ecg[:, leads.index(lead)] for lead in LIMB_WEIGHTS}
    residual = torch.stack(
        [row[lead] - of_i * row["I"] - of_ii * row["II"] for lead, (of_i, of_ii) in LIMB_WEIGHTS.items()][2:]
    )
    return (residual - residual.mean(-1, keepdim=True)).square().mean()


def negative_log_likelihood(error: Tensor, log_variance: Tensor, counts: Tensor) -> Tensor:
    """Mean of (error / variance + log variance) / 2 over the selected samples of each record, then over records.

    error: (B, L, T) squared; counts: bool, True = selected. A record without a selected sample adds 0.
    """
    each = 0.5 * (error * (-log_variance).exp() + log_variance) * counts
    return (each.flatten(1).sum(1) / counts.flatten(1).sum(1).clamp(min=1)).mean()
