"""Forecast distributions, metrics with intervals, calibration: plain arrays, no network."""
