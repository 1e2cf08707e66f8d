"""The geometry of P manifolds: estimates, standard errors and means."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=[
    "capacity",
    "capacity_stderr",
    "radius",
    "radius_stderr",
    "dimension",
    "dimension_stderr",
    "center_correlation",
    "rank",
    "center_left",
    "interior",
    "converged",
    "residual",
    "rounding",
  ],
  meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class ManifoldGeometry:
  """The geometry of P manifolds, with standard errors over the probes.

  A manifold whose centre is at the mean of all points, as in a layer of dead
  units, has no unit of length: its numbers are NaN. So are those of all
  manifolds where a point is not finite.

  Attributes:
    capacity: α_M of each manifold; infinite where no probe needs a constraint,
      as at margins far below zero.
    capacity_stderr: its standard error.
    radius: R_M, in units of the centre's norm.
    radius_stderr: its standard error.
    dimension: D_M.
    dimension_stderr: its standard error.
    center_correlation: ρ, before directions are removed.
    rank: K, how many shared directions were removed.
    center_left: the share of each centre's squared norm that is then left.
    interior: fraction of probes at which no constraint is active.
    converged: whether the numbers of a manifold are reliable: each problem was
      solved to rounding, rounding is small beside what is left of the points
      and of the centre, and the capacity is finite.
    residual: the largest violation of optimality in a manifold's problems.
    rounding: bound on the relative rounding error of the distances between its
      points: ε times what the removed directions have taken over what is left.
      Above 1e-3 a manifold has not converged; double precision helps.
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
