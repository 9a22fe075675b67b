"""Reports from ECGs: writers, and the metrics that judge what they write."""
