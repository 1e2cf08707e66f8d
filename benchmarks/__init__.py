"""Benchmarks: our solver and layer analysis beside what else there is."""
