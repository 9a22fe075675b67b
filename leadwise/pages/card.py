"""The HTML page of a model card, one offline file: how a run scores, where it fails, and what it was trained on."""

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
from leadwise.evaluate.shift import ShiftReport, draw_changes, summary
from leadwise.pages.card_heart import add_heart
from leadwise.pages.html import Page
from leadwise.pages.report_examples import ReportExamples, add_examples
from leadwise.pictures import bars, heat, paper

_CHANGES = {  # by kind of change: heading and caption
    "leads": (
        "Fewer leads",
        "The missing leads are marked as not observed; they are neither set to zero nor computed from others.",
    ),
    "rate": (
        "Another sampling rate",
        "The ECG is resampled to it and back to the model's rate, as any file would be. Only a lower rate can lose information.",
    ),
    "noise": (
        "Added noise",
        "The signal-to-noise ratio (dB) is the power of the recording relative to the noise; lower is noisier.",
    ),
    "mistake": ("Mistakes", "Mistakes in the recording or in the file."),
}


def build_page(card: Card, examples: ReportExamples | None = None) -> Page:
    """Return the page of a model card.

    Args:
        examples: written reports beside the references. They are patient data, so the page has none unless they are passed.
    """
    page = Page(f"Model card: {card.facts['run']} on {card.cohort.name}")
    page.text(
        "Research use only. Not a medical device. This page contains ECGs of the cohort's test split. Treat it as "
        "confidentially as those ECGs."
    )
    if card.quick:
        page.text(
            "This is a quick card: it has no untrained model for comparison, fewer changes on fewer recordings, and probes of "
            "the parts trained on a subset of the training recordings. Run the command without --quick for the full card."
        )
    for remark in dict.fromkeys(card.remarks):
        page.text(remark)
    _add_scores(page, card)
    _add_groups(page, card)
    add_heart(page, card.heart, card.cohort)
    if card.robustness:
        _add_robustness(page, card.robustness)
    _add_shifts(page, card.shifts)
    if examples is not None:
        add_examples(page, examples)
    if card.parts:
        _add_parts(page, card.parts)
    _add_maps(page, card)
    _add_training(page, card)
    return page


def _add_leak(page: Page, card: Card) -> None:
    """Add whether the test split was used for training: it decides how the scores are read."""
    facts = card.facts
    is_leak = facts["n_people_tested_and_trained_on"] or facts["n_signals_tested_and_trained_on"]
    sentence = facts["tested_and_trained_on"]
    page.text(f"LEAK: {sentence} The scores below are too high." if is_leak else sentence, "bad" if is_leak else None)


def _add_training(page: Page, card: Card) -> None:
    facts = card.facts
    page.heading("Training")

    # the run, the cohort it is scored on, and its settings
    origin, signal, cohort = facts["trained_on"], facts["signal"], facts["cohort"]
    n_trained = facts["n_people_trained_on"]
    training_cohort = (
        f"{origin['cohort']} (source {origin['source']}, index {origin['fingerprint']})"
        if origin
        else facts["pretraining_data"]
    )
    steps = "unknown"
    if facts["steps"] is not None:
        steps = f"{facts['steps']} of {facts['batch_size']} recordings, {facts['precision']}"
    rows = {
        "method": facts["method"],
        "weights": facts["weights"],
        "training cohort": training_cohort,
        "training patients": "unknown" if n_trained is None else n_trained,
        "steps": steps,
        "parameters": f"{facts['n_parameters']:,}",
        "signal": f"{', '.join(signal['leads'])}; {signal['rate_hz']} Hz, {signal['duration_s']:g} s, "
        f"normalisation {signal['normalize']}",
        "scored on": f"{cohort['name']} (source {cohort['source']}, index {cohort['fingerprint']})",
        "recordings scored on": ", ".join(f"{n} {split}" for split, n in cohort["recordings"].items()),
        **{f"{key} of the data set": text for key, text in cohort.get("about", {}).items()},
    }
    with page.folded("The run and the cohort"):
        page.table([{"property": name, "value": str(value)} for name, value in rows.items()], "the run and the cohort")
    with page.folded("Parameters of each module"):
        page.table([{"module": name, "parameters": f"{n:,}"} for name, n in facts["parameters_of"].items()])
    settings = [{"setting": name, "value": repr(value)} for name, value in facts["settings"].items()]
    with page.folded(f"The method's {len(settings)} settings"):
        page.table(settings)


