"""The variants that each table and figure of the paper compares: configs derived from the settings of one run."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from leadwise.config import BY_METHOD, Config, ConfigError
from leadwise.demo import CONFIG
from leadwise.methods.catalogue import (
    all_small_settings,
    embeds_text,
    learns_from_teacher,
    learns_labels,
    method_names,
    reads_volumes,
    with_defaults,
)
from leadwise.reproduce import paper_numbers

TARGETS = ("table1", "table2", "table3", "fig2", "fig3")  # of CG-DMER's paper
PEERS = "peers"  # the methods of 2026, see `peers.py`
MERIT = "merit"  # the target of MERIT's paper, see `merit.py`
DUAL_PHASE = "dual_phase"  # the target of the dual-phase CMR paper, see `dual_phase.py`

_OURS = "CG-DMER"
_TERMS = ("w_e_rec", "w_t_rec", "w_orth", "w_siglip")  # in the order in which Table 3 adds them
FULL_VIEW = "L_cons, full view"  # a row of ours in Table 3: the contrast alone, without masks
_AXES = {"n_patches": paper_numbers.N_PATCHES, "mask_ratio": paper_numbers.MASK_RATIOS}


@dataclass(frozen=True)
class Variant:
    """One row of a table, or one point of a curve: a run to train and score."""

    label: str  # row name in tables
    config: Config
    axis: str = ""  # fig2: the setting that varies
    value: float = 0.0  # fig2: its value

    @property
    def folder(self) -> str:
        """The name of the variant's folder, made from its label and seed."""
        return f"{re.sub(r'[^a-z0-9.]+', '_', self.label.lower()).strip('_')}-seed{self.config.optim.seed}"


def is_reference(config: Config) -> bool:
    """Return whether a config is of a supervised method: it sets how references are trained and has no row of its own."""
    return learns_labels(str(config.method.get("name", "")))


def compared_methods(target: str) -> tuple[str, ...]:
    """Return the methods that a target compares: those of the paper's Figure 3, all with a text encoder, or all.

    Supervised methods are excluded: they are references (`references.py`). So are distilled ones, which need a trained run,
    and those that are trained on heart images, which the cohorts of these targets do not have.
    """
    excluded = (learns_labels, learns_from_teacher, reads_volumes)
    names = tuple(name for name in method_names() if not any(rule(name) for rule in excluded))
    if target == "table2":
        return tuple(name for name in names if embeds_text(name))
    return paper_numbers.FIGURE3 if target == "fig3" else names


def base_configs(
    given: Sequence[Config],
    names: Sequence[str] | None = None,
    small_configs: Callable[[str, Config], Sequence[Config]] | None = None,
) -> dict[str, Config]:
    """Return the config of each row by row name: the given ones, and small settings for the other methods of `names`.

    Small settings can be trained on a CPU. They share data, signal and budget with CG-DMER's config, or with the first one.
    A method without small settings and without a config is left out (`without_settings`).

    Args:
        names: methods to compare; None means all.
        small_configs: method, shared config -> configs of its rows; default: its small settings in the shared config.

    Raises:
        ConfigError: two configs are for one row.
        ValueError: no such method; the message suggests the nearest.
    """
    configs: dict[str, Config] = {}
    for config in map(with_defaults, map(_with_same_recordings, given)):
        row = paper_numbers.row_name(config.method)
        if row in configs:
            raise ConfigError(f"two configs are for '{row}'; give one of each")
        configs[row] = config
    shared = configs.get(_OURS, next(iter(configs.values()), _with_same_recordings(CONFIG)))
    configured = {config.method["name"] for config in configs.values()}
    for name in compared_methods("") if names is None else names:
        for small in (small_configs or _small_configs)(name, shared) if name not in configured else ():
            config = with_defaults(small)
            configs[paper_numbers.row_name(config.method)] = config
    return configs


def _small_configs(name: str, shared: Config) -> list[Config]:
    """Return the shared config with each of the method's small settings."""
    return [dataclasses.replace(shared, method=method) for method in all_small_settings(name)]


def _with_same_recordings(config: Config) -> Config:
    """Return the config with `data.min_report_words` set: all methods of a table are trained on recordings with a report."""
    if config.data.min_report_words != BY_METHOD:
        return config
    return dataclasses.replace(config, data=dataclasses.replace(config.data, min_report_words=1))


def without_settings(given: Sequence[Config], names: Sequence[str]) -> list[str]:
    """Return the methods of `names` that cannot be compared: those without a config and without small settings."""
    configured = {config.method.get("name") for config in given}
    return [name for name in names if name not in configured and not all_small_settings(name)]


def make_variants(target: str, configs: Mapping[str, Config]) -> list[Variant]:
    """Return the variants that `target` compares.

    Args:
        configs: as `base_configs` returns them.

    Raises:
        ConfigError: no such target, or the target is about CG-DMER and `configs` does not contain it.
    """
    if target not in (*TARGETS, PEERS):
        known = ", ".join((*TARGETS, PEERS, MERIT, DUAL_PHASE))
        raise ConfigError(f"no target '{target}' to reproduce; choose from {known}")
    if target in ("table1", "table2", "fig3", PEERS):
        return [Variant(row, config) for row, config in sorted(configs.items())]
    if _OURS not in configs:
        raise ConfigError(f"{target} compares variants of {_OURS}: leave out --methods, or include cg_dmer in it")
    ours = configs[_OURS]
    if target == "table3":
        weights = [float(ours.method[term]) or 1.0 for term in _TERMS]
        rows = [Variant(FULL_VIEW, _full_view(ours))] if ours.method["contrast_view"] != "full" else []
        for n_terms, label in enumerate(paper_numbers.TABLE3):
            settings = {term: weights[k] if k < n_terms else 0.0 for k, term in enumerate(_TERMS)}
            rows.append(Variant(label, _with_settings(ours, settings)))
        return rows
    return [
        Variant(f"{axis} {value:g}", _with_settings(ours, {axis: value}), axis, value)
        for axis, values in _AXES.items()
        for value in values
    ]


def _full_view(config: Config) -> Config:
    """Return the config with the contrast alone, of whole ECGs at every step."""
    settings: dict[str, object] = {**dict.fromkeys(_TERMS, 0.0), "contrast_view": "full"}
    return _with_settings(config, settings | ({"final_share": 0.0} if "final_share" in config.method else {}))


def contrast_remark(compared: Sequence[Variant]) -> str:
    """Return one sentence or two on what the rows of Table 3 compare: masked or whole ECGs.

    Without reconstruction nothing requires masks, but the rows differ in their terms only, so all have them.
    """
    method = compared[-1].config.method
    if method["contrast_view"] == "full":
        return "All rows contrast whole ECGs."
    hidden = f"{float(method['mask_ratio']):.0%} of each lead's patches hidden"
    also = " and whole ECGs" if method["contrast_view"] == "both" else ""
    last = method.get("final_share")
    at_the_end = f", in the last {last:.0%} of the steps those of final_view = '{method['final_view']}'" if last else ""
    return (
        f"All rows but the first contrast ECGs with {hidden}{also}{at_the_end}; so does L_cons, which reconstructs "
        f"nothing. '{FULL_VIEW}' contrasts whole ECGs. The paper does not state what its first row contrasts."
    )


def _with_settings(config: Config, settings: Mapping[str, object]) -> Config:
    return dataclasses.replace(config, method={**config.method, **settings})
