"""The logit given to pairs that must not count in a softmax."""

from __future__ import annotations

MASKED_LOGIT = -1e30  # finite, so that a row that is masked throughout has a zero gradient and no NaN
