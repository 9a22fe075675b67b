"""The example files of the demo: readable in their formats, with the leads that were simulated, and the findings in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from api_run import write_run

import leadwise as lw
from leadwise.batch import LEADS
from leadwise.data.simulator.example_files import write_examples
from leadwise.data.simulator.measure import measure_ecg
from leadwise.evaluate import prompt_calibration
from leadwise.evaluate.embed import EmbedError
from leadwise.evaluate.findings import calibrated_tasks
from leadwise.evaluate.prompt_calibration import (
    CalibrationError,
    ClassCalibration,
    PromptSetCalibration,
    prompt_digest,
)
from leadwise.evaluate.prompts import find, load


def test_three_formats_are_read_with_what_was_simulated(tmp_path: Path) -> None:
    examples = write_examples(tmp_path / "one", seed=1)
    ecgs = [lw.read(one.path) for one in examples]
    assert [ecg.format.split()[0] for ecg in ecgs] == ["muse", "hl7_aecg", "wfdb"]
    for ecg in ecgs:
        assert (ecg.rate_hz, ecg.signal.shape, ecg.refusal) == (500, (12, 5000), "")
        assert np.isfinite(ecg.signal).all()
        one, two, three = (ecg.signal[LEADS.index(lead)] for lead in ("I", "II", "III"))
        assert np.abs(three - (two - one)).max() < 0.011  # rounding of each lead to its step
        assert 0.3 < np.abs(ecg.signal).max() < 6
        assert {"age", "sex"} & set(ecg.stated)
    normal, fibrillation, block = (measure_ecg(ecg.signal.T[::1]) for ecg in ecgs)
    assert block.qrs_ms > 120 > normal.qrs_ms
    assert [one.findings[0] for one in examples] == ["sinus rhythm", "atrial fibrillation", "sinus rhythm"]
    again = write_examples(tmp_path / "two", seed=1)
    assert [one.path.read_bytes() for one in examples] == [one.path.read_bytes() for one in again]
    assert fibrillation.rate_bpm > 0


@pytest.mark.parametrize("seed", [2, 3, 4, 5])
def test_other_seeds_have_every_case(seed: int, tmp_path: Path) -> None:
    assert len(write_examples(tmp_path, seed)) == 3


def planted(run: Path, task: str, intercepts: dict[str, float], n_split: int = 100) -> None:
    """Add a calibration to a run that gives each class of a task a fixed probability, whatever the cosine."""
    loaded, prompts = lw.load(run).run, load(find("ptbxl", task))
    classes = list(prompts.names)
    wordings = dict(zip(classes, prompts.for_classes(classes)))
    fitted = {code: ClassCalibration("platt", 0.0, intercepts.get(code, -9.0)) for code in classes[:-1]}
    about = {"task": task, "prompt_set": "rich", "prompt_file": prompts.path.name, "source": "ptbxl", "cohort": "own"}
    one = PromptSetCalibration(
        prompts=prompt_digest(wordings), **about, cohort_fingerprint="0", split="val", window=None, n_records=100,
        n_split=n_split, n_patients=90, classes=fitted, positives=dict.fromkeys(classes, 20),
        without={classes[-1]: "2 positives"},
    )  # fmt: skip
    prompt_calibration.write(loaded, [one])


def test_findings_are_the_most_probable_of_all_tasks_and_each_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with pytest.raises(CalibrationError, match="leadwise calibrate RUN COHORT"):
        lw.load(run).findings(tmp_path)
    planted(run, "super", {"NORM": 1.0, "MI": 0.0})
    planted(run, "sub", {"NORM": 2.0, "IMI": 0.5})
    planted(run, "form", {"STD": 5.0}, n_split=240)  # labels of a part of the recordings: left out
    model = lw.load(run)
    assert list(calibrated_tasks(model.run)) == ["super", "sub"]
    files = [one.path for one in write_examples(tmp_path / "ecgs", seed=1)]
    (tmp_path / "bad.xml").write_text("<RestingECG>")
    table = model.findings(pd.DataFrame({"path": [*files, tmp_path / "bad.xml"]}, index=list("abcd")), top=3)
    assert list(table.loc["a", "class"]) == ["NORM", "IMI", "MI"]
    assert list(table.loc["a", "task"]) == ["sub", "sub", "super"]  # the same finding of two tasks counts once
    np.testing.assert_allclose(table.loc["b", "probability"], 1 / (1 + np.exp([-2, -0.5, 0])))
    assert set(table["share"]) == {0.2}
    assert "d" not in table.index
    assert [one["row"] for one in table.attrs["dropped"]] == ["d"]
    assert table.attrs["calibration"]["sub"]["cohort"] == "own"
    with pytest.raises(EmbedError, match="top=0"):
        model.findings(files, top=0)
