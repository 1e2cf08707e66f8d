"""Centres: their correlation, and the directions that they share.

The mean-field theory of independent manifolds ignores that correlated centres
lower the capacity, so the directions that the centres share are projected out
of all points first. Source: Cohen, Chung, Lee and Sompolinsky, Nature
Communications 2020, methods.

The rules for their number K take curves over K = 0, 1, ...: the mean
correlation, the cost, and for `null` the leading eigenvalue of the matrix of
cosines.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from geomem.geometry import checks
from geomem.geometry.center_directions import (
  Remainders,
  mean_correlation,
  search,
  summarize,
)
from geomem.geometry.frames import LOST, center_gram, eigenvalue_rounding
from geomem.geometry.linalg import diagonal, matmul, no_derivative
from geomem.geometry.points import in_floats

_A_SEARCH = (
  "Shared directions come from a search, which has no derivative;"
  " manifold_geometry can be differentiated, and holds them fixed."
)
# Beyond this mean |cos|, no centre has a visible direction of its own.
_ON_ONE_LINE = 0.99


def _max_rank(num_manifolds: int) -> int:
  """Returns the largest K to try, which leaves at least two dimensions."""
  return max(0, num_manifolds - 3)


def _elbow(curves: Remainders, leading):
  """Finds the K farthest below the line between the curve's ends."""
  del leading
  correlations = curves.correlation
  end = jnp.isfinite(correlations).sum() - 1  # K = 0, ..., end were tried.
  share = jnp.arange(len(correlations)) / jnp.maximum(end, 1)
  line = correlations[0] + share * (correlations[end] - correlations[0])
  return (line - correlations).argmax()


def _edge(size: int, root: Array) -> tuple[Array, Array]:
  """Returns where the largest eigenvalue of `size` random cosines lies.

  It is (1 + √(P/n))² give or take (1 + √(P/n))^(4/3) √(P/n) P^(-2/3), for P
  vectors of n random numbers and the `root` √(P/n).

  Source: Johnstone, "On the distribution of the largest eigenvalue in principal
  components analysis", Annals of Statistics 2001.
  """
  return (1 + root) ** 2, (1 + root) ** (4 / 3) * root * size ** (-2 / 3)


def _null(curves: Remainders, leading):
  """Finds the first K at which the centres look independent.

  Cosines of independent centres scatter by 1/√n about zero, which gives the
  edge of their largest eigenvalue. The scatter is estimated at the K of least
  correlation.
  """
  # The cost includes the cosine of each centre with itself.
  size, least = len(leading) + 2, curves.correlation.argmin()
  spread = (2 * curves.cost[least] - size) / (size * (size - 1))
  root = jnp.sqrt(size * jnp.maximum(spread, 0))
  edge, width = _edge(size, root)
  tried = jnp.isfinite(curves.correlation)
  independent = tried & (leading <= edge + 2 * width)
  # If no K looks independent, the one of least correlation is taken.
  return jnp.where(independent.any(), independent.argmax(), least)


# The rules that need the whole curve; the search itself chooses for the others.
_ON_CURVES = {"elbow": _elbow, "null": _null}
RULES = ("low_rank", "argmin", *_ON_CURVES)


def check_centers(
  rule: int | np.integer | str | None, num_manifolds: int
) -> None:
  """Checks a rule, as in `shared_directions`, before centres are computed.

  Raises:
    ValueError: the rule is not known, or K is more than P - 3.
  """
  checks.count("num_manifolds", num_manifolds)
  largest = _max_rank(num_manifolds)
  number = isinstance(rule, int | np.integer) and not isinstance(rule, bool)
  if number and not 0 <= rule <= largest:
    raise ValueError(
      f"centers={rule} directions cannot be removed from {num_manifolds}"
      f" manifolds; at most {largest} can."
    )
  known = isinstance(rule, str) and rule in RULES
  if not (rule is None or number or known):
    raise ValueError(
      f"centers={rule!r} is not known; use {', '.join(map(repr, RULES))}, an"
      " integer or None."
    )


class SharedDirections(NamedTuple):
  """Directions V = C̄ᵀA in the span of the centred centres C̄.

  Attributes:
    coefficients: A, with columns beyond the rank zero.
    rank: K, the number of directions.
    correlations: mean absolute residual correlation by K = 0, 1, ...; infinite
      where K was not tried.
    costs: half the sum of squared residual correlations by K, including the
      diagonal: P / 2 where no correlation is left.
    left: the smallest share of its squared norm that any centre keeps, by K; 0
      where K was not tried.
    span: dimension of the centres' span, up to rounding.
    complete: whether the request could be met; true if none was made. False
      where an integer K is more than the span allows, where rounding hides the
      products of a centre that is less than some √ε of the longest, or where
      the remainders of four or more centres lie on one line, for instance
      because they share a direction so strongly that its rounding hides all
      others.
  """

  coefficients: Float[Array, "P K"]
  rank: Int[Array, ""]
  correlations: Float[Array, " ranks"]
  costs: Float[Array, " ranks"]
  left: Float[Array, " ranks"]
  span: Int[Array, ""]
  complete: Bool[Array, ""]


