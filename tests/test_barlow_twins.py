"""Tests of Barlow Twins beyond the contract."""

from __future__ import annotations

import pytest
import torch
from conftest import make_batch
from test_methods import build

from leadwise.methods import barlow_twins
from leadwise.nn.losses import view_agreement


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    a = torch.randn(9, 4, generator=g) * 3 + 2
    return a, a + torch.randn(9, 4, generator=g)


def test_the_correlation_equals_torchs_corrcoef(pair) -> None:
    a, b = pair
    got = view_agreement.cross_correlation(a, b)
    for i in range(4):
        for j in range(4):
            want = torch.corrcoef(torch.stack([a[:, i], b[:, j]]))[0, 1]
            torch.testing.assert_close(got[i, j], want, atol=1e-5, rtol=1e-5)


def test_the_loss_equals_the_double_loop(pair) -> None:
    c = view_agreement.cross_correlation(*pair)
    slow = sum((1 - float(c[i, j])) ** 2 if i == j else 0.2 * float(c[i, j]) ** 2 for i in range(4) for j in range(4))
    assert float(view_agreement.redundancy(c, 0.2)) == pytest.approx(slow, rel=1e-5)


def test_features_that_agree_and_differ_from_each_other_are_best() -> None:
    torch.manual_seed(0)
    z = torch.randn(8, 4)
    z, _ = torch.linalg.qr(z - z.mean(0))  # centred orthogonal columns
    assert float(view_agreement.redundancy(view_agreement.cross_correlation(z, 5 * z + 1), 5e-3)) == pytest.approx(
        0, abs=1e-5
    )
    same = z[:, :1].expand(-1, 4)
    assert float(view_agreement.redundancy(view_agreement.cross_correlation(same, same), 5e-3)) == pytest.approx(
        12 * 5e-3
    )


def test_the_correlation_is_that_of_the_whole_batch(monkeypatch) -> None:
    """Rows of all processes are gathered before the correlation is computed."""
    method = build("barlow_twins").eval()
    with torch.no_grad():
        _, features = method.local_terms(make_batch(8))
        whole = method.batch_terms(features)["L_BT"]
        other = {name: z[4:] for name, z in features.items()}
        order = iter(other.values())
        monkeypatch.setattr(barlow_twins.distributed, "gather", lambda x: torch.cat([x, next(order)]))
        torch.testing.assert_close(method.batch_terms({name: z[:4] for name, z in features.items()})["L_BT"], whole)


def test_validation_uses_the_statistics_of_its_own_batch() -> None:
    """The scale of z does not matter, in eval mode either."""
    method = build("barlow_twins").eval()
    with torch.no_grad():
        _, features = method.local_terms(make_batch(8))
        scaled = {name: 7 * z - 2 for name, z in features.items()}
        torch.testing.assert_close(
            method.batch_terms(scaled)["L_BT"], method.batch_terms(features)["L_BT"], rtol=1e-4, atol=1e-4
        )


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match=r"off_diagonal = -1\.0 is out of range: it must be >= 0"):
        barlow_twins.Config(off_diagonal=-1.0)
