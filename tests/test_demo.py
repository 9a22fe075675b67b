"""A small demo: all files are written, progress covers every step, and the page opens offline."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from page_order import assert_pictures_first

from leadwise import demo, weights


@pytest.mark.slow
def test_a_small_demo_writes_its_page_and_reports_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    small = {
        **demo.CONFIG.method,
        "width": 32,
        "depth": 1,
        "heads": 2,
        "text_width": 32,
        "text_depth": 1,
        "decoder_width": 16,
    }
    optim = dataclasses.replace(demo.CONFIG.optim, batch_size=16)
    monkeypatch.setattr(demo, "CONFIG", dataclasses.replace(demo.CONFIG, method=small, optim=optim))
    tasks: dict[str, tuple[int, int]] = {}
    result = demo.demo(
        tmp_path / "demo",
        n_records=240,
        steps=6,
        progress=lambda what, done, total: tasks.update({what.partition("|")[0]: (done, total)}),
    )
    assert {"simulate", "prepare", "pretrain", "embed, trained", "probe", "report"} <= tasks.keys()
    assert all(done == total for done, total in tasks.values()), tasks
    page = result.page.read_text()
    assert result.page == tmp_path / "demo" / "run" / "report.html"
    assert_pictures_first(result.page.read_text())
    assert page.count("<img") >= 7
    assert page.index("<img") < page.index("<h2>Scores</h2>")  # it begins with a picture
    assert not re.search(r"""(src|href)=["']https?:""", page)
    assert "shuffled pairs" in page
    assert page.index("<img") < page.index("three example files: the most probable findings")
    assert len(result.examples.examples) == 3
    assert {row["file"] for row in result.examples.rows()} == {
        path.name for path in (tmp_path / "demo" / "examples").iterdir()
    } - {"left_bundle_branch_block.dat"}
    if not weights.names():
        assert "This version ships no weights, so the run of this demo reads" in page
    assert {row["how"].split(",")[0] for row in next(iter(result.tables.values()))} == {"zero-shot", "probe"}
    for name in ("config.toml", "model.safetensors", "metrics.jsonl", "tokenizer"):
        assert (tmp_path / "demo" / "run" / name).exists()
    with pytest.raises(demo.DemoError, match="--overwrite"):
        demo.demo(tmp_path / "demo", n_records=240)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(demo.DemoError, match="choose another folder"):
        demo.demo(tmp_path / "other", overwrite=True)
    assert (tmp_path / "other" / "thesis.tex").exists()
