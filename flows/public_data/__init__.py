"""Published data sets: loading, the demo, the benchmarks."""
