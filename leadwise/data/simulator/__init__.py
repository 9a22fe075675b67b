"""Simulator of 12-lead ECGs: a heart vector over time, its projection on twelve leads, and an imperfect recorder.

`heart` is the vector model, `beats` the shape of a beat under each finding, `rhythm` the times of the beats, `findings`
the list of findings, `patients` who has which findings, `acquisition` the recorder with its noise, `reports` the text of
the report, `tracing` one ECG of one patient, `measure` rule-based measurements on a clean signal, and `self_check` the
comparison of these measurements with the labels.
"""
