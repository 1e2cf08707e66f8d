"""Capacity, radius and dimension of class manifolds."""

import functools
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from geomem.geometry import checks
from geomem.geometry.arrays import as_array
from geomem.geometry.centers import check_centers
from geomem.geometry.frames import center_is_lost
from geomem.geometry.mean_field import ManifoldGeometry, geometry_of
from geomem.geometry.points import Mask, Points
from geomem.geometry.statistics import (
  GramStatistics,
  gram_statistics,
  in_present_types,
)

_MOST_PROBES = 2**16
Margins = (
  float | Float[Array | np.ndarray, "..."] | Sequence[float | Float[Array, ""]]
)
# Thirty-two probes tell the error to 13%, and so the probes that are missing to
# a factor of 1.5, with two standard errors.
_MARGIN = 1.5
# Errors of fewer probes are too uncertain to stop at.
_FEWEST_PROBES = 32
# Where so many probes meet no constraint of a manifold, none may ever do.
_MOST_WITHOUT_ERROR = 512


def manifold_geometry(
  key: Key[Array, ""],
  points: GramStatistics | Points,
  *,
  mask: Mask = None,
  kappa: Margins = 0.0,
  num_probes: int = 300,
  relative_error: float | None = None,
  centers: int | np.integer | str | None = "low_rank",
  padded: bool = False,
  reduce_variance: bool = True,
) -> ManifoldGeometry:
  """Estimates capacity, radius and dimension of P manifolds.

  1/α_M(κ) = ⟨F(t)⟩ over standard normal probes t, with F(t) the squared
  distance from t to the vectors that keep margin κ to all points; R_M and D_M
  are the size and the dimension of the anchor points.

  Args:
    key: for the probes.
    points: `[P, M, N]`, a list of `[M_i, N]`, or their Gram statistics.
    mask: which of the `[P, M]` points are present; all by default.
    kappa: margin, in units of the centre's norm; several share the probes, and
      add a leading axis to every result.
    num_probes: T, probes per manifold.
    relative_error: wanted standard error of the mean capacity, relative to it.
      The number of probes then grows from `num_probes`, or 32 if that is less,
      to at most 65,536; not under jit.
    centers: which shared directions of the centres to remove first:
      `low_rank` chooses their number K, an integer is K, None removes nothing;
      see `shared_directions`.
    padded: whether D_M follows the field's other code where N > M, and counts
      axes without variance: D = M instead of the rank.
    reduce_variance: whether functions of the probes with known means reduce
      the error of the mean, from 48 probes on; unbiased either way.

  Call it outside jit, unless you differentiate it or make it part of a larger
  program: it compiles in four parts, of which other points, probes or options
  recompile only some, and jit makes one of them that takes longer to compile.

  Differentiable in the points and in κ, in both modes and at any order.
  Derivatives hold the removed directions fixed, as combinations of the centres:
  where K > 0 they leave out how the search follows the points, and differences
  of the capacity can be several times as large. With `centers=None` they are
  exact wherever the numbers are smooth. Where points of a manifold coincide, or
  span fewer dimensions than both M − 1 and N, the numbers have kinks, like
  max(x, 0) at 0, and D_M jumps with the rank. Derivatives are then those at
  constant rank, which are exact while such points move together; in other
  directions that of 1/α lies between those of its two sides.

  Returns:
    Arrays with an entry for each manifold, and a leading axis of margins if
    there are several. R_M is in units of the norm of the manifold's centre,
    about the mean of all points; `mean_capacity` is the harmonic mean.

  Raises:
    ValueError: the points are of the wrong shape, or not finite; a mask is
      given with statistics, or these are of several sets; there is
      only one manifold, or one whose centre is at the mean of all points
      (outside jit, where all of these give NaN); an option has the wrong type;
      there are no probes; a margin is not finite in the dtype of the points, or
      there is none; the wanted error is not positive, takes too many probes, or
      has no estimate, as in a layer of dead units.

  Source: Chung, Lee and Sompolinsky, Physical Review X 2018, equations 16, 17,
  28 and 29; Stephenson et al., ICLR 2021.
  """
  checks.key(key)
  if not isinstance(points, GramStatistics):
    points = gram_statistics(points, mask=mask)
  elif mask is not None:
    raise ValueError(
      "A mask was given with Gram statistics, which have their own; give it to"
      " gram_statistics."
    )
  checks.one_set(points.mask)
  points = in_present_types(points)
  options = {"centers": centers, "padded": padded}
  options["reduce_variance"] = reduce_variance
  check_options(points.centers.shape[-1], num_probes=num_probes, **options)
  _check_centers_apart(points)
  kappa = as_margins(kappa, points.within.dtype)
  measure = functools.partial(geometry_of, key, points, kappa, **options)
  if relative_error is None:
    return measure(num_probes=num_probes)
  checks.known(
    "A search for relative_error", relative_error, key, points, kappa
  )
  return _measure_to(relative_error, measure, num_probes)