def _norms(gram: Array) -> tuple[Array, Array]:
  """Returns the norms of the centres, and which of them exceed rounding."""
  squares = jnp.diagonal(gram)
  present = squares > 4 * jnp.finfo(gram.dtype).eps * squares.max()
  return jnp.sqrt(jnp.where(present, squares, 1)), present


def _some_are_hidden(centers: Array, gram: Array) -> Bool[Array, ""]:
  """Tells whether a centre has a length of its own, but unknown cosines.

  Rounding takes the products of centres that are much shorter than the longest.
  Those without a length are told by `center_is_lost`.
  """
  squares = jnp.diagonal(centers)
  return (~_norms(gram)[1] & (squares > _least_square(centers))).any()


def _least_square(centers: Array) -> Array:
  """Returns the squared norm below which a centre is lost, as in frames."""
  eps = jnp.finfo(centers.dtype).eps
  return (LOST * eps) ** 2 * jnp.diagonal(centers).max()


def _cosines(gram: Array) -> Array:
  norms, present = _norms(gram)
  both = present[:, None] & present[None]
  return jnp.where(both, gram / (norms[:, None] * norms[None]), 0)


def center_correlation(centers: Float[Array, "P P"]) -> Float[Array, ""]:
  """Returns ρ, the mean absolute cosine of different centres about their mean.

  It is 0 for a single manifold, and 1 for two. It is NaN if a product is not
  finite, and where rounding has taken the products of a centre: if all centres
  coincide, or one is less than some √ε of the longest.

  Raises:
    ValueError: the products do not have shape `[P, P]`.
  """
  centers = _square(centers)
  gram = center_gram(centers)
  known = jnp.isfinite(centers).all()
  if len(centers) > 1:
    known &= _norms(gram)[1].all()
    known &= diagonal(gram).max() > _least_square(centers)
  return jnp.where(known, mean_correlation(_cosines(gram)), jnp.nan)


def _square(centers: Array) -> Array:
  """Returns the products of centres as floats; refuses what is not square."""
  shape = getattr(centers, "shape", ())
  if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
    what = f"of shape {shape}" if shape else type(centers).__name__
    raise ValueError(
      f"The centres are {what}; their Gram matrix [P, P] was expected, as in"
      " gram_statistics(points).centers."
    )
  checks.reals("The Gram matrix of the centres", centers, scalar=False)
  return in_floats(centers=centers)[0]


class _Axes(NamedTuple):
  """Unit centres, the rows of X, in axes of their span of dimension `rank`.

  Columns of X outside the span are zero, and so are norms of centres that do
  not exceed rounding. `to_coefficients` maps directions in these axes to A.
  """

  X: Float[Array, "P P"]
  to_coefficients: Float[Array, "P P"]
  norms: Float[Array, " P"]
  rank: Int[Array, ""]


def _axes(gram: Array) -> _Axes:
  """Returns unit centres with the cosines of the Gram matrix.

  Axes that may be due to rounding are dropped. The cosines are factorized, not
  the products, so that long centres do not hide the directions of short ones.
  """
  norms, present = _norms(gram)
  cosines = _cosines(gram)
  values, vectors = jnp.linalg.eigh(cosines)
  real = values > eigenvalue_rounding(len(gram), values[-1])
  roots = jnp.sqrt(jnp.where(real, values, 1))
  X = jnp.where(real[None], vectors * roots[None], 0)
  X = jnp.where(present[:, None], X, 0)
  inverse = jnp.where(real[None], vectors / roots[None], 0)
  inverse = jnp.where(present, 1 / norms, 0)[:, None] * inverse
  return _Axes(X, inverse, jnp.where(present, norms, 0), real.sum())


def _num_allowed(gram: Array, rank: Array) -> Array:
  """Bounds K: 10 more than 95 % of the variance takes, and the rank less two.

  The first bound is customary in the field.
  """
  values = jnp.maximum(jnp.linalg.eigvalsh(gram), 0)[::-1]
  total = values.sum()
  share = jnp.cumsum(values) / jnp.where(total > 0, total, 1)
  return jnp.maximum(jnp.minimum((share < 0.95).sum() + 11, rank - 2), 0)


