"""Mean-field geometry of P manifolds, from their Gram statistics.

Each manifold's numbers are averages over anchor points: the points where random
directions touch it.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from geomem.geometry import checks
from geomem.geometry.centers import (
  SharedDirections,
  center_correlation,
  shared_directions,
)
from geomem.geometry.estimators import (
  control_variates,
  dimension_of,
  mean_over_probes,
)
from geomem.geometry.frames import make_frames, relative_grams
from geomem.geometry.linalg import einsum, matmul, one_by_one
from geomem.geometry.points import in_floats
from geomem.geometry.qp.nonnegative import least_force, solve_nonnegative_qp

# Relative rounding error of distances beyond which capacities are off by more
# than their usual error bars: measured.
_MOST_ROUNDING = 1e-3
# Beyond this, nothing is left of the shape.
_ONLY_ROUNDING = 0.01
# The 1 of a point (x, 1) is lost beside ε |x|². Measured on clouds, lines and
# planes of 2 to 50 points in single precision, among the manifolds that count
# as solved: below .03, one in 80 is off by more than its error bar; from .03 to
# .3 one in seven, by at most .8 %; beyond that every third, and from 100, as
# from R = 30,000, all of them, by up to half of the capacity.
_MOST_LOST_BESIDE = 0.3


class Anchors(NamedTuple):
  """Anchor points of one manifold, or of P manifolds, for each probe.

  Attributes:
    force: F = ‖v − t‖², whose mean over the probes is 1/α.
    lam: multipliers of the points.
    anchor: s̃ = Sᵀλ / Σλ without its last coordinate; where no point binds,
      the point that is nearest to binding.
    interior: whether no point binds, v = t.
    residual: violation of the optimality conditions, in units of the probes.
    converged: whether the residual is within rounding.
  """

  force: Float[Array, "... T"]
  lam: Float[Array, "... T M"]
  anchor: Float[Array, "... T D"]
  interior: Bool[Array, "... T"]
  residual: Float[Array, "... T"]
  converged: Bool[Array, "... T"]


def _anchors(frames, probes, kappa, mask) -> Anchors:
  """Computes anchors for `[P, M, D + 1]` frames, `[P, T, D + 1]` probes."""
  G = einsum("pmd,pkd->pmk", frames, frames)
  b = kappa - einsum("ptd,pmd->ptm", probes, frames)
  present = mask[:, None]
  G = jnp.where(present & mask[..., None], G, 0)
  solution = solve_nonnegative_qp(G, jnp.where(present, b, -1))
  lam = solution.lam
  b = jnp.where(present, b, 0)
  force = least_force(G, b, lam)
  total = lam.sum(axis=-1)
  interior = total == 0
  nearest = jnp.where(present, b, -jnp.inf).argmax(axis=-1)
  touching = jax.nn.one_hot(nearest, lam.shape[-1], dtype=lam.dtype)
  safe = jnp.where(interior, 1, total)[..., None]
  weights = jnp.where(interior[..., None], touching, lam / safe)
  anchor = einsum("ptm,pmd->ptd", weights, frames[..., :-1])
  return Anchors(
    force, lam, anchor, interior, solution.residual, solution.converged
  )


@jax.jit
def anchors(
  frame: Shaped[Array | np.ndarray, "M D1"],
  probes: Shaped[Array | np.ndarray, "T D1"],
  kappa: ArrayLike = 0.0,
) -> Anchors:
  """Computes anchor points of one manifold, for given probes.

  v = argmin ½‖v − t‖² subject to S v ≥ κ; F = ‖v − t‖² = λᵀGλ.

  Args:
    frame: S, points in units of the centre norm, the last column ones.
    probes: t, one a row.
    kappa: margin κ.

  Raises:
    ValueError: the shapes do not fit, or the margin is not one real number.

  Source: Chung, Lee and Sompolinsky, Physical Review X 2018, section IV.
  """
  frame, probes = in_floats(frame=frame, probes=probes)
  checks.reals("kappa", kappa)
  if frame.ndim != 2 or probes.shape[1:] != frame.shape[1:]:
    raise ValueError(
      f"The frame and the probes have shapes {frame.shape} and {probes.shape};"
      " [M, D + 1] and [T, D + 1] were expected."
    )
  kappa = jnp.asarray(kappa, frame.dtype)
  mask = jnp.ones((1, len(frame)), bool)
  result = _anchors(frame[None], probes[None], kappa, mask)
  return jax.tree.map(lambda x: x[0], result)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ManifoldGeometry:
  """The geometry of P manifolds; `_stderr` are standard errors over probes.

  A manifold whose centre is at the mean of all points, as in a layer of dead
  units, has no unit of length: its numbers are NaN. So are those of a manifold
  whose points differ by little more than rounding, and those of all manifolds
  where a point is not finite.

  Attributes:
    capacity: α_M of each manifold; infinite where no probe needs a constraint,
      as at margins far below zero. `mean_capacity` is one number for all of
      them, as are `mean_radius` and `mean_dimension`.
    radius: R_M, in units of the centre's norm.
    radius_stderr: by the jackknife; NaN for fewer than three probes.
    dimension: D_M. In single precision, directions in which a manifold varies
      by less than some thousandth of its largest variation are lost in its Gram
      matrix, and D_M is too high, though `converged`: if one feature or point
      is 1,000 times as large as others, by 5%, and up to 50% beyond. Double
      precision is right there.
    center_correlation: ρ, before directions are removed.
    rank: K, how many shared directions were removed.
    center_left: the share of each centre's squared norm that is then left.
    interior: fraction of probes at which no constraint is active.
    converged: whether the numbers of a manifold are reliable: each problem was
      solved to rounding, rounding is small beside what is left of the points
      and of the centre, no point is so far from the centre (R_M of some 1,000
      in single precision) that the centre is lost beside it, the capacity is
      finite, and the directions asked for could be removed; see `complete` of
      `SharedDirections`.
    residual: the largest violation of optimality in a manifold's problems.
    rounding: bound on the relative rounding error of the distances between its
      points: ε times what the removed directions have taken over what is left,
      or ε/8 times a bound on their distance from the first of all points,
      over their spread, as if they were given to ε of that distance. Above
      1e-3, as for R_M of some 3e-5 in single precision, a manifold has not
      converged, and above .01 its numbers are NaN; double precision helps.
  """

  capacity: Float[Array, "*b P"]
  capacity_stderr: Float[Array, "*b P"]
  radius: Float[Array, "*b P"]
  radius_stderr: Float[Array, "*b P"]
  dimension: Float[Array, "*b P"]
  dimension_stderr: Float[Array, "*b P"]
  center_correlation: Float[Array, "*b"]
  rank: Int[Array, "*b"]
  center_left: Float[Array, "*b P"]
  interior: Float[Array, "*b P"]
  converged: Bool[Array, "*b P"]
  residual: Float[Array, "*b P"]
  rounding: Float[Array, "*b P"]

  def __repr__(self) -> str:
    """Shows the means alone; `dataclasses.asdict` gives every number."""
    names = ("capacity", "radius", "dimension")
    given = [getattr(self, name) for name in names]
    if not all(isinstance(x, jax.Array | np.ndarray) for x in given):
      return object.__repr__(self)  # Of a tree with other leaves.
    values = {name: getattr(self, f"mean_{name}") for name in names}
    values |= {"converged": self.converged.mean(axis=-1)}
    if checks.is_traced(values):
      return object.__repr__(self)
    rounded = {k: np.asarray(x, float).round(4) for k, x in values.items()}
    shown = ", ".join(f"{name} {x}" for name, x in rounded.items())
    return f"ManifoldGeometry(means: {shown})"

  @property
  def mean_capacity(self) -> Float[Array, "*b"]:
    """The harmonic mean of the capacities."""
    return 1 / (1 / self.capacity).mean(axis=-1)

  @property
  def mean_capacity_stderr(self) -> Float[Array, "*b"]:
    """Standard error of the harmonic mean over the probes."""
    inverse_stderr = self.capacity_stderr / self.capacity**2
    return self.mean_capacity**2 * _stderr_of_mean(inverse_stderr)

  @property
  def mean_radius(self) -> Float[Array, "*b"]:
    """The plain mean of the radii."""
    return self.radius.mean(axis=-1)

  @property
  def mean_radius_stderr(self) -> Float[Array, "*b"]:
    """Standard error of the mean radius over the probes."""
    return _stderr_of_mean(self.radius_stderr)

  @property
  def mean_dimension(self) -> Float[Array, "*b"]:
    """The plain mean of the dimensions."""
    return self.dimension.mean(axis=-1)

  @property
  def mean_dimension_stderr(self) -> Float[Array, "*b"]:
    """Standard error of the mean dimension over the probes."""
    return _stderr_of_mean(self.dimension_stderr)


def _stderr_of_mean(stderr: Array) -> Array:
  return jnp.sqrt((stderr**2).sum(axis=-1)) / stderr.shape[-1]


def _cosines(a: Array, b: Array) -> Array:
  """Computes cosines of the rows of a and b; 0 for rows of zeros."""
  squares = (a**2).sum(axis=1) * (b**2).sum(axis=1)
  positive = squares > 0
  norm = jnp.sqrt(jnp.where(positive, squares, 1))
  return jnp.where(positive, (a * b).sum(axis=1) / norm, 0)


def _estimates(frame, probes, rank, anchors, kappa, reduce_variance) -> dict:
  """Estimates the geometry of one manifold from its probes.

  1/α_M = ⟨F⟩, R_M² = ⟨‖s̃ − ⟨s̃⟩‖²⟩ and D_M = D ⟨t̂ · ŝ⟩².
  """
  controls = None
  if reduce_variance:
    controls = control_variates(frame, probes, rank, kappa)
  centered = anchors.anchor - anchors.anchor.mean(axis=0, keepdims=True)
  size = (centered**2).sum(axis=1)
  cosine = _cosines(anchors.anchor, probes[:, :-1])
  mean, stderr = mean_over_probes(
    jnp.stack([anchors.force, size, cosine], axis=1), controls
  )
  # About their sample mean, T anchors spread by (T − 1) / T of their variance.
  # The error is the jackknife's, in closed form: sizes about a mean of which
  # they are part vary less than the variance does, and not at all for T = 2.
  count = len(probes)
  square = mean[1] * (count / (count - 1) if count > 1 else jnp.nan)
  square_error = stderr[1] * (count / (count - 2) if count > 2 else jnp.nan)
  positive = ~(square <= 0)
  radius = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)
  dimension, dimension_stderr = dimension_of(rank, mean[2], stderr[2])
  # F cannot be negative; a mean that is, was lost in its control variates.
  force = jnp.where(mean[0] < 0, jnp.nan, mean[0])
  return {
    "capacity": 1 / force,
    "capacity_stderr": stderr[0] / force**2,
    "radius": radius,
    "radius_stderr": square_error / (2 * jnp.where(positive, radius, 1)),
    "dimension": dimension,
    "dimension_stderr": dimension_stderr,
    "interior": anchors.interior.mean(),
    "converged": anchors.converged.all(),
    "residual": anchors.residual.max(),
  }


def _draw_probes(key, frames, num_probes) -> Float[Array, "P T D1"]:
  """Draws normal probes on each frame's span, with one key per manifold."""
  num_manifolds, _, width = frames.points.shape
  shape, dtype = (num_probes, width + 1), frames.points.dtype

  def draw(i):
    return jax.random.normal(jax.random.fold_in(key, i), shape, dtype)

  normal = jax.vmap(draw)(jnp.arange(num_manifolds))
  inside = matmul(normal[..., :-1], frames.projection)
  return jnp.concatenate([inside, normal[..., -1:]], axis=-1)


