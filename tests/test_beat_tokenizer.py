"""The ECG tokenizer: its loss against a slow version, its codes, and the faults of the released code that it must not have."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from conftest import SIGNAL, TINY, config_table, make_batch, unobserve
from test_methods import build

from leadwise import run as runs
from leadwise.config import Config, typed
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Recordings
from leadwise.evaluate.embed import embed_cohort
from leadwise.nn.quantize import perplexity
from leadwise.training.gradient_step import Objective, backward
from leadwise.training.loop import pretrain

NAME = "beat_tokenizer"
N_WINDOWS, N_SAMPLES = 2, 200  # of SIGNAL with the tiny settings


def train(steps: int = 30, n: int = 16, seed: int = 0, **changes: object):
    method = build(NAME, seed=seed, **changes).train()
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for step in range(steps):
        sum(method(make_batch(n, seed=step)).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step((step + 1) / steps)
    return method.eval()


# ------------------------------------------------------------------------------------------------------------ the loss


@torch.no_grad()
def slow_terms(method, batch) -> dict[str, float]:
    """The four terms, record by record and window by window, from the decoded codes."""
    c, sums = method.config, {"L_rec": 0.0, "L_pred": 0.0, "L_vq": 0.0}
    codes, _ = method.encode(batch)
    rebuilt, after = method.decode(codes)
    uses = []
    for i in range(len(batch)):
        alone = batch.rows(i, i + 1)
        level = (
            batch.ecg[i].masked_fill(~batch.observed[i], math.nan).nanmedian(-1, keepdim=True).values.nan_to_num(0.0)
        )
        ecg = (batch.ecg[i] - level) * batch.observed[i]
        spread = float((ecg.square().sum() / batch.observed[i].sum() + 1e-6).sqrt())
        errors, later = [], []
        for w in range(N_WINDOWS):
            some = slice(w * N_SAMPLES, (w + 1) * N_SAMPLES)
            present = batch.observed[i, :, some]
            errors += (rebuilt[i, w] - ecg[:, some] / spread).square()[present].tolist()
            if w + 1 < N_WINDOWS and bool(present.any()):
                n = after.shape[-1]
                coming = slice((w + 1) * N_SAMPLES, (w + 1) * N_SAMPLES + n)
                known = batch.observed[i, :, coming]
                later += (after[i, w] - ecg[:, coming] / spread).square()[known].tolist()
        sums["L_rec"] += sum(errors) / len(errors)
        sums["L_pred"] += c.w_pred * sum(later) / max(1, len(later))

        # the quantiser, over the windows with a sample
        out = method._quantize(*method._windows(ecg[None], alone.observed))
        windows = [w for w in range(N_WINDOWS) if bool(batch.observed[i, :, w * N_SAMPLES : (w + 1) * N_SAMPLES].any())]
        own = [float(out.commitment[0, w, q]) for w in windows for q in range(c.queries)]
        sums["L_vq"] += c.w_vq * sum(own) / len(own)
        uses.append(torch.stack([out.soft[0, w, q] for w in windows for q in range(c.queries)]).mean(0))
    terms = {name: value / len(batch) for name, value in sums.items()}
    mean = torch.stack(uses).mean(0).tolist()
    entropy = [-sum(p * math.log(p) for p in row if p > 0) for row in mean]
    return {**terms, "L_div": -c.w_diversity * sum(entropy) / len(entropy) / math.log(c.codes)}


def test_the_loss_is_that_of_a_loop() -> None:
    method = build(NAME).eval()
    batch = unobserve(make_batch(3), leads=[2, 7], after=330)
    short = unobserve(make_batch(1, seed=4), after=150)  # the second window has nothing
    mixed = dataclasses.replace(
        batch, ecg=torch.cat([batch.ecg, short.ecg]), observed=torch.cat([batch.observed, short.observed]),
        record=batch.record + short.record, patient=batch.patient + short.patient, report=batch.report + short.report,
        label=None, target=None, volume=None, has_volume=None, phenotype=None,
    )  # fmt: skip
    terms = {name: float(value.detach()) for name, value in method(mixed).items()}
    assert terms == pytest.approx(slow_terms(method, mixed), rel=1e-4)
    assert list(terms) == ["L_rec", "L_pred", "L_vq", "L_div"]


def test_the_loss_has_the_quantisers_term_and_it_reaches_the_encoder() -> None:
    """The released code computes the quantiser's loss and returns the reconstruction alone."""
    method = build(NAME)
    terms = method(make_batch())
    assert float(terms["L_vq"].detach()) > 0
    terms["L_vq"].backward()
    assert bool(method.encoder.blocks[0].feed[0].weight.grad.any())
    codes_move = {name for name, _ in method.named_parameters()} & {"quantizer.codebook"}
    assert not codes_move  # a moving average, not a gradient


