"""Labels ±1 for manifolds: the ensembles for which capacities are measured."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Shaped

from geomem.geometry import checks
from geomem.geometry.arrays import as_array


def _balanced(key, num_labellings, num_manifolds):
  """Draws half of each sign; the sign of an odd one out is random."""
  sign_key, order_key = jax.random.split(key)
  half = num_manifolds // 2
  row = jnp.concatenate([jnp.ones(half), -jnp.ones(num_manifolds - half)])
  rows = jnp.broadcast_to(row, (num_labellings, num_manifolds))
  signs = jax.random.rademacher(sign_key, (num_labellings, 1))
  return signs * jax.random.permutation(
    order_key, rows, axis=1, independent=True
  )


def _independent(key, num_labellings, num_manifolds):
  return jax.random.rademacher(key, (num_labellings, num_manifolds))


def _one_vs_rest(key, num_labellings, num_manifolds):
  """Sets each manifold in turn, in random order, against all others."""
  order = jax.random.permutation(key, num_manifolds)
  chosen = order[jnp.arange(num_labellings) % num_manifolds]
  return 2 * jax.nn.one_hot(chosen, num_manifolds) - 1


# Name -> `(key, T, P) -> [T, P]`.
LABELLINGS = {
  "balanced": _balanced,
  "independent": _independent,
  "one_vs_rest": _one_vs_rest,
}
# A name of `LABELLINGS`, or the sign y* of each manifold.
Labels = str | Shaped[Array | np.ndarray, " P"] | Sequence


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _draw(name, key, num_labellings, num_manifolds):
  drawn = LABELLINGS[name](key, num_labellings, num_manifolds)
  return jnp.asarray(drawn, jnp.result_type(float))


def draw_labels(
  key: Key[Array, ""],
  labels: Labels,
  num_labellings: int,
  num_manifolds: int,
  tilt: float | None = None,
) -> Float[Array, "T P"]:
  """Draws labellings of the manifolds.

  Args:
    key: for the labels.
    labels: a name of `LABELLINGS`, or the signs y* of one labelling.
    num_labellings: T.
    num_manifolds: P.
    tilt: β: draws labellings about y* with probability ∝ exp(β ⟨y, y*⟩),
      independently for each manifold; all are y* by default.

  Raises:
    ValueError: an unknown name, a wrong number of signs, or a tilt without y*;
      signs that are not ±1, or a tilt that is not a number (outside jit; under
      jit such labels are NaN).
  """
  checks.key(key)
  checks.counts(num_labellings=num_labellings, num_manifolds=num_manifolds)
  shape = (num_labellings, num_manifolds)
  if tilt is not None:
    checks.reals("tilt", tilt)
    if not checks.is_traced(tilt) and np.isnan(tilt):
      raise ValueError("tilt is NaN; a number was expected.")
  if isinstance(labels, str):
    _check_name(labels, tilt)
    return _draw(labels, key, *shape)
  given = jnp.broadcast_to(_signs(labels, num_manifolds), shape)
  if tilt is None:
    return given
  agrees = jax.random.bernoulli(key, jax.nn.sigmoid(2.0 * tilt), shape)
  given = jnp.where(jnp.isnan(tilt), jnp.nan, given)
  return jnp.where(agrees, given, -given)


def _check_name(labels: str, tilt) -> None:
  if labels == "pairs":
    raise ValueError(
      "labels 'pairs' has no labellings of all manifolds: glue draws those of"
      f" each pair. Choose one of {', '.join(LABELLINGS)}, or give signs."
    )
  if labels not in LABELLINGS:
    raise ValueError(
      f"labels {labels!r} is not known; choose one of"
      f" {', '.join(LABELLINGS)}, pairs, or give signs."
    )
  if tilt is not None:
    raise ValueError(
      f"tilt={tilt} was given with labels {labels!r}; a tilt needs"
      " one given labelling: give its signs."
    )


def _signs(labels, num_manifolds: int) -> Float[Array, " P"]:
  """Returns the signs of one labelling, after a check."""
  labels = as_array(labels)
  if labels.shape != (num_manifolds,):
    raise ValueError(
      f"labels has shape {labels.shape}; one sign for each of {num_manifolds}"
      " manifolds was expected."
    )
  if not checks.is_traced(labels):
    signs = np.asarray(labels)
    if signs.dtype.kind in "bc" or not np.isin(signs, (-1, 1)).all():
      raise ValueError(
        f"labels has the values {list(dict.fromkeys(signs.tolist()))[:5]};"
        " signs, 1 and -1, were expected."
      )
    labels = signs.astype(np.float64)
  labels = jnp.asarray(labels, jnp.result_type(float))
  return jnp.where(jnp.abs(labels) == 1, labels, jnp.nan)
