"""Residual vector quantisation against slow versions, and its codebooks: moving averages, restarts, several processes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from leadwise.nn.quantize import TEMPERATURE, ResidualQuantizer, nearest, perplexity, rotate


def quantizer(n_levels: int = 2, n_codes: int = 6, width: int = 5, **changes: float) -> ResidualQuantizer:
    """Without centring, which has a test of its own."""
    torch.manual_seed(0)
    return ResidualQuantizer(n_levels, n_codes, 0, width, **{"decay": 0.8, "dead_below": 0.0, **changes})


def slowly(vector: list[float], books: list[list[list[float]]]) -> tuple[list[int], list[float], float]:
    """Codes, their sum, and the commitment of one vector."""
    left, codes, total, commitment = vector, [], [0.0] * len(vector), 0.0
    for book in books:
        away = [sum((a - b) ** 2 for a, b in zip(left, code)) for code in book]
        number = away.index(min(away))
        left = [a - b for a, b in zip(left, book[number])]
        total = [a + b for a, b in zip(total, book[number])]
        commitment += away[number] / len(vector)
        codes.append(number)
    return codes, total, commitment


def test_quantisation_is_that_of_a_double_loop() -> None:
    books = quantizer().double().eval()
    vectors = torch.randn(3, 4, 5, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        out = books(vectors)
    for i in range(3):
        for j in range(4):
            codes, total, commitment = slowly(vectors[i, j].tolist(), books.codebook.tolist())
            assert out.codes[i, j].tolist() == codes
            assert out.vectors[i, j].tolist() == pytest.approx(total)
            assert float(out.commitment[i, j]) == pytest.approx(commitment)
            away = [
                sum((a - b) ** 2 for a, b in zip(vectors[i, j].tolist(), code)) for code in books.codebook[0].tolist()
            ]
            share = [math.exp(-x / (5 * TEMPERATURE)) for x in away]
            assert out.soft[i, j, 0].tolist() == pytest.approx([x / sum(share) for x in share])
    torch.testing.assert_close(books.lookup(out.codes), out.vectors)
    torch.testing.assert_close(nearest(vectors[0], books.codebook[0]), out.codes[0, :, 0])


def test_a_second_level_leaves_less() -> None:
    books, vectors = quantizer(n_codes=32).eval(), torch.randn(200, 5)
    first = books.codebook[0][books(vectors).codes[:, 0]]
    with torch.no_grad():
        books.codebook[1] *= 0.5
        books.codebook[1, 0] = 0.0  # a level that may add nothing never makes it worse
    assert (vectors - books(vectors).vectors).square().mean() < (vectors - first).square().mean()


def test_the_gradient_is_that_of_rotation_and_scaling() -> None:
    """For each vector, by the explicit matrix of the rotation in the plane of the vector and its code."""
    torch.manual_seed(1)
    vectors, codes = (torch.randn(20, 4, dtype=torch.float64) for _ in range(2))
    codes[0] = -vectors[0]  # half a turn
    codes[1] = 2 * vectors[1]  # no turn
    vectors.requires_grad_()
    out, slope = rotate(vectors, codes), torch.randn(20, 4, dtype=torch.float64)
    torch.testing.assert_close(out, codes, atol=1e-7, rtol=1e-6)
    out.backward(slope)
    for number in range(20):
        x, c = vectors[number].detach(), codes[number]
        start, end = x / x.norm(), c / c.norm()
        matrix = torch.eye(4, dtype=torch.float64) + 2 * torch.outer(end, start)
        between = start + end
        if between.norm() > 1e-6:
            between = between / between.norm()
            matrix = matrix - 2 * torch.outer(between, between)
        matrix = matrix * c.norm() / x.norm()
        torch.testing.assert_close(matrix @ x, c, atol=1e-7, rtol=1e-6)
        torch.testing.assert_close(vectors.grad[number], matrix.T @ slope[number], atol=1e-7, rtol=1e-6)


def test_perplexity() -> None:
    assert float(perplexity(torch.tensor([5.0, 5.0, 5.0, 5.0]))) == pytest.approx(4.0)
    assert float(perplexity(torch.tensor([7.0, 0.0, 0.0, 0.0]))) == pytest.approx(1.0)
    assert float(perplexity(torch.tensor([1.0, 3.0]))) == pytest.approx(
        math.exp(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    )


# ---------------------------------------------------------------------------------------------------------- codebooks


def test_codes_are_moving_averages_of_the_vectors_that_chose_them() -> None:
    books = quantizer(n_levels=1, decay=0.6).train()
    vectors = [torch.randn(40, 5) for _ in range(4)]
    books(vectors[0])
    books.update()  # the first step: all codes start at vectors of the batch
    assert all(any(torch.equal(code, x) for x in vectors[0]) for code in books.codebook[0])
    size, total = books.size[0].tolist(), books.total[0].tolist()
    assert size == pytest.approx([40 / 6] * 6)
    for batch in vectors[1:]:
        numbers = nearest(batch, books.codebook[0]).tolist()
        books(batch)
        books.update()
        for k in range(6):
            own = [x.tolist() for x, number in zip(batch, numbers) if number == k]
            size[k] = 0.6 * size[k] + 0.4 * len(own)
            total[k] = [0.6 * t + 0.4 * sum(x[d] for x in own) for d, t in enumerate(total[k])]
        torch.testing.assert_close(books.size[0], torch.tensor(size), rtol=1e-4, atol=1e-5)
        expected = torch.tensor([[t / n for t in row] for row, n in zip(total, size)])
        torch.testing.assert_close(books.codebook[0], expected, rtol=1e-3, atol=1e-4)


def test_a_dead_code_restarts_at_a_vector_of_the_batch() -> None:
    """The vectors move to another place: without restarts one code serves all of them, with restarts all are in use."""
    used = []
    for dead_below in (0.0, 0.1):
        torch.manual_seed(0)
        books = quantizer(n_levels=1, n_codes=8, dead_below=dead_below).train()
        books(3.0 + 0.1 * torch.randn(64, 5))
        books.update()
        for _ in range(60):
            books(0.1 * torch.randn(64, 5) - 3.0)
            books.update()
        codes = books.eval()(0.1 * torch.randn(2000, 5) - 3.0).codes
        used.append(float(perplexity(torch.bincount(codes[:, 0], minlength=8))))
    assert used[0] == 1.0
    assert used[1] > 6


def test_vectors_are_centred_by_place() -> None:
    """Two places that differ much more than their vectors: the codes are those of the vectors, not of the places."""
    torch.manual_seed(0)
    books = ResidualQuantizer(1, 8, 2, 5, 0.8, 0.1).train()
    places = torch.tensor([[9.0] * 5, [-9.0] * 5])
    for _ in range(12):
        books(places + 0.02 * torch.randn(64, 2, 5))
        books.update()
    torch.testing.assert_close(books.centre, places, atol=0.02, rtol=0)
    assert float(books.spread) == pytest.approx(0.02, rel=0.2)
    books.eval()
    vectors = 0.02 * torch.randn(500, 2, 5)
    codes = books(places + vectors).codes[..., 0]
    assert all(float(perplexity(torch.bincount(codes[:, place], minlength=8))) > 6 for place in range(2))
    # equal vectors around the two centres have equal codes
    same = books(books.centre + vectors[:, :1].expand(-1, 2, -1)).codes[..., 0]
    assert torch.equal(same[:, 0], same[:, 1])


def test_only_training_steps_move_codes_and_padding_moves_none() -> None:
    books = quantizer().train()
    before = books.codebook.clone()
    books.update()  # nothing was collected
    with torch.no_grad():
        books(torch.randn(30, 5))  # the first of two passes of a step
    books.eval()
    books(torch.randn(30, 5))
    books.update()
    assert torch.equal(books.codebook, before)
    assert not books.n_updates

    real = torch.arange(30) < 12
    vectors, twin = torch.randn(30, 5), quantizer().train()
    books.train()(vectors, real)
    twin(vectors[:12])
    for one in (books, twin):
        one.update()
    assert all(torch.equal(a, b) for a, b in zip(books.buffers(), twin.buffers(), strict=True))


def test_codebooks_are_part_of_the_state_and_go_on_to_the_bit() -> None:
    torch.manual_seed(3)
    batches = [torch.randn(40, 5) for _ in range(4)]
    whole, first, second = (quantizer(dead_below=0.5).train() for _ in range(3))
    for batch in batches:
        whole(batch)
        whole.update()
    for batch in batches[:2]:
        first(batch)
        first.update()
    second.load_state_dict(first.state_dict())
    for batch in batches[2:]:
        second(batch)
        second.update()
    assert all(torch.equal(x, second.state_dict()[name]) for name, x in whole.state_dict().items())


def _one_of_two(rank: int, home: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{home / 'meet'}", rank=rank, world_size=2)
    torch.save(_trained(rank, 2).state_dict(), home / f"{rank}.pt")
    dist.destroy_process_group()


def _trained(rank: int, n_ranks: int) -> ResidualQuantizer:
    """Codebooks after an update from equal vectors, then three from shares of the same batches."""
    books = quantizer(n_codes=4).train()
    torch.manual_seed(5)
    start = torch.randn(4, 5)
    books(start[rank * 4 // n_ranks : (rank + 1) * 4 // n_ranks])
    books.update()
    books.codebook.copy_(torch.stack([start, 0.3 * start]))  # the first draw depends on the number of processes
    books.size.fill_(4.0)
    books.total.copy_(4 * books.codebook)
    for _ in range(3):
        batch = torch.randn(24, 5)
        share = 24 // n_ranks
        books(batch[rank * share : (rank + 1) * share])
        books.update()
    return books


@pytest.mark.slow
def test_two_processes_have_the_codes_of_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_one_of_two, (tmp_path,), nprocs=2)
    single = _trained(0, 1).state_dict()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, x in single.items():
        torch.testing.assert_close(first[name], x, msg=name)
        assert torch.equal(first[name], second[name]), name
