"""Report text: one style for all sources."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadwise.data.reports import (
    clean,
    join_modifiers,
    n_words,
    statements,
)


@pytest.mark.parametrize(
    ("written", "style"),
    [
        ("Normal sinus rhythm; Normal ECG", "normal sinus rhythm. normal ecg."),
        ("*** Sinus rhythm ***", "sinus rhythm."),
        ("== - Sinus rhythm. Borderline EKG - ==", "sinus rhythm. borderline ecg."),
        ("sinusrhythmus normales ekg", "sinusrhythmus normales ecg."),
        ("ST depression 0.5 mm in V5. Abnormal ECG.", "st depression 0.5 mm in v5. abnormal ecg."),
        ("Sinus rhythm\r\n\tleft  axis", "sinus rhythm. left axis."),
        ("*** Sinus rhythm. ***\n\n** Left axis;\n-- Abnormal EKG **", "sinus rhythm. left axis. abnormal ecg."),
        ("T wave abnormality, consider -- ischemia", "t wave abnormality, consider -- ischemia."),
        ("Rhythm;; ; Axis;", "rhythm. axis."),
        ("  \n ", ""),
        ("*-=; -- .", ""),
        ("", ""),
    ],
)
def test_clean(written: str, style: str) -> None:
    assert clean(written) == style


@given(st.text(alphabet="aB k.;*=- \n\t0", max_size=30))
def test_cleaning_twice_changes_nothing_and_statements_say_the_same(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    assert clean("; ".join(statements(text))) == once
    assert once == "" or once.endswith(".")


def test_words_are_counted_without_the_period() -> None:
    assert n_words("Sinus rhythm.") == 2
    assert n_words("*** sinus rhythm ***") == 2
    assert n_words("a b c") == 3
    assert n_words(" ** ") == 0


def test_statements_come_in_order() -> None:
    assert statements("Sinus rhythm; PR 0.21 s. Abnormal ECG") == ["sinus rhythm", "pr 0.21 s", "abnormal ecg"]
    assert statements("Sinus rhythm\nLeft axis deviation") == ["sinus rhythm", "left axis deviation"]


@pytest.mark.parametrize(
    ("printed", "joined"),
    [
        ("Normal sinus rhythm; Normal ECG", "Normal sinus rhythm; Normal ECG"),
        ("Inferior infarct; , age undetermined; Abnormal ECG", "Inferior infarct, age undetermined; Abnormal ECG"),
        (
            "Sinus rhythm; with occasional; premature atrial complexes; and; fusion complexes",
            "Sinus rhythm with occasional premature atrial complexes and fusion complexes",
        ),
        ("LVH; (; Sokolow-Lyon; ,; Cornell Product; )", "LVH (Sokolow-Lyon, Cornell Product)"),
        ("LVH; (; Sokolow-Lyon; Cornell Product; ); Abnormal ECG", "LVH (Sokolow-Lyon, Cornell Product); Abnormal ECG"),
        ("Accelerated; Junctional rhythm", "Accelerated Junctional rhythm"),
        ("ST &; T wave abnormality, consider lateral ischemia", "ST & T wave abnormality, consider lateral ischemia"),
        ("Cannot rule out; Anterior infarct; , age undetermined", "Cannot rule out Anterior infarct, age undetermined"),
        ("** ** ACUTE MI / STEMI ** **; *** Bifascicular block ***", "ACUTE MI / STEMI; Bifascicular block"),
        ("Andersen pattern; Orthodromic rhythm", "Andersen pattern; Orthodromic rhythm"),
        ("", ""),
    ],
)
def test_modifiers_return_to_their_statement(printed: str, joined: str) -> None:
    assert join_modifiers(printed) == joined
