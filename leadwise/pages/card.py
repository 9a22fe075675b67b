"""The page of a model card: one offline HTML file, for a person who has to decide what a run is good for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from leadwise.data.loader import Recordings
from leadwise.evaluate.card.card import Card
from leadwise.evaluate.card.disentanglement import Disentanglement, probe_gain
from leadwise.evaluate.card.robustness import Robustness
from leadwise.evaluate.card.subgroups import MIN_LABELS, MIN_RECORDS
from leadwise.evaluate.classifiers import ZERO_SHOT
from leadwise.pages.html import Page
from leadwise.pictures import bars, heat, paper

_KINDS = {
    "leads": "Fewer leads: the others are not observed, neither zero nor worked out from those that are.",
    "rate": "Another rate: from the promised one to it and back, as any file is resampled. Only a lower rate can lose something.",
    "noise": "Noise, by how far the record's own power stands above it (dB).",
    "mistake": "Mistakes at the bedside and in the file.",
}


def page(card: Card) -> Page:
    """The page, ready to be written."""
    made = Page(f"Model card: {card.facts['run']} on {card.cohort.name}")
    made.text(
        "Research use only. Not a medical device. This page shows ECGs of the cohort's test split: it is as confidential as "
        "those are."
    )
    if card.quick:
        made.text(
            "A quick look: no untrained twin, fewer changes on fewer recordings, and probes of the parts fitted on a share "
            "of the training recordings. Without --quick the card is whole."
        )
    for remark in dict.fromkeys(card.remarks):
        made.text(remark)
    _training(made, card)
    _scores(made, card)
    _groups(made, card)
    if card.robustness:
        _robustness(made, card.robustness)
    if card.parts:
        _parts(made, card.parts)
    _maps(made, card)
    return made


def _training(made: Page, card: Card) -> None:
    facts = card.facts
    made.heading("What it was trained on")
    seen, origin = facts["n_people_tested_and_trained_on"], facts["trained_on"]
    tested = facts["n_people_tested"]
    if seen is None:
        made.text("The run does not say whom it learnt from, so a leak into the test split cannot be ruled out.")
    elif seen:
        made.text(f"LEAK: {seen} of the {tested} people of the test split were trained on; scores below are too high.")
    else:
        made.text(f"None of the {tested} people of the test split was trained on.")
    signal, cohort = facts["signal"], facts["cohort"]
    people = facts["n_people_trained_on"]
    from_what = (
        f"{origin['cohort']} (source {origin['source']}, index {origin['fingerprint']})" if origin else "not known"
    )
    rows = {
        "method": facts["method"],
        "weights": facts["weights"],
        "learnt from": from_what,
        "people learnt from": "not known" if people is None else people,
        "steps": f"{facts['steps']} of {facts['batch_size']} recordings, {facts['precision']}",
        "parameters": f"{facts['n_parameters']:,}",
        "signal": f"{', '.join(signal['leads'])}; {signal['rate_hz']} Hz, {signal['duration_s']:g} s, "
        f"scale {signal['normalize']}",
        "judged on": f"{cohort['name']} (source {cohort['source']}, index {cohort['fingerprint']})",
        "its recordings": ", ".join(f"{n} {split}" for split, n in cohort["recordings"].items()),
    }
    made.table([{"what": name, "": str(value)} for name, value in rows.items()], "the run and the cohort")
    made.table([{"module": name, "parameters": f"{n:,}"} for name, n in facts["parameters_of"].items()], "parameters")
    settings = [{"setting": name, "value": repr(value)} for name, value in facts["settings"].items()]
    made.table(settings, "the method's settings")


def _interval(line: dict[str, Any], value: str = "macro", low: str = "low", high: str = "high") -> str:
    """'0.812 (0.790-0.834)'; a dash where there is no value."""
    if line.get(value) is None:
        return "–"
    between = " to " if line[low] < 0 else "–"
    return f"{line[value]:.3f} ({line[low]:.3f}{between}{line[high]:.3f})".replace("-", "−")


def _scores(made: Page, card: Card) -> None:
    made.heading("Scores on the test split")
    if not card.scores:
        made.text("Nothing could be scored.")
        return
    made.text(
        "Macro AUROC with its 95 % interval over patients. Probe: logistic regression on frozen embeddings, all training "
        "labels. Zero-shot: cosine to prompts, no label seen."
    )
    rows, drawn = [], []
    for row in card.scores:
        line = row.line()
        told = {"task": row.task, "how": row.how, "trained": _interval(line)}
        drawn.append({"name": f"{row.task}, {row.how}", "group": "trained", "value": line["macro"], "low": line["low"],
                      "high": line["high"]})  # fmt: skip
        if row.untrained:
            told["untrained"] = _interval(line, "untrained", "untrained_low", "untrained_high")
            told["gain"] = _interval(line, "gain", "gain_low", "gain_high")
            drawn.append({"name": f"{row.task}, {row.how}", "group": "untrained", "value": line["untrained"],
                          "low": line["untrained_low"], "high": line["untrained_high"]})  # fmt: skip
        rows.append({**told, "records": line["records"], "patients": line["patients"], "not scored": line["skipped"]})
    made.table(rows, "macro AUROC")
    worded = [{"task": row.task, **row.prompts} for row in card.scores if row.prompts]
    if worded:
        made.table(worded, "prompts of the zero-shot scores")
    made.figure(bars.draw(drawn, "macro AUROC by task"), "Dashed: guessing.", "dots with intervals by task")


def _groups(made: Page, card: Card) -> None:
    if not any(card.groups.values()):
        return
    made.heading("For whom")
    made.text(
        f"A class counts in a group that has at least {MIN_LABELS} recordings with and without it; a group of fewer than "
        f"{MIN_RECORDS} recordings, or without such a class, is too small to score. A group's mean may be over fewer "
        "classes, so beside it stands that of everybody over the same ones. Compare across a row, not down a column."
    )
    for number, (task, found) in enumerate(card.groups.items()):
        if not found:
            continue
        rows = []
        for group in found:
            line = group.row()
            everybody = group.everybody
            rows.append({
                "by": group.by, "group": group.name, "read by": group.reader, "recordings": group.n_records,
                "patients": group.n_patients, "classes": len(group.classes),
                "macro AUROC": _interval(line) if group.macro is not None else "too small to score",
                "everybody, same classes": "–" if everybody is None else f"{everybody:.3f}",
            })  # fmt: skip
        made.table(rows, f"task {task}")
        drawn = [
            {"name": f"{g.by} {g.name} ({g.n_records})", "group": g.reader, "value": g.macro,
             "low": g.interval[0] if g.interval else None, "high": g.interval[1] if g.interval else None}
            for g in found
        ]  # fmt: skip
        if number == 0:
            figure = bars.draw(drawn, f"macro AUROC by group, task {task}")
            made.figure(figure, "In brackets: recordings.", "dots with intervals by group")


def _robustness(made: Page, found: Robustness) -> None:
    made.heading("What disturbs it")
    left = (
        f"; {found.n_left_out} test recordings without two seconds of every recorded lead are left out"
        if found.n_left_out
        else ""
    )
    without = f" None of them has {', '.join(found.not_recorded)}." if found.not_recorded else ""
    made.text(
        f"The same {found.n_records} test recordings of task {found.task}, drawn at random, after each change{left}."
        f"{without} Probe and prompts stay as they are: only the ECGs to be judged change. Difference: to the unchanged "
        "ECGs, paired."
    )
    lines = found.rows()
    unchanged = [line for line in lines if not line["kind"]]
    for kind, caption in _KINDS.items():
        of_kind = [line for line in lines if line["kind"] == kind]
        if not of_kind:
            continue
        rows = [
            {"change": line["change"], "read by": line["reader"],
             "macro AUROC": "not finite" if line["macro"] is None else _interval(line),
             "difference": "" if line.get("gain") is None else _interval(line, "gain", "gain_low", "gain_high")}
            for line in [*unchanged, *of_kind]
        ]  # fmt: skip
        drawn = [
            {"name": line["change"], "group": line["reader"], "value": line["macro"], "low": line.get("low"),
             "high": line.get("high")}
            for line in [*unchanged, *of_kind]
        ]  # fmt: skip
        made.figure(bars.draw(drawn, f"macro AUROC, {kind}"), caption, f"dots with intervals: {caption}")
        made.table(rows, kind)


def _parts(made: Page, found: Disentanglement) -> None:
    made.heading("Shared and specific")
    if found.apart is None:
        made.text("This run has no specific part, so there is nothing to disentangle; shown are the parts that it has.")
    for sentence in reading(found):
        made.text(sentence)
    rows = [
        {"part": line["part"], "width": line["width"], "effective rank": f"{line['effective rank']:.1f}",
         "probe, macro AUROC": _interval(line)}
        for line in found.rows()
    ]  # fmt: skip
    made.table(rows, f"each part on the {found.n_records} test recordings of task {found.task}")
    drawn = [
        {"name": line["part"], "group": "probe", "value": line["macro"], "low": line["low"], "high": line["high"]}
        for line in found.rows()
    ]
    made.figure(
        bars.draw(drawn, "what a probe reads from each part"), "Dashed: guessing.", "dots with intervals by part"
    )
    if found.apart:
        pair = {"trained": found.apart, "untrained": found.untrained}
        made.table(
            [
                {"weights": name, "mean |cosine|": f"{at.cosine:.4f}", "specific from shared": f"{at.specific_from_shared:.3f}",
                 "shared from specific": f"{at.shared_from_specific:.3f}"}
                for name, at in pair.items() if at
            ],
            "share of variance that a linear map, fitted on the training split, reads of one part from the other on the test "
            "split; untrained: two heads that learnt nothing, on the same encoder",
        )  # fmt: skip
    if found.retrieval:
        made.text(
            "ECG to report: among the distinct reports of the test split, how often does an ECG find its own? Shared is compared "
            "as it was trained. The linear maps lead from an ECG's parts to its report's shared embedding and were fitted on "
            "training recordings; below them, the map of both parts is given one part of another patient."
        )
        rows = []
        for way in found.retrieval:
            told = {
                key: f"{at:.3f}" if isinstance(at, float) and "recall" in key else at for key, at in way.row().items()
            }
            rows.append(told)
        made.table(rows, "recall at k, chance: k / reports")
    if found.reconstruction:
        rows = [{"specific part": name, "error, mV²": f"{at:.5f}"} for name, at in found.reconstruction.items()]
        made.table(rows, "hidden patches drawn by the decoder, which is given both parts")
    elif found.apart is not None:
        made.text(
            "This run's decoder is not given the specific part (specific_task is not 'recon', or there is no decoder in mV), so "
            "exchanging it cannot change a reconstruction; only retrieval by a linear map tells what it holds."
        )


def reading(found: Disentanglement) -> list[str]:
    """What the numbers say, in sentences; nothing is said that they do not show."""
    if found.apart is None:
        return []
    said = [
        f"Shared and specific stand at a mean |cosine| of {found.apart.cosine:.4f} (random vectors of that width: "
        f"{found.apart.by_chance:.3f})."
    ]
    above, (low, high) = probe_gain(found, "shared", "specific")
    if low > 0:
        said.append(f"A probe reads {above:.3f} ({low:.3f} to {high:.3f}) more AUROC from shared than from specific.")
    elif high < 0:
        said.append(
            f"A probe reads {-above:.3f} ({-high:.3f} to {-low:.3f}) more AUROC from specific than from shared."
        )
    else:
        said.append(
            f"A probe reads the labels from specific as well as from shared: the difference is {above:.3f} ({low:.3f} to "
            f"{high:.3f})."
        )
    linear = found.apart.specific_from_shared
    if linear >= 0.5:
        said.append(
            f"A linear map reads {linear:.0%} of the specific part's variance from the shared part: most of it is the same "
            "information, turned to a right angle. The small cosine does not mean that the parts are disentangled."
        )
    else:
        said.append(f"A linear map reads {max(linear, 0.0):.0%} of the specific part's variance from the shared part.")
    if found.untrained:
        said.append(
            f"Two heads that learnt nothing, on the same encoder untrained: {found.untrained.specific_from_shared:.0%}, at a "
            f"mean |cosine| of {found.untrained.cosine:.3f}."
        )
    return said


def _maps(made: Page, card: Card) -> None:
    if not card.maps:
        return
    made.heading("Where it looks")
    one, signal = card.maps[0], card.run.config.signal
    how = "cosine to the class's prompts" if one.reader == ZERO_SHOT else "logit of the probe"
    made.text(
        f"How far the {how} falls when a window of {one.window_s:g} s of one lead is hidden (not observed). Shown are the "
        "classes that are told best, each by the recording of the class with the highest score: good examples by choice, "
        "not a sample. A map is worth reading where hiding its strongest tenth costs clearly more than hiding a random tenth."
    )
    for one in card.maps:
        batch = Recordings(card.cohort, signal, np.array([one.row])).batch([0])
        strongest = float(np.nanmax(one.drop))
        notes = [
            f"{one.unit} {one.score:.3f}; strongest window {strongest:+.4f}; the strongest tenth together "
            f"{one.without_top:+.4f}, a random tenth {one.without_random:+.4f}"
        ]
        figure = paper.draw(
            batch.ecg[0].numpy(), signal.rate_hz, signal.leads, title=f"{one.name}: record {one.record}", notes=notes,
            observed=batch.observed[0].numpy(), heat=one.heat(signal.n_samples, signal.rate_hz),
        )  # fmt: skip
        made.figure(figure, f"{one.name}, record {one.record}. {_lead_words(one.without_lead, signal.leads)}",
                    "ECG on paper grid, coloured where the class is seen")  # fmt: skip
        table = heat.draw(one.drop, one.window_s, signal.leads, one.without_lead, one.name, f"{one.unit} lost")
        made.figure(table, "The same over all leads and the whole time.", "map of leads over time")


def _lead_words(without: Any, leads: Sequence[str]) -> str:
    known = [(float(value), lead) for value, lead in zip(without, leads) if np.isfinite(value)]
    best = sorted(known, reverse=True)[:3]
    return "Hiding a whole lead costs most in " + ", ".join(f"{lead} ({value:+.4f})" for value, lead in best) + "."