def test_each_term_can_be_left_out() -> None:
    assert set(build(NAME, w_vq=0.0)(make_batch())) == {"L_rec", "L_pred", "L_div"}
    assert set(build(NAME, w_diversity=0.0)(make_batch())) == {"L_rec", "L_pred", "L_vq"}
    with pytest.raises(ValueError, match="a number of queries that divides the 10 patches of a window, not 3; change"):
        build(NAME, queries=3)
    build(NAME, queries=3, direct=False)  # the remedy
    with pytest.raises(ValueError, match="n_patches = 21 must be a multiple of windows = 2"):
        build(NAME, n_patches=21)


@pytest.mark.parametrize("n_passes", [2, 4])
def test_passes_move_the_codes_of_one(n_passes: int) -> None:
    """Gradient accumulation computes each record twice; its vectors count once."""
    batch, states = make_batch(8), []
    for n in (1, n_passes):
        method = build(NAME, dead_below=0.0).train()
        method.quantizer.n_updates += 9  # after the first steps, which take codes from one pass
        method.quantizer.size.fill_(1.0)
        method.quantizer.total.copy_(method.quantizer.codebook)
        size = 8 // n
        shares = [batch.rows(k * size, (k + 1) * size) for k in range(n)]
        backward(Objective(method), shares, 0, typed(Config, {}).optim)
        method.after_step(0.5)
        states.append(method.quantizer.state_dict())
    for name, x in states[0].items():
        torch.testing.assert_close(states[1][name], x, rtol=1e-4, atol=1e-5, msg=name)


# ----------------------------------------------------------------------------------------------------- codes and parts


def test_training_uses_the_codebook_rebuilds_and_continues() -> None:
    method = train(80)
    batch = make_batch(32, seed=999)
    codes, _ = method.encode(batch)
    counts = torch.stack([torch.bincount(codes[..., r].flatten(), minlength=16) for r in range(2)])
    assert bool((perplexity(counts) > 8).all())  # more than half of the book
    out, fresh = (one.rebuild_and_continue(batch) for one in (method, build(NAME).eval()))

    def error(predicted, rows) -> float:
        return float((predicted - out.ecg)[rows].square().mean() / out.ecg[rows].square().mean())

    assert error(out.rebuilt, batch.observed) < 0.7 < error(fresh.rebuilt, batch.observed)
    assert error(out.continued, out.is_continued) < 1.0 < error(fresh.continued, out.is_continued)
    assert not out.is_continued[..., :N_SAMPLES].any()  # nothing is predicted from before the record


def test_parts_are_the_same_codes() -> None:
    method = train(5)
    batch = make_batch(4)
    codes, _ = method.encode(batch)
    tokens, histogram = method.embed_ecg(batch, "tokens"), method.embed_ecg(batch, "codes")
    assert tokens.shape == (4, N_WINDOWS * 5 * 2)
    numbers = tokens.long().reshape(codes.shape)
    assert torch.equal(numbers - 1 - torch.tensor([0, 16]), codes)
    assert int(tokens.max()) < method.n_token_ids == 33
    torch.testing.assert_close(histogram.reshape(4, 2, 16).sum(-1), torch.ones(4, 2))
    expected = torch.stack([torch.bincount(codes[i, :, :, 1].flatten(), minlength=16) / 10 for i in range(4)])
    torch.testing.assert_close(histogram[:, 16:], expected)
    pooled = method.quantizer.lookup(codes).mean(1).flatten(1)
    torch.testing.assert_close(method.embed_ecg(batch), pooled)