def _interval(line: dict[str, Any], value: str = "macro", low: str = "low", high: str = "high") -> str:
    """Return a value with its interval, such as '0.812 (0.790–0.834)', or a dash if there is no value."""
    if line.get(value) is None:
        return "–"
    between = " to " if line[low] < 0 else "–"
    return f"{line[value]:.3f} ({line[low]:.3f}{between}{line[high]:.3f})".replace("-", "−")


def _add_scores(page: Page, card: Card) -> None:
    page.heading("Scores on the test split")
    _add_leak(page, card)
    if not card.scores:
        page.text("No task could be scored.")
        return
    page.text(
        "Macro AUROC (0.5: chance, 1: perfect) with its 95 % confidence interval over patients. Probe: a logistic regression on "
        "the frozen embeddings, trained with all training labels. Zero-shot: similarity of the ECG to a written description of "
        "the class, without any labels."
    )
    rows, dots = [], []
    for row in card.scores:
        line = row.line()
        cells = {"task": row.task, "scored by": row.how, "trained": _interval(line)}
        dots.append({"name": f"{row.task}, {row.how}", "group": "trained", "value": line["macro"], "low": line["low"],
                     "high": line["high"]})  # fmt: skip
        if row.untrained:
            cells["untrained"] = _interval(line, "untrained", "untrained_low", "untrained_high")
            cells["gain"] = _interval(line, "gain", "gain_low", "gain_high")
            dots.append({"name": f"{row.task}, {row.how}", "group": "untrained", "value": line["untrained"],
                         "low": line["untrained_low"], "high": line["untrained_high"]})  # fmt: skip
        rows.append(
            {**cells, "recordings": line["records"], "patients": line["patients"], "not scored": line["skipped"]}
        )
    page.table(rows, "macro AUROC")
    prompts = [{"task": row.task, **row.prompts} for row in card.scores if row.prompts]
    if prompts:
        page.table(prompts, "prompts of the zero-shot scores")
    page.figure(bars.draw(dots, "macro AUROC by task"), "Dashed line: chance.", "dots with intervals by task")


def _add_groups(page: Page, card: Card) -> None:
    if not any(card.groups.values()):
        return
    page.heading("Scores by patient group")
    page.text(
        f"A class is scored in a group that has at least {MIN_LABELS} recordings with it and {MIN_LABELS} without it. A "
        f"group with fewer than {MIN_RECORDS} recordings, or without such a class, is too small to score. A group may be "
        "scored on fewer classes than the whole test split, so the last column gives the score of all patients on the same "
        "classes. Compare a group with that column, not with other groups."
    )
    for number, (task, groups) in enumerate(card.groups.items()):
        if not groups:
            continue
        rows = []
        for group in groups:
            line = group.row()
            all_patients = group.all_patients
            rows.append({
                "by": group.by, "group": group.name, "scored by": group.classifier, "recordings": group.n_records,
                "patients": group.n_patients, "classes": len(group.classes),
                "macro AUROC": _interval(line) if group.macro is not None else "too small to score",
                "all patients, same classes": "–" if all_patients is None else f"{all_patients:.3f}",
            })  # fmt: skip
        page.table(rows, f"task {task}")
        dots = [
            {"name": f"{g.by} {g.name} ({g.n_records})", "group": g.classifier, "value": g.macro,
             "low": g.interval[0] if g.interval else None, "high": g.interval[1] if g.interval else None}
            for g in groups
        ]  # fmt: skip
        if number == 0:
            figure = bars.draw(dots, f"macro AUROC by group, task {task}")
            page.figure(figure, "In brackets: number of recordings.", "dots with intervals by group")


def _add_robustness(page: Page, robustness: Robustness) -> None:
    page.heading("Robustness")
    left_out = (
        f" {robustness.n_left_out} test recordings without two seconds of every recorded lead are left out."
        if robustness.n_left_out
        else ""
    )
    missing = f" None of them has {', '.join(robustness.not_recorded)}." if robustness.not_recorded else ""
    page.text(
        f"How the scores change when the ECGs get worse. The same {robustness.n_records} test recordings of task "
        f"{robustness.task}, drawn at random, are scored again after each change.{left_out}{missing} Probe and prompts stay the "
        "same. Difference: changed minus unchanged, on the same recordings."
    )
    lines = robustness.rows()
    unchanged = [line for line in lines if not line["kind"]]
    for kind, (heading, caption) in _CHANGES.items():
        of_kind = [line for line in lines if line["kind"] == kind]
        if not of_kind:
            continue
        rows = [
            {"change": line["change"], "scored by": line["reader"],
             "macro AUROC": "not finite" if line["macro"] is None else _interval(line),
             "difference": "" if line.get("gain") is None else _interval(line, "gain", "gain_low", "gain_high")}
            for line in [*unchanged, *of_kind]
        ]  # fmt: skip
        dots = [
            {"name": line["change"], "group": line["reader"], "value": line["macro"], "low": line.get("low"),
             "high": line.get("high")}
            for line in [*unchanged, *of_kind]
        ]  # fmt: skip
        page.heading(heading, level=3)
        page.figure(bars.draw(dots, f"macro AUROC, {kind}"), caption, f"dots with intervals: {heading}")
        page.table(rows, heading)


