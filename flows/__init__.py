"""Prefect flows and everything around them: settings, clock, command line; the only floor that joins sql and rnn_core."""
