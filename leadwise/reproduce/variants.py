"""What each table and figure of the paper compares: a list of configs, told from the settings of one run."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leadwise import run as runs
from leadwise.config import Config, ConfigError
from leadwise.demo import CONFIG
from leadwise.methods.catalogue import all_small_settings, embeds_text, learns_labels, method_names
from leadwise.reproduce import paper

TARGETS = ("table1", "table2", "table3", "fig2", "fig3")

_OURS = "CG-DMER"
_TERMS = ("w_e_rec", "w_t_rec", "w_orth", "w_siglip")  # in the order in which Table 3 adds them
_AXES = {"n_patches": paper.N_PATCHES, "mask_ratio": paper.MASK_RATIOS}


@dataclass(frozen=True)
class Variant:
    """One row of a table, or one point of a curve: a run to be trained and scored."""

    label: str  # what the table calls it
    config: Config
    axis: str = ""  # fig2: the setting that is swept
    value: float = 0.0  # fig2: where it stands

    @property
    def folder(self) -> str:
        """A folder name of its own for it."""
        return f"{re.sub(r'[^a-z0-9.]+', '_', self.label.lower()).strip('_')}-seed{self.config.optim.seed}"


def is_reference(config: Config) -> bool:
    """Whether a config learns from labels: it is no row of its own, but says how references are made."""
    return learns_labels(str(config.method.get("name", "")))


def compared_methods(target: str) -> tuple[str, ...]:
    """The methods that a target sets side by side: those of the paper's Figure 3, all that answer words, or all.

    Methods that learn from labels are no rows of these: they are references (`references.py`).
    """
    names = tuple(name for name in method_names() if not learns_labels(name))
    if target == "table2":
        return tuple(name for name in names if embeds_text(name))
    return paper.FIGURE3 if target == "fig3" else names


def base_configs(given: Sequence[Config], names: Sequence[str] | None = None) -> dict[str, Config]:
    """Row -> settings: those given, and for methods of `names` (all) without any the small ones that a CPU can train.

    What is small shares data, signal and budget with CG-DMER's config, or the first.

    Raises:
        ConfigError: two configs are for one row, or a method without a config has no small settings.
        ValueError: no such method; the message suggests the nearest.
    """
    configs: dict[str, Config] = {}
    for config in map(runs.resolve, given):
        row = paper.row_name(config.method)
        if row in configs:
            raise ConfigError(f"two configs are for '{row}'; give one of each")
        configs[row] = config
    shared = configs.get(_OURS, next(iter(configs.values()), CONFIG))
    taken = {config.method["name"] for config in configs.values()}
    for name in compared_methods("") if names is None else names:
        for method in all_small_settings(name) if name not in taken else ():
            config = runs.resolve(dataclasses.replace(shared, method=method))
            configs[paper.row_name(config.method)] = config
    return configs


def make_variants(target: str, configs: Mapping[str, Config]) -> list[Variant]:
    """What `target` compares, with `configs` as `base_configs` gives them.

    Raises:
        ConfigError: no such target, or CG-DMER is not among what is asked for, though the target is about it.
    """
    if target not in TARGETS:
        raise ConfigError(f"no target '{target}' to reproduce; choose from {', '.join(TARGETS)}")
    if target in ("table1", "table2", "fig3"):
        return [Variant(row, config) for row, config in sorted(configs.items())]
    if _OURS not in configs:
        raise ConfigError(f"{target} takes {_OURS} apart: leave --methods away, or name cg_dmer")
    ours = configs[_OURS]
    if target == "table3":
        weights = [float(ours.method[term]) or 1.0 for term in _TERMS]
        rows = []
        for n_terms, label in enumerate(paper.TABLE3):
            there = {term: weights[k] if k < n_terms else 0.0 for k, term in enumerate(_TERMS)}
            rows.append(Variant(label, _changed(ours, there)))
        return rows
    return [
        Variant(f"{axis} {value:g}", _changed(ours, {axis: value}), axis, value)
        for axis, values in _AXES.items()
        for value in values
    ]


def _changed(config: Config, settings: Mapping[str, object]) -> Config:
    return dataclasses.replace(config, method={**config.method, **settings})