def _add_shifts(page: Page, shifts: Sequence[ShiftReport]) -> None:
    """Add the scores of a probe under a shift: changed ECGs, and the ECGs of other cohorts."""
    rows = [row for one in shifts for row in one.rows()]
    if not rows:
        return
    page.heading("Distribution shift")
    changed = [one for one in shifts if one.changes]
    if changed:
        page.text(
            f"Changed ECGs: a probe of task {changed[0].task} is fitted on ECGs as they are, and scored on "
            f"{changed[0].n_changed} test ECGs after each change. The change of a score is relative to the same ECGs without the "
            "change."
        )
    if any(one.data for one in shifts):
        page.text(
            "Other data sets: a probe of the findings that both label sets have is fitted on this cohort and scored on the test "
            "split of the other one. The change is relative to a probe that is fitted on the other data set itself. Untrained "
            "encoder and hand-crafted features are references."
        )
        # a leak first; then what is in common, and the classes without a counterpart
        for pair in (pair for one in shifts for pair in one.data):
            overlap = pair.overlap
            if overlap.remark:
                leak = "LEAK: " if overlap.is_leak else ""
                page.text(f"{leak}{pair.test}: {overlap.remark}", "bad" if overlap.is_leak else None)
    for sentence in dict.fromkeys(sentence for one in shifts for sentence in summary(one)):
        page.text(f"{sentence.rstrip('.')}.")

    # the table, without the share of the labels: all of them are used
    table = [
        {key: value for key, value in row.items() if key != "fraction"} for one in shifts for row in one.short_rows()
    ]
    page.table(table, "AUROC and F1 under a shift, with paired 95 % intervals of the changes over patients")
    figure = draw_changes(rows, "AUROC under a shift minus AUROC without it")
    page.figure(figure, "Dashed line: no change.", "dots with intervals by shift")


def _add_parts(page: Page, parts: Disentanglement) -> None:
    page.heading("Shared and specific parts")
    if parts.overlap is None:
        page.text("This run has no specific part, so the section only lists the parts that it has.")
    else:
        page.text(
            "The embedding has two parts: the shared part is trained to match the report, and the specific part is meant to hold "
            "what only the ECG contains. The measurements below test whether the two are really separate."
        )
    for sentence in interpretation(parts):
        page.text(sentence)

    # a probe of each part
    rows = [
        {"part": line["part"], "width": line["width"], "effective rank": f"{line['effective rank']:.1f}",
         "probe, macro AUROC": _interval(line)}
        for line in parts.rows()
    ]  # fmt: skip
    page.table(rows, f"each part, on the {parts.n_records} test recordings of task {parts.task}")
    dots = [
        {"name": line["part"], "group": "probe", "value": line["macro"], "low": line["low"], "high": line["high"]}
        for line in parts.rows()
    ]
    page.figure(bars.draw(dots, "probe of each part"), "Dashed line: chance.", "dots with intervals by part")

    # how well a linear map predicts one part from the other
    if parts.overlap:
        pair = {"trained": parts.overlap, "untrained": parts.untrained_overlap}
        page.table(
            [
                {"weights": name, "mean |cosine|": f"{at.cosine:.4f}", "specific from shared": f"{at.specific_from_shared:.3f}",
                 "shared from specific": f"{at.shared_from_specific:.3f}"}
                for name, at in pair.items() if at
            ],
            "Share of the variance of one part that a linear map predicts from the other. The map is fitted on the training "
            "split and applied to the test split. Untrained: the same model before any training.",
        )  # fmt: skip

    # facts of the acquisition, read from each part
    page.table(
        [
            {"part": part, **{fact: f"{share:.2f}" for fact, share in shares.items()}}
            for part, shares in parts.acquisition.items()
        ],
        "Share of the variance of facts of the acquisition that a linear map of a part predicts on the test split. Noise: the "
        "spread above 30 Hz between beats; baseline wander: the spread below 0.6 Hz; size: the range of samples (all as log "
        "mV); position of the first beat: where in a beat interval the recording starts. Below 0: worse than the mean.",
    )

    # retrieval of the report from each part
    if parts.retrieval:
        page.text(
            "ECG to report: how often an ECG retrieves its own report among the distinct reports of the test split. The shared "
            "part is compared directly, as in training. The linear maps predict the report's shared embedding from the parts of "
            "the ECG; they are fitted on training recordings. In the last rows, the map of both parts gets one part from another "
            "patient."
        )
        rows = []
        for retrieval in parts.retrieval:
            rows.append({
                key: f"{value:.3f}" if isinstance(value, float) and "recall" in key else value
                for key, value in retrieval.row().items()
            })  # fmt: skip
        page.table(rows, "recall at k; by chance: k / number of reports")

    # reconstruction with the specific part exchanged
    if parts.reconstruction:
        rows = [{"specific part": name, "error, mV²": f"{error:.5f}"} for name, error in parts.reconstruction.items()]
        page.table(rows, "error of the decoder on hidden patches; the decoder gets both parts")
    elif parts.overlap is not None:
        page.text(
            "The decoder of this run does not get the specific part (specific_task is not 'recon', or no decoder in mV), "
            "so exchanging the specific part cannot change a reconstruction; only retrieval by a linear map measures what "
            "the part contains."
        )


