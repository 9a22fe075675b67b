"""Delineation: where P wave, QRS and T wave of each beat begin and end, from all leads of an ECG together."""
