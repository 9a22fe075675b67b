"""Losses of a student that is trained to the vectors of a teacher: pure functions, in mean form.

Each is a share of a variance: 0 for the teacher's own vectors, about 1 for a student that returns the mean.
"""

from __future__ import annotations

import torch
from torch import Tensor


def unexplained(student: Tensor, teacher: Tensor, variance: Tensor) -> Tensor:
    """Squared distance of student and teacher (B, D), summed over D, divided by the teacher's variance; mean over B.

    variance: scalar, the mean squared distance of the teacher's training vectors from their mean.
    """
    return ((student - teacher).square().sum(-1) / variance).mean()


def relations(student: Tensor, teacher: Tensor, variance: Tensor, local_rows: slice = slice(None)) -> Tensor:
    """Squared difference of the two matrices of inner products (B, B), mean over pairs of different records.

    After Tung and Mori 2019 (arXiv 1907.09682). student, teacher: (B, D) unit vectors of all processes. variance: scalar,
    the variance of the teacher's inner products. The mean is over the pairs of `local_rows` with all rows.
    """
    b = len(student)
    error = (student[local_rows] @ student.T - teacher[local_rows] @ teacher.T).square()
    same = torch.eye(b, dtype=torch.bool, device=student.device)[local_rows]
    return error.masked_fill(same, 0.0).sum() / (len(error) * max(1, b - 1)) / variance
