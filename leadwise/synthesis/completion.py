"""Complete the leads of an ECG from those that are there: by a trained run, or by the linear map of a population.

Recorded samples are unchanged. Limb leads that follow from two given ones are derived, not made. Where nothing was recorded
at a time in any given lead, nothing is filled in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leadwise import hub
from leadwise.batch import LEADS, Batch, Signal
from leadwise.data.recordings.twelve_leads import conform
from leadwise.ecg import ECG
from leadwise.evaluate import speed
from leadwise.evaluate.embed import frozen
from leadwise.nn.completion import given_part, recorded_on_top
from leadwise.nn.lead_map import LIMB_WEIGHTS, linear_estimate, population_covariance
from leadwise.nn.normalize import normalize
from leadwise.run import Run
from leadwise.synthesis.linear_leads import LinearLeads, per_patient
from leadwise.synthesis.written import MadeEcg

LINEAR = "linear"
"""The name of the linear map of PTB-XL's population, in place of a run."""

BAND = (10.0, 90.0)  # percentiles over the draws: a band of 80 %


class CompletionError(ValueError):
    """Leads that cannot be completed; the message names the run, file or lead and the remedy."""


class LeadCompleter(Protocol):
    """Something that completes leads. `bands` is False if it has one draw only; `maker` is its name in files."""

    @property
    def name(self) -> str: ...

    @property
    def signal(self) -> Signal: ...

    @property
    def bands(self) -> bool: ...

    @property
    def maker(self) -> str: ...

    def complete(self, batch: Batch, given: Tensor, n_draws: int = 1) -> Tensor:
        """Return ECGs (n_draws, B, L, T) in mV from the leads `given` (B, L) bool."""
        ...


@dataclass(frozen=True)
class RunCompleter:
    """A trained run whose method completes leads."""

    run: Run
    bands: bool = True
    label: str = ""  # of its row in tables; default: the method

    @property
    def name(self) -> str:
        return self.label or str(self.run.config.method["name"])

    @property
    def maker(self) -> str:
        return f"{self.run.config.method['name']}, run {self.run.name}"

    @property
    def signal(self) -> Signal:
        return self.run.config.signal

    def complete(self, batch: Batch, given: Tensor, n_draws: int = 1) -> Tensor:
        device = speed.device_of(self.run)
        with frozen(self.run.method):
            return self.run.method.complete(batch.to(device), given.to(device), n_draws).float().cpu()


@dataclass(frozen=True)
class MapCompleter:
    """A linear map: of PTB-XL's population for any leads, fitted to training recordings, or to each recording itself."""

    name: str
    signal: Signal
    fitted: LinearLeads | None = None
    is_per_patient: bool = False
    bands: bool = False

    @property
    def maker(self) -> str:
        return self.name if self.fitted or self.is_per_patient else "a linear map of the population of PTB-XL"

    def complete(self, batch: Batch, given: Tensor, n_draws: int = 1) -> Tensor:
        part, real = given_part(batch, given)
        ecg = normalize(part.ecg, part.observed, "mv")
        if self.is_per_patient:
            filled = per_patient(normalize(batch.ecg, batch.observed, "mv"), real)
        elif self.fitted is not None:
            filled = self.fitted.estimate(ecg)
        else:
            filled = linear_estimate(ecg, real, population_covariance(self.signal.leads))
        return recorded_on_top(filled[None], part, real, self.signal.leads).expand(n_draws, -1, -1, -1)


def open_completer(where: Path | str, accept_changes: bool = False) -> RunCompleter | MapCompleter:
    """Return what completes leads: the run that `where` names, or the linear map for the name "linear".

    Raises:
        CompletionError: the run's method completes no leads with its settings.
    """
    if str(where) == LINEAR and not (Path(where) / "config.toml").is_file():
        return MapCompleter(LINEAR, Signal(rate_hz=500))
    run = hub.load(where, accept_changes=accept_changes)
    if not run.method.completes_leads:
        raise CompletionError(
            f"run {run.name} ({run.config.method['name']}) completes no leads: that needs signal.normalize = 'mv' and a decoder "
            "of all leads; choose a run of wear_ecg, or of cg_dmer, merit or st_mem with decoder 'joint' or 'cross', or "
            f"'{LINEAR}'"
        )
    return RunCompleter(run)


def parse_leads(text: str, available: Sequence[str] = LEADS) -> tuple[str, ...]:
    """Return the lead names of a list such as "II,V1,V5", in the standard spelling and order.

    Raises:
        CompletionError: a name is unknown or occurs twice, there is none, or none of `available` is missing.
    """
    spelling = {lead.lower(): lead for lead in available}
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word.lower() not in spelling:
            raise CompletionError(f"--leads {text}: {word!r} is no lead of {', '.join(available)}; correct the name")
    names = [spelling[word.lower()] for word in words]
    if not names or len(set(names)) < len(names):
        raise CompletionError(f"--leads {text}: name each given lead once, such as II,V1,V5")
    if len(names) == len(available):
        raise CompletionError(f"--leads {text}: no lead is left to fill in; name fewer leads")
    return tuple(lead for lead in available if lead in names)