def check_options(
  num_manifolds: int,
  *,
  num_probes: int = 1,
  centers: int | np.integer | str | None = None,
  padded: bool = False,
  reduce_variance: bool = True,
) -> None:
  """Raises ValueError unless options of `manifold_geometry` fit.

  They are checked before they are static arguments: those equal to others that
  were given before, as 1.0 is to 1, are not looked at again.
  """
  checks.count("num_probes", num_probes)
  check_centers(centers, num_manifolds)
  checks.flag("padded", padded)
  checks.flag("reduce_variance", reduce_variance)


def as_margins(kappa: Margins, dtype) -> Float[Array, "..."]:
  """Returns margins in a dtype; refuses those that are not finite in it."""
  if isinstance(kappa, list | tuple) and checks.is_traced(kappa):
    for x in kappa:
      checks.reals("A margin of kappa", x)
    kappa = jnp.stack([jnp.asarray(x, dtype) for x in kappa])
  checks.reals("kappa", kappa, scalar=False)
  if not checks.is_traced(kappa):
    given = np.asarray(as_array(kappa))
    with np.errstate(over="ignore"):
      kappa = given.astype(dtype)
    if not np.isfinite(kappa).all():
      raise ValueError(
        f"kappa is {given}; finite {dtype} margins were expected."
      )
  if kappa.ndim > 1 or kappa.size == 0:
    raise ValueError(
      f"kappa has shape {kappa.shape}; one margin, or a list of margins, was"
      " expected."
    )
  return jnp.asarray(kappa, dtype)


def _check_centers_apart(stats: GramStatistics) -> None:
  """Raises unless every manifold that is not dead has a centre of its own."""
  if stats.centers.shape[-1] == 1:
    raise ValueError(
      "There is only one manifold, so its centre is the mean of all points and"
      " its radius has no unit. Give at least two manifolds; the second may be"
      " all other points of the same space."
    )
  if checks.is_traced(stats.within):
    return
  # In NumPy, so that it does not become part of a program being traced.
  given = (stats.within, stats.centers, stats.mask)
  within, centers, mask = map(np.asarray, given)
  size = within.trace(axis1=-2, axis2=-1)
  lost = np.flatnonzero(center_is_lost(within, centers, mask) & (size > 0))
  if lost.size:
    raise ValueError(
      f"The centres of manifolds {lost.tolist()} are at the mean of all points"
      " to rounding: their radius has no unit. Check for identical manifolds,"
      " or leave these out."
    )


def _measure_to(relative_error, measure, num_probes) -> ManifoldGeometry:
  """Adds probes until the error is within `relative_error`."""
  checks.reals("relative_error", relative_error)
  if not relative_error > 0:
    raise ValueError(
      f"relative_error={relative_error} was given; a positive number was"
      " expected, such as 0.01."
    )
  num_probes = max(num_probes, _FEWEST_PROBES)
  while True:
    geometry = measure(num_probes=num_probes)
    ratio = float(
      (geometry.mean_capacity_stderr / geometry.mean_capacity).max()
    )
    if ratio <= relative_error:
      return geometry
    dead = bool(jnp.isnan(geometry.capacity).any())
    if math.isfinite(ratio):
      # Powers of two, so that few programs are compiled.
      missing = 2 * (math.log2(ratio) - math.log2(relative_error))
      left = math.log2(_MARGIN * _MOST_PROBES / num_probes)
      possible = num_probes < _MOST_PROBES and missing <= left
      num_probes *= 2 ** max(1, math.ceil(missing))
    elif num_probes < _MOST_WITHOUT_ERROR and not dead:
      possible = True
      num_probes *= 4
    else:
      raise ValueError(
        f"A relative error of {relative_error} cannot be aimed at: {num_probes}"
        " probes give no finite capacity and standard error. Look at the result"
        " without relative_error; a layer of dead units has none, and a margin"
        " far below 0 leaves nothing to separate."
      )
    num_probes = min(num_probes, _MOST_PROBES)
    if not possible:
      raise ValueError(
        f"A relative error of {relative_error} takes more than {_MOST_PROBES}"
        " probes; ask for a larger one."
      )
