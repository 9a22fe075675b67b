"""The training budget of each run of a reproduction: the config's steps, a number of steps, or minutes.

Minutes are minutes of one core: the steps that fit are counted by the processor time of a few steps on one thread. So neither
other work on the machine nor the number of threads changes them, and a run on two threads takes about half as long. On a GPU
they are minutes of the GPU.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from leadwise.config import Config, ConfigError
from leadwise.training.step_time import steps_in

_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*(steps?|min(?:utes?)?)?")


@dataclass(frozen=True)
class Budget:
    """The budget of each run, not of all runs together."""

    steps: int | None = None
    minutes: float | None = None

    def __str__(self) -> str:
        if self.minutes is not None:
            return f"{self.minutes:g} minutes a run"
        return "the steps of the config" if self.steps is None else f"{self.steps:,} steps a run"

    def of(self, config: Config) -> Config:
        """Return the config with the number of steps that fits; minutes of one core become steps by timing a few."""
        if self.steps is None and self.minutes is None:
            return config
        steps = self.steps or 0
        if self.minutes is not None:
            steps, _ = steps_in(config, self.minutes)
        log = dataclasses.replace(config.log, validate_every=min(config.log.validate_every, steps))
        return dataclasses.replace(config, optim=dataclasses.replace(config.optim, steps=steps), log=log)


def parse(text: str | None) -> Budget:
    """Return the budget written as '400', '400 steps' or '10min'; None means the config's steps.

    Raises:
        ConfigError: another form, or an amount that is not positive.
    """
    if text is None:
        return Budget()
    match = _FORM.fullmatch(text.strip())
    amount = float(match[1]) if match else 0.0
    if match is None or amount <= 0:
        raise ConfigError(f"--budget {text}: pass steps or minutes of each run, such as 400 or 10min")
    if (match[2] or "").startswith("min"):
        return Budget(minutes=amount)
    if amount != int(amount):
        raise ConfigError(f"--budget {text}: steps are whole numbers; for minutes pass {text}min")
    return Budget(steps=int(amount))
