"""Simulator of pairs: the 12-lead ECG of a person and short-axis volumes of the same heart at end-diastole and end-systole.

`population` is the linear-Gaussian model from anatomy to ECG features, `bounds` the best that any method can reach from the
ECG under this model, `electrical` the ECG with given features, `geometry` the chambers with given volumes, `voxels` their
images, and `cohort` the folder of files.
"""