def test_a_window_without_a_sample_has_number_0_and_no_weight() -> None:
    method = train(5)
    whole, short = make_batch(2), unobserve(make_batch(2), after=N_SAMPLES)
    a, b = (method.embed_ecg(one, "tokens").reshape(2, N_WINDOWS, -1) for one in (whole, short))
    assert not b[:, 1].any()
    assert bool(b[:, 0].all() and a.all())
    assert bool((method.embed_ecg(short, "codes").sum(1) - 2).abs().max() < 1e-5)


def test_what_is_rebuilt_is_in_millivolts_at_any_scale() -> None:
    for scale in ("mv", "lead_zscore", "record_zscore"):
        method = build(NAME, signal=dataclasses.replace(SIGNAL, normalize=scale)).eval()
        batch = make_batch(3)
        batch = dataclasses.replace(batch, ecg=batch.ecg + 0.3)
        exact = method.rebuild_and_continue(batch)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(method, "rebuild_and_continue", lambda _, e=exact: dataclasses.replace(e, rebuilt=e.ecg))
            ecg, rebuilt = method.reconstruct(batch)
        torch.testing.assert_close(ecg, batch.ecg, atol=1e-4, rtol=1e-4, msg=scale)
        assert torch.equal(rebuilt, batch.observed)


# --------------------------------------------------------------------------------- the run, and the records' own tokens


def test_the_saved_tokenizer_is_the_trained_one(cohort_folder, tmp_path) -> None:
    """The released training stores a new, random tokenizer in place of the trained one."""
    table = config_table(cohort_folder, steps=6)
    table["method"] = {"name": NAME, **TINY[NAME]}
    table["log"]["keep"] = "last"
    run = pretrain(typed(Config, table), tmp_path / "run")
    loaded = runs.load(tmp_path / "run")
    batch = make_batch(8)
    assert int(loaded.method.quantizer.n_updates) == 6
    assert torch.equal(run.method.encode(batch)[0], loaded.method.encode(batch)[0])
    assert torch.equal(loaded.method.quantizer.codebook, run.method.quantizer.codebook)
    assert not torch.equal(loaded.method.encode(batch)[0], loaded.untrained().method.encode(batch)[0])

    # resumed to the bit, codebooks included
    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("pretrain") and done == 5:
            raise KeyboardInterrupt

    table["log"]["save_every"] = 3
    with pytest.raises(KeyboardInterrupt):
        pretrain(typed(Config, table), tmp_path / "torn", progress=stop)
    resumed = pretrain(typed(Config, table), tmp_path / "torn", resume=True)
    assert all(torch.equal(x, resumed.method.state_dict()[k]) for k, x in run.method.state_dict().items())


def test_tokens_belong_to_records_in_any_order(cohort_folder) -> None:
    """The released code reads tokens from a shuffled loader and assigns them to reports by row."""
    cohort = Cohort.open(cohort_folder)
    config = Config(signal=SIGNAL, method={"name": NAME, **TINY[NAME]})
    run = runs.create(config, [], None)
    rows = np.arange(len(cohort))
    mixed = np.random.default_rng(0).permutation(rows)
    tokens = dict(zip(cohort.records.take(mixed), embed_cohort(run, cohort, "tokens", mixed)))
    for begin in range(0, len(rows), 7):
        batch = Recordings(cohort, SIGNAL, rows[begin : begin + 7]).batch(np.arange(len(rows[begin : begin + 7])))
        own = run.method.eval().embed_ecg(batch, "tokens").numpy()
        for name, expected in zip(batch.record, own):
            np.testing.assert_array_equal(tokens[name], expected)
    assert len({tuple(x) for x in tokens.values()}) > 15  # so that an exchange would be noticed
