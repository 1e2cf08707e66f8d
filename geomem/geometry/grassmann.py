"""Minimisation over K-dimensional subspaces, for many starts in lock-step.

A subspace, a point of the Grassmannian, is given by an orthonormal basis V
`[n, K]`: the objective must not change when V rotates within its span. A step
follows a quasi-Newton direction d from V to the orthonormal basis of V + t d,
and is shortened if it does not lower the objective enough. Each iteration is
one evaluation, accepted or not, so that lanes never wait for one another's line
search.

Sources: Nocedal and Wright, Numerical Optimization, 2006, algorithm 7.4 (the
two-loop recursion); Absil, Mahony and Sepulchre, Optimization Algorithms on
Matrix Manifolds, 2008, section 4.1 (retraction and transport by projection).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from geomem.geometry.linalg import matmul, repeat_until_done

# More pairs do not help, because the metric holds most of the curvature.
_NUM_PAIRS = 2
_SUFFICIENT = 1e-4
_SHORTER = 0.4
# A basis that moves further than this in one step is nearly degenerate.
_LONGEST_STEP = 1.5


class Evaluation(NamedTuple):
  """Value and derivatives of the objective at V.

  Attributes:
    value: the objective, which is minimised.
    gradient: tangent to the Grassmannian, Vᵀ gradient = 0.
    metric: a positive definite `[K, K]` with gradient · metric⁻¹ close to a
      Newton step; it rotates with V.
  """

  value: Float[Array, ""]
  gradient: Float[Array, "n K"]
  metric: Float[Array, "K K"]


class _Lane(NamedTuple):
  V: Float[Array, "n K"]
  value: Float[Array, ""]
  gradient: Float[Array, "n K"]
  inverse: Float[Array, "K K"]
  steps: Float[Array, "pairs n K"]
  changes: Float[Array, "pairs n K"]
  direction: Float[Array, "n K"]
  slope: Float[Array, ""]
  rate: Float[Array, ""]
  done: Bool[Array, ""]


def _inner(a: Array, b: Array) -> Array:
  return (a * b).sum()


def _tangent(V: Array, x: Array) -> Array:
  return x - matmul(V, matmul(V.T, x))


def _factor(gram: Array, absent: Array) -> Array:
  """Computes the Cholesky factor, with 1 on the diagonal of absent columns."""
  eye = jnp.eye(len(gram), dtype=gram.dtype)
  return jax.lax.linalg.cholesky(
    gram + absent[None] * eye, symmetrize_input=False
  )


def orthonormalize(
  W: Float[Array, "n K"], absent: Bool[Array, " K"]
) -> Float[Array, "n K"]:
  """Returns an orthonormal basis of W's span, near W if W nearly is one.

  Columns of W are independent, or zero where absent.
  """
  return jax.lax.linalg.triangular_solve(
    _factor(matmul(W.T, W), absent),
    W,
    left_side=False,
    lower=True,
    transpose_a=True,
  )


def _inverse(metric: Array, absent: Array) -> Array:
  eye = jnp.eye(len(metric), dtype=metric.dtype)
  count = jnp.maximum((~absent).sum(), 1)
  ridge = 10 * jnp.finfo(metric.dtype).eps * jnp.trace(metric) / count
  factor = _factor(metric + ridge * eye, absent)
  return jax.scipy.linalg.cho_solve((factor, True), eye)


def _quasi_newton(V, gradient, inverse, steps, changes) -> Array:
  """Computes the L-BFGS direction from pairs that are sorted latest first."""
  products = [_inner(s, y) for s, y in zip(steps, changes, strict=True)]
  valid = [product > 0 for product in products]
  weights = [
    jnp.where(ok, 1 / jnp.where(ok, product, 1), 0)
    for ok, product in zip(valid, products, strict=True)
  ]
  q, factors = gradient, []
  for s, y, weight in zip(steps, changes, weights, strict=True):
    factors.append(weight * _inner(s, q))
    q = q - factors[-1] * y
  curvature = _inner(changes[0], matmul(changes[0], inverse))
  q = matmul(q, inverse)
  # Without a pair the metric alone sets the length, so the step is cautious.
  length = jnp.sqrt(_inner(q, q))
  cautious = jnp.minimum(0.25, 0.5 / jnp.maximum(length, 1e-30))
  scale = products[0] / jnp.where(valid[0], curvature, 1)
  q = q * jnp.where(valid[0], scale, cautious)
  backwards = zip(
    steps[::-1], changes[::-1], weights[::-1], factors[::-1], strict=True
  )
  for s, y, weight, factor in backwards:
    q = q + (factor - weight * _inner(y, q)) * s
  return -_tangent(V, q)


def _aimed(lane: _Lane, tolerance: float) -> _Lane:
  """Gives the lane a new direction, or ends it if its gain is too small."""
  direction = _quasi_newton(
    lane.V, lane.gradient, lane.inverse, lane.steps, lane.changes
  )
  slope = _inner(lane.gradient, direction)
  downhill = slope < 0
  steepest = -matmul(lane.gradient, lane.inverse) * 0.1
  direction = jnp.where(downhill, direction, steepest)
  slope = jnp.where(downhill, slope, _inner(lane.gradient, direction))
  length = jnp.sqrt(_inner(direction, direction))
  # A Newton step would gain −slope / 2.
  small_gain = -slope <= tolerance * jnp.abs(lane.value)
  return lane._replace(
    direction=direction,
    slope=slope,
    rate=jnp.minimum(1.0, _LONGEST_STEP / jnp.maximum(length, 1e-30)),
    done=lane.done | (small_gain & (lane.steps[0] != 0).any()) | ~(slope < 0),
  )


def _iterate(evaluate, absent, tolerance, lane: _Lane) -> _Lane:
  """Evaluates the objective once, and accepts or shortens the step."""
  eps = jnp.finfo(lane.V.dtype).eps
  V = orthonormalize(lane.V + lane.rate * lane.direction, absent)
  value, gradient, metric = evaluate(V)
  limit = lane.value + _SUFFICIENT * lane.rate * lane.slope
  accepted = value <= limit + 4 * eps * jnp.abs(lane.value)
  step = _tangent(V, lane.rate * lane.direction)
  change = gradient - _tangent(V, lane.gradient)
  moved = lane._replace(
    V=V,
    value=value,
    gradient=gradient,
    inverse=_inverse(metric, absent),
    steps=jnp.concatenate([step[None], lane.steps[:-1]]),
    changes=jnp.concatenate([change[None], lane.changes[:-1]]),
  )
  moved = _aimed(moved, tolerance)
  rate = lane.rate * _SHORTER
  shorter = lane._replace(rate=rate, done=lane.done | (rate < 1e-6))
  return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), moved, shorter)


def minimize(
  evaluate: Callable[[Array], Evaluation],
  V: Float[Array, "n K"],
  absent: Bool[Array, " K"],
  *,
  tolerance: float,
  max_evaluations: int | Int[Array, ""],
) -> Float[Array, "n K"]:
  """Descends from V to a local minimum over subspaces; the value never rises.

  Args:
    evaluate: the objective at an orthonormal basis; zero columns add nothing.
    V: orthonormal columns, zero where absent.
    absent: which columns to ignore, so that one program serves many K.
    tolerance: the relative gain of a further step below which the descent ends.
    max_evaluations: maximum number of evaluations of the objective.
  """
  # The first step has length zero: it evaluates at V and is always accepted.
  zeros, pairs = jnp.zeros_like(V), jnp.zeros((_NUM_PAIRS, *V.shape), V.dtype)
  zero = jnp.zeros((), V.dtype)
  lane = _Lane(
    V,
    zero + jnp.inf,
    zeros,
    jnp.zeros((V.shape[1],) * 2, V.dtype),
    pairs,
    pairs,
    zeros,
    zero,
    zero + 1,
    jnp.bool_(False),
  )

  return repeat_until_done(
    lambda lane: ~lane.done,
    functools.partial(_iterate, evaluate, absent, tolerance),
    lane,
    max_evaluations,
  ).V