def interpretation(parts: Disentanglement) -> list[str]:
    """Return sentences that interpret the measurements of the two parts; empty if the run has no specific part."""
    if parts.overlap is None:
        return []
    sentences = [
        f"The mean |cosine| of the shared and the specific part is {parts.overlap.cosine:.4f} (random vectors of that width: "
        f"{parts.overlap.by_chance:.3f})."
    ]

    # which part predicts the labels better
    gain, (low, high) = probe_gain(parts, "shared", "specific")
    if low > 0:
        sentences.append(
            f"A probe scores {gain:.3f} ({low:.3f} to {high:.3f}) higher AUROC on the shared part than on the specific part."
        )
    elif high < 0:
        sentences.append(
            f"A probe scores {-gain:.3f} ({-high:.3f} to {-low:.3f}) higher AUROC on the specific part than on the shared part."
        )
    else:
        sentences.append(
            "A probe predicts the labels from the specific part as well as from the shared part: the difference in AUROC is "
            f"{gain:.3f} ({low:.3f} to {high:.3f})."
        )

    # how much of the specific part is linearly contained in the shared part
    share = parts.overlap.specific_from_shared
    if share >= 0.5:
        sentences.append(
            f"A linear map predicts {share:.0%} of the specific part's variance from the shared part: most of it is the same "
            "information, rotated to a right angle. The small cosine does not mean that the parts are disentangled."
        )
    else:
        sentences.append(
            f"A linear map predicts {max(share, 0.0):.0%} of the specific part's variance from the shared part."
        )
    if parts.untrained_overlap:
        sentences.append(
            "For comparison, in the untrained model a linear map predicts "
            f"{parts.untrained_overlap.specific_from_shared:.0%}, at a mean |cosine| of {parts.untrained_overlap.cosine:.3f}."
        )
    return sentences


def _add_maps(page: Page, card: Card) -> None:
    if not card.maps:
        return
    page.heading("Important regions of the ECG")
    first, signal = card.maps[0], card.run.config.signal
    score = "cosine to the class's prompts" if first.classifier == ZERO_SHOT else "logit of the probe"
    page.text(
        f"The colour is how far the {score} falls when a window of {first.window_s:g} s of one lead is hidden (marked as not "
        "observed). The maps are of the classes with the best scores, each of the positive recording with the highest score: "
        "they are good examples, not a random sample. A map is reliable only if hiding its strongest tenth lowers the score "
        "clearly more than hiding a random tenth."
    )
    for one in card.maps:
        # the tracing with the colours behind it
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
        page.figure(figure, f"{one.name}, record {one.record}. {_lead_sentence(one.without_lead, signal.leads)}",
                    "ECG on paper grid, coloured where the class depends on it")  # fmt: skip

        # the same values as a plain map
        table = heat.draw(one.drop, one.window_s, signal.leads, one.without_lead, one.name, f"drop of the {one.unit}")
        page.figure(table, "The same values for all leads over the whole time.", "map of leads over time")


def _lead_sentence(drops: Any, leads: Sequence[str]) -> str:
    finite = [(float(value), lead) for value, lead in zip(drops, leads) if np.isfinite(value)]
    largest = sorted(finite, reverse=True)[:3]
    return "Hiding a whole lead costs most in " + ", ".join(f"{lead} ({value:+.4f})" for value, lead in largest) + "."
