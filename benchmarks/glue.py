"""GLUE compared with a loop over SciPy's NNLS, on the same manifolds.

  python -m benchmarks.glue

Each probe of GLUE is one nonnegative least-squares problem over all P·M points;
a straightforward implementation solves these in a loop. Manifolds are spheres
of four dimensions and radius 1, with a little noise in all features; `cloud`
means independent Gaussian points, which most labellings do not separate. Each
capacity has the standard error of its own probes.
"""

import time
from typing import NamedTuple

import jax
import numpy as np
from absl import app, flags, logging
from scipy import optimize

from benchmarks.timing import timed
from geomem import geometry

_NUM_PROBES = 200


class Size(NamedTuple):
  """Size of a problem: P manifolds of M points in N features."""

  shape: str
  num_manifolds: int
  num_points: int
  num_features: int


SIZES = (
  Size("spheres", 10, 50, 200),
  Size("spheres", 16, 100, 512),
  Size("spheres", 16, 150, 300),
  Size("cloud", 16, 100, 512),
)


def draw(size: Size) -> np.ndarray:
  """Samples `[P, M, N]` points."""
  rng = np.random.default_rng(0)
  shape = size[1:]
  noise = rng.normal(size=shape)
  if size.shape == "cloud":
    return noise.astype(np.float32)
  points = geometry.synthetic_manifolds(
    jax.random.key(0),
    size.shape,
    num_manifolds=size.num_manifolds,
    num_points=size.num_points,
    num_features=size.num_features,
    dimension=4,
    radius=1.0,
  )
  return np.asarray(points + 0.01 * noise / shape[2] ** 0.5, np.float32)


def by_nnls(points: np.ndarray, num_probes: int) -> tuple[float, float, float]:
  """Returns seconds per probe, the capacity and its error, in float64."""
  P, M, N = points.shape
  rng = np.random.default_rng(1)
  half = np.repeat([1.0, -1.0], [P // 2, P - P // 2])
  flat = points.reshape(P * M, N).astype(float)
  # The problems are the same in the span of the points, which may be smaller.
  flat = np.linalg.qr(flat.T, mode="r").T
  forces, start = [], time.perf_counter()
  for _ in range(num_probes):
    signs = np.repeat(rng.permutation(half), M)
    target = rng.normal(size=flat.shape[1])
    lam, _ = optimize.nnls((signs[:, None] * flat).T, target)
    forces.append(((signs * lam) @ flat) @ ((signs * lam) @ flat))
  seconds = (time.perf_counter() - start) / num_probes
  mean = np.mean(forces)
  error = np.std(forces, ddof=1) / num_probes**0.5
  return seconds, P / mean, P / mean**2 * error


def main(argv: list[str]) -> None:
  """Prints the table of times and capacities."""
  del argv
  logging.set_verbosity(logging.WARNING)
  print(
    f"{'manifolds':>24} {'NNLS, s':>9} {'first':>7} {'ours, s':>15}"
    f" {'times':>6} {'capacity by NNLS':>20} {'ours':>20}"
  )
  for size in SIZES:
    points = draw(size)
    each, *expected = by_nnls(points, flags.FLAGS.nnls_probes)

    def ours(points=points):
      return geometry.glue(jax.random.key(2), points, num_probes=_NUM_PROBES)

    timing, result = timed(ours, repeats=flags.FLAGS.repeats), ours()
    loop = _NUM_PROBES * each
    unsolved = int((~np.asarray(result.converged)).sum())
    print(
      f"{size.shape:>9} {size.num_manifolds:>2} x {size.num_points:>3} in"
      f" {size.num_features:>3} {loop:>9.2f} {timing.first:>7.2f}"
      f" {timing.median:>7.2f} ± {timing.spread:<5.2f}"
      f" {loop / timing.median:>6.1f}"
      f" {expected[0]:>12.4f} ± {expected[1]:.4f}"
      f" {result.capacity:>12.4f} ± {result.capacity_stderr:.4f}"
      + (f"  {unsolved} probes unsolved" if unsolved else ""),
      flush=True,
    )


if __name__ == "__main__":
  flags.DEFINE_integer(
    "nnls_probes",
    50,
    f"probes of the loop; its time is given for {_NUM_PROBES}",
  )
  flags.DEFINE_integer("repeats", 5, "calls of ours, after the first")
  app.run(main)
