"""Gradients of unpermuted and permuted examples, split by their labels."""

from geomem.studies.gradients.study import GradientConfig, Gradients

__all__ = ["GradientConfig", "Gradients"]
