"""Manifolds whose geometry is known exactly.

Each problem is points `[P, M, N]` with centres of norm one, and the capacity
at κ = 0 that the formulas of the docstrings give.
"""

import numpy as np


def centered_at_one(shape: np.ndarray, num_features: int, seed: int = 0):
  """One manifold: a shape `[M, D]` about a unit centre, in a random frame."""
  rng = np.random.default_rng(seed)
  size = shape.shape[1]
  basis, _ = np.linalg.qr(rng.normal(size=(num_features, size + 1)))
  shape = shape - shape.mean(axis=0)
  return basis[:, 0] + shape @ basis[:, 1:].T


def simplex(num_points: int) -> np.ndarray:
  """A regular simplex of circumradius √(M − 1): the S_i are orthogonal."""
  eye = np.eye(num_points) - 1 / num_points
  basis, _, _ = np.linalg.svd(eye)
  corners = basis[:, :-1]
  return corners * np.sqrt((num_points - 1) / (corners[0] @ corners[0]))


def segment(half_length: float) -> np.ndarray:
  """Two points; 1/α = ½ + (2/π) arctan R."""
  return np.array([[half_length], [-half_length]])


def segment_capacity(half_length: float) -> float:
  """The closed form for a segment at κ = 0."""
  return 1 / (0.5 + 2 / np.pi * np.arctan(half_length))


def families(num_points: int, num_features: int, seed: int = 0) -> dict:
  """Shapes `[M, N]` that solvers meet, easy and hard."""
  rng = np.random.default_rng(seed)
  shape = (num_points, num_features)
  noise = rng.normal(size=shape) / np.sqrt(num_features)
  spectrum = np.arange(1, num_features + 1) ** -0.75
  power = rng.normal(size=shape) * spectrum / np.linalg.norm(spectrum)
  line = np.outer(rng.normal(size=num_points), noise[0])
  return {
    "tight": 0.3 * noise,
    "unit": noise,
    "wide": 10 * noise,
    "power": power,
    "few features": rng.normal(size=(num_points, 5)) / np.sqrt(5),
    "collinear": line,
    "repeated": np.repeat(noise[: (num_points + 1) // 2], 2, 0)[:num_points],
    "near duplicates": noise[:1] + 1e-4 * noise,
  }
