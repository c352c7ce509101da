"""Metrics as `evaluate.Metric` classes, one file each, found by the registry."""
