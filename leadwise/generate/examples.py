"""Examples of written reports beside the references, for the page of a run. They are patient data."""

from __future__ import annotations

import numpy as np

from leadwise.data import reports
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.embed import embed_cohort, scored_recordings, usable
from leadwise.generate.facts import measure_cohort
from leadwise.generate.folder import TrainedWriter
from leadwise.generate.labeller import label_report
from leadwise.generate.lexicon import lexicon
from leadwise.generate.writer import NOTE, Writer, WriterError, WriterInput
from leadwise.pages.report_examples import Difference, Marked, ReportExample, ReportExamples
from leadwise.progress import Progress
from leadwise.run import Run

N_EXAMPLES = 10
SEED = 0  # of the draw: examples are not chosen by their scores


def report_examples(
    run: Run, cohort: Cohort, writer: Writer, n_examples: int = N_EXAMPLES, progress: Progress | None = None
) -> ReportExamples:
    """Return what a writer writes for test recordings drawn at random, beside their reports.

    Raises:
        WriterError: no test recording has a report, the writer belongs to another run, or it fails.
    """
    # the recordings with a report that the run can embed, and a draw from them
    encoder, split_rows = writer.encoder(run), cohort.rows("test")
    has_report = np.array([bool(reports.clean(text)) for text in cohort.reports.take(split_rows)], dtype=bool)
    rows, _ = usable(encoder, cohort, split_rows[has_report])
    if not len(rows):
        raise WriterError(f"cohort {cohort.name}: no recording of split 'test' has a report; leave out --writer")
    drawn = np.sort(np.random.default_rng(SEED).choice(rows, min(n_examples, len(rows)), replace=False))

    # their reports
    features = embed_cohort(encoder, cohort, writer.part, drawn, progress, run.cache_folder)
    measured = measure_cohort(cohort, drawn, progress) if writer.reads_measurements else None
    given = WriterInput(features, cohort.source, cohort.patients.take(drawn), measured, cohort.checksums(drawn))
    written = writer.write(given, progress)
    references = [reports.clean(text) for text in cohort.reports.take(drawn)]
    examples = [compare(*one) for one in zip(cohort.records.take(drawn), references, written, strict=True)]

    # a writer that was trained on these recordings repeats them
    warnings = []
    if isinstance(writer, TrainedWriter):
        overlap = writer.overlap(scored_recordings(cohort, rows, "test"))
        if overlap.remark:
            warnings.append(f"{'LEAK: ' if overlap.is_leak else ''}The writer: {overlap.remark}")
    return ReportExamples(writer.name, NOTE, len(rows), SEED, examples, warnings)


def compare(record: str, reference: str, written: str) -> ReportExample:
    """Return two reports with the findings in which they differ, by the labeller."""
    expected, actual = label_report(reference).stated(), label_report(written).stated()
    both = expected & actual

    def marked(text: str, missing: Difference) -> list[Marked]:
        """Return the statements of a text; one with a finding that the other text lacks is `missing`."""
        result = []
        for statement in reports.statements(text):
            own = label_report(statement).stated()
            result.append(Marked(statement, missing if own - both else "agrees" if own else ""))
        return result

    def difference(key: str) -> Difference:
        return "agrees" if key in both else "omitted" if key in expected else "invented"

    names = [Marked(one.name, difference(key)) for key, one in lexicon().findings.items() if key in expected | actual]
    return ReportExample(record, marked(reference, "omitted"), marked(written, "invented"), names)
