"""From observations to what a model reads: hourly grid, scaling, windows, labels, splits."""
