"""The logit of a pair that must not count."""

from __future__ import annotations

MASKED_LOGIT = -1e30  # a logit that weighs nothing; finite, so that a row of them has a gradient (zero) and no NaN
