"""A simulator of 12-lead ECGs: a moving heart vector, seen by twelve leads, recorded by an imperfect machine.

`heart` is the vector model, `beats` the shape of a beat under each finding, `rhythm` when beats come, `findings` the
list of what can be found, `patients` who has what, `acquisition` the machine with its noise, `reports` what the
machine prints, `tracing` one ECG of one patient, `measure` what rules read off a clean signal, and `self_check`
whether that agrees with what was drawn.
"""
