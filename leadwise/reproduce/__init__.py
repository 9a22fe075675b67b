"""The tables and figures of CG-DMER's paper: train, score and compare."""
