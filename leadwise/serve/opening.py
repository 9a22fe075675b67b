"""Open what a server answers with: the run, and the cohort with its embeddings."""

from __future__ import annotations

from leadwise.data.cohort.cohort import Cohort
from leadwise.model import load
from leadwise.progress import Progress
from leadwise.serve.answers import ModelAnswers
from leadwise.serve.bank import Bank
from leadwise.serve.settings import ServeSettings


def open_answers(settings: ServeSettings, progress: Progress | None = None) -> ModelAnswers:
    """Return the model and the cohort of a server, warmed up.

    Raises:
        HubError: there is no such run.
        CohortError: the folder is no cohort.
        EmbedError: the run can embed no recording of the cohort.
    """
    cohort = None if settings.cohort is None else Cohort.open(settings.cohort)
    model = load(settings.run)
    bank = None if cohort is None else Bank(model.run, cohort, progress)
    answers = ModelAnswers(model, bank)
    answers.warm_up()
    return answers