def num_chains(num_manifolds: int) -> int:
  """Returns the default number of chains of the search.

  Few centres have few minima, and for many centres few chains suffice.
  Measured in every family of centres that was tried: costs within .3 % of the
  lowest of thirty long descents from random directions for P from 8 to 20, and
  within .5 % for P up to 100; with 12 chains, 2 % for P = 20 and 30.
  """
  P = num_manifolds
  return min(P, max(3, 360 // P, 16_000 // P**2))


def shared_directions(
  key: Key[Array, ""],
  centers: Float[Array, "P P"],
  rule: int | np.integer | str | None = "low_rank",
  *,
  num_starts: int | None = None,
  select: str = "cost",
) -> SharedDirections:
  """Finds the directions that the centres share.

  For each K the directions minimise half the sum of squared correlations
  between the centres' remainders, from several starts. K goes up to 10 more
  than 95 % of the centres' variance takes, as long as two dimensions of their
  span are left; from K = 5 on, three rises of the mean correlation in a row end
  the search.

  Args:
    key: for the third of the starts that are random directions; the others
      are principal axes of the centres.
    centers: Gram matrix of the centres.
    rule: `low_rank`, or `argmin`, takes the K, 0 included, of least mean
      absolute residual correlation; `elbow` the K where the curve bends;
      `null` the first K at which independent centres would be as correlated;
      an integer is K, at most what the span of the centres allows; None is 0.
    num_starts: number of chains of directions; `num_chains(P)` by default.
    select: `stability` takes the start that leaves most of the centre that
      loses most; `cost` takes the start of least cost, including a penalty of
      less than .2 % on what centres lose.

  Raises:
    ValueError: the rule or `select` is not known, K is too large for P,
      `num_starts` is not positive, or the centres are not `[P, P]`, or not
      finite (outside jit).
  """
  checks.key(key)
  centers = _square(centers)
  size = centers.shape[0]
  check_centers(rule, size)
  if isinstance(rule, np.integer):
    rule = int(rule)
  if num_starts is not None:
    checks.count("num_starts", num_starts)
  known = not checks.is_traced(centers)
  if known and not np.isfinite(np.asarray(centers)).all():
    raise ValueError("The products of the centres are not finite.")
  if select not in ("cost", "stability"):
    raise ValueError(
      f"select={select!r} is not known; use 'cost' or 'stability'."
    )
  gram = center_gram(no_derivative(centers, _A_SEARCH))
  axes = _axes(gram)
  if rule is None:
    rule = 0
  largest = rule if isinstance(rule, int) else _max_rank(size)
  if largest == 0:
    return _none_shared(gram, axes)
  run = functools.partial(
    search,
    key,
    axes.X,
    axes.norms,
    largest=largest,
    num_chains=num_starts or num_chains(size),
    stable=select == "stability",
    with_leading=rule == "null",
  )
  found = _found(rule, run, gram, axes)
  hidden = _some_are_hidden(centers, gram)
  return found._replace(complete=found.complete & ~hidden)


def _without_removal(cosines: Array) -> Remainders:
  """Returns the start of the curves, K = 0."""
  cost = 0.5 * (cosines**2).sum()
  ones = jnp.ones((1,), cosines.dtype)
  return Remainders(mean_correlation(cosines)[None], cost[None], ones)


def _none_shared(gram: Array, axes: _Axes) -> SharedDirections:
  return SharedDirections(
    jnp.zeros((len(gram), 1), gram.dtype),
    jnp.int32(0),
    *_without_removal(_cosines(gram)),
    axes.rank.astype(jnp.int32),
    jnp.bool_(True),
  )


def _found(rule: int | str, run, gram: Array, axes: _Axes) -> SharedDirections:
  """Chooses K by the rule and its directions; summarizes what they leave.

  `run` searches with given `allowed` and `keep`; see `center_directions`.
  """
  fixed = isinstance(rule, int)
  if fixed:
    result = run(jnp.clip(axes.rank - 2, 0, rule), keep="last")
  else:
    result = run(_num_allowed(gram, axes.rank))
  cosines = _cosines(gram)
  curves = jax.tree.map(
    lambda *x: jnp.concatenate(x), _without_removal(cosines), result.curves
  )
  rank, V = result.rank, result.V
  if rule in _ON_CURVES:
    leading = None
    if rule == "null":
      start = jnp.linalg.eigvalsh(cosines)[-1:]
      leading = jnp.concatenate([start, result.leading])
    rank = _ON_CURVES[rule](curves, leading).astype(jnp.int32)
    # The search is repeated up to this K.
    V = run(rank, keep="last").V
  elif not fixed:
    fewer = curves.correlation[rank] < curves.correlation[0]
    rank = jnp.where(fewer, rank, 0)
  V = jnp.where(rank > 0, V, 0)
  # The curves of a search that is repeated are from before.
  _, polished = summarize(V, axes.X, axes.norms > 0)
  curves = jax.tree.map(lambda c, x: c.at[rank].set(x), curves, polished)
  complete = curves.correlation[rank] < _ON_ONE_LINE
  if fixed:
    complete &= rank == rule
  coefficients = matmul(axes.to_coefficients, V)
  span = axes.rank.astype(jnp.int32)
  return SharedDirections(coefficients, rank, *curves, span, complete)