def derived_leads(given: Sequence[str], leads: Sequence[str] = LEADS) -> dict[str, tuple[str, ...]]:
    """Return the limb leads that follow from two of the given ones, each with these two."""
    pair = tuple(lead for lead in leads if lead in given and lead in LIMB_WEIGHTS)[:2]
    if len(pair) < 2:
        return {}
    return {lead: pair for lead in leads if lead in LIMB_WEIGHTS and lead not in given}


def complete_ecg(
    completer: LeadCompleter, ecg: ECG, leads: Sequence[str] | None = None, n_draws: int = 21, seed: int = 0
) -> MadeEcg:
    """Complete one ECG from some of its leads, in the window, and at the rate, that the run reads.

    Args:
        leads: the leads that are read; default: all that the file has. Others of the file are filled in as if they were
            missing.
        n_draws: the estimate and 9 or more, of which the band is computed; 1: no band.

    Raises:
        CompletionError: the file lacks one of these leads in that window, or has all.
    """
    # the given leads
    signal = completer.signal
    if ecg.refusal:
        raise CompletionError(f"{ecg.name}: not interpretable: {ecg.refusal}; leave it out")
    values, observed = conform(ecg.twelve.signal, ecg.rate_hz, signal)
    present = [lead for lead, real in zip(signal.leads, observed) if real.any()]
    given = tuple(present if leads is None else leads)
    absent = [lead for lead in given if lead not in present]
    if absent or not given:
        raise CompletionError(
            f"{ecg.name}: lead {', '.join(absent) or 'of any name'} was not recorded in the {signal.duration_s:g} s that the run "
            f"reads; pass --leads with some of {', '.join(present) or 'another file'}"
        )
    if len(given) == len(signal.leads):
        raise CompletionError(
            f"{ecg.name}: all {len(given)} leads were recorded; pass --leads with those to complete from"
        )

    # the draws
    batch = Batch(torch.from_numpy(values)[None], torch.from_numpy(observed)[None], (ecg.name,), (ecg.name,), ("",))
    mask = torch.tensor([[lead in given for lead in signal.leads]])
    draws = run_draws(completer, batch, mask, n_draws, seed)[:, 0]  # (n, L, T)

    # gaps of recorded leads stay gaps, and so do times at which no given lead was observed
    is_given = mask[0].numpy()
    exists = np.where(is_given[:, None], observed, observed[is_given].any(axis=0))
    low, high = band_of(draws)
    derived = derived_leads(given, signal.leads)
    synthetic = tuple(lead for lead in signal.leads if lead not in given and lead not in derived)
    is_synthetic = np.array([lead in synthetic for lead in signal.leads])
    has_band = exists & is_synthetic[:, None] & (len(draws) > 1)
    return MadeEcg(
        name=ecg.name,
        signal=np.where(exists, draws[0], np.nan),
        rate_hz=float(signal.rate_hz),
        leads=signal.leads,
        synthetic=synthetic,
        model=completer.maker,
        derived=derived,
        low=np.where(has_band, low, np.nan) if len(draws) > 1 else None,
        high=np.where(has_band, high, np.nan) if len(draws) > 1 else None,
        facts={"given leads": ", ".join(given)}
        | ({"band": f"80 % of {len(draws) - 1} draws"} if len(draws) > 1 else {}),
    )


def run_draws(completer: LeadCompleter, batch: Batch, given: Tensor, n_draws: int, seed: int) -> NDArray[np.float32]:
    """Return draws (n, B, L, T) in mV, the same for the same seed; n is 1 without bands."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        draws = completer.complete(batch, given, n_draws if completer.bands else 1)
    out: NDArray[np.float32] = draws.numpy()
    return out


def band_of(draws: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lower and upper edge (...) of the band of draws (n, ...); the first draw, the estimate, does not count.

    A further draw is within the band with a probability of 80 %, if there are 9 draws or more. Percentiles of the draws
    themselves ("linear") would hold 72 % for 20 draws.
    """
    some = draws[1:] if len(draws) > 1 else draws
    low, high = np.percentile(some, BAND, axis=0, method="weibull")
    return low, high


def with_draw(batch: Batch, filled: NDArray[np.float32]) -> Batch:
    """Return the batch with completed ECGs (B, L, T) in mV, every sample observed."""
    ecg = torch.from_numpy(np.ascontiguousarray(filled))
    return replace(batch, ecg=ecg, observed=torch.ones_like(batch.observed), on_host=None)
