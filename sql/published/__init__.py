"""Reads and writes of canonical data, runs, forecasts and models."""