class _Framed(NamedTuple):
  """Manifolds in their frames, with their probes and properties."""

  S: Float[Array, "P M D1"]
  probes: Float[Array, "P T D1"]
  rank: Float[Array, " P"]
  center_correlation: Float[Array, ""]
  center_left: Float[Array, " P"]
  rounding: Float[Array, " P"]


# Compiled separately: the search depends on P alone, the solver on P, M and T.
# Other points, probes or options recompile only the rest.
@functools.partial(jax.jit, static_argnames="rule")
def _search(key, centers, rule) -> SharedDirections:
  # LAPACK may not terminate on NaN.
  finite = jnp.isfinite(centers).all()
  return shared_directions(key, jnp.where(finite, centers, 0), rule)


@functools.partial(jax.jit, static_argnames=("num_probes", "padded"))
def _framed(key, stats, coefficients, num_probes, padded) -> _Framed:
  relative = relative_grams(stats, coefficients)
  frames = make_frames(relative, stats.mask if padded else None)
  ones = jnp.ones((*frames.points.shape[:2], 1), frames.points.dtype)
  return _Framed(
    jnp.concatenate([frames.points, ones], axis=-1),
    _draw_probes(key, frames, num_probes),
    frames.rank,
    center_correlation(stats.centers),
    relative.center_left,
    relative.rounding,
  )


