"""Encoders with public weights: one file each, found by the file's name (`catalogue`)."""
