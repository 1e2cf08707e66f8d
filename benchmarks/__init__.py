"""Benchmarks of our solver and layer analysis against alternatives."""