@jax.jit
def _solve(S, probes, kappa, mask) -> Anchors:
  for_margin = jax.vmap(_anchors, (None, None, 0, None))
  return (_anchors if kappa.ndim == 0 else for_margin)(S, probes, kappa, mask)


@functools.partial(jax.jit, static_argnames="reduce_variance")
def _measured(
  framed, shared, anchors, kappa, reduce_variance
) -> ManifoldGeometry:
  known = framed.rounding < _ONLY_ROUNDING
  squares = (framed.S[..., :-1] ** 2).sum(axis=2).max(axis=1)
  exact = (framed.rounding < _MOST_ROUNDING) & shared.complete
  exact &= jnp.finfo(squares.dtype).eps * squares < _MOST_LOST_BESIDE

  def measure(anchors, kappa):
    estimates = one_by_one(
      lambda *xs: _estimates(*xs, kappa, reduce_variance),
      framed.S,
      framed.probes,
      framed.rank,
      anchors,
    )
    solved = estimates.pop("converged") & exact
    estimates = {
      name: jnp.where(known, x, jnp.nan) for name, x in estimates.items()
    }
    return ManifoldGeometry(
      **estimates,
      converged=solved & jnp.isfinite(estimates["capacity"]),
      center_correlation=jnp.where(
        known.any(), framed.center_correlation, jnp.nan
      ),
      rank=shared.rank,
      center_left=jnp.where(known, framed.center_left, jnp.nan),
      rounding=framed.rounding,
    )

  return (measure if kappa.ndim == 0 else jax.vmap(measure))(anchors, kappa)


def geometry_of(
  key, stats, kappa, *, num_probes, centers, padded, reduce_variance
) -> ManifoldGeometry:
  """Computes `manifold_geometry`, which checks and explains the arguments."""
  # A fixed key: the removed directions do not depend on the probes, so that the
  # error bar over the probes is the whole error.
  # The removed directions are a choice, not a function to differentiate.
  fixed = jax.lax.stop_gradient(stats.centers)
  shared = _search(jax.random.key(0), fixed, rule=centers)
  framed = _framed(key, stats, shared.coefficients, num_probes, padded)
  anchors = _solve(framed.S, framed.probes, kappa, stats.mask)
  return _measured(framed, shared, anchors, kappa, reduce_variance)
