"""How good a forecaster is, and whether it may serve: hold-out, gate, scorecard, drift, trial, transfer."""
