"""Parts of a program in double precision, whatever JAX's default type is.

JAX lets a traced function use float64 while the default is float32, but later
transformations of that function do not know of it: derivatives and `vmap` would
mix both types. `in_double` shields the function from them. Its derivatives, the
first in reverse mode, run it once more, in double precision as well, and its
`vmap` is a sequential map.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.experimental
import jax.numpy as jnp

from geomem.geometry.linalg import no_derivative

_ONCE = (
  "GLUE, solve_signed_qp and the products of points that GLUE and CKA take are"
  " differentiable once, in reverse mode (jax.grad, jax.vjp, jax.jacrev); a"
  " second derivative was asked for."
)

# (floats, others) -> (floats, others): trees of arrays.
_Function = Callable[[Any, Any], tuple[Any, Any]]


def _has_double() -> bool:
  # On TPUs XLA splits a float64 into two numbers, which it does not support for
  # all operations that are used here.
  return jax.default_backend() != "tpu"


def _double_precision() -> contextlib.AbstractContextManager:
  """Returns a context that allows float64 arrays, if the devices support it."""
  if not _has_double():
    return contextlib.nullcontext()
  if hasattr(jax, "enable_x64"):
    return jax.enable_x64(True)
  return jax.experimental.enable_x64(True)  # Before JAX 0.8.


def _one_by_one(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
  """Makes a function run in double precision, and sequentially under `vmap`."""

  @jax.custom_batching.sequential_vmap
  def run(first, second):
    with _double_precision():
      return function(first, second)

  return run


def _like(tree, dtype):
  """Converts the floating-point arrays of a tree to a type."""
  return jax.tree.map(
    lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x,
    tree,
  )


def in_double(function: _Function, dtype) -> _Function:
  """Returns a function that computes in float64, with `dtype` outside.

  On TPUs it computes in `dtype` as well. For use under jit, with one derivative
  in reverse mode and `vmap`. Operations that JAX lowers by functions of its own
  do not support float64 inside: argmin and argmax, and before JAX 0.8
  `x[..., -1]`, frexp, ldexp, and integers without an explicit width.

  It maps a tree of floats, of that type outside, and a tree of other arrays to
  two such trees. Floats among the others keep their type, without derivatives.
  """
  wide = jnp.float64 if _has_double() else dtype

  def doubled(floats, others):
    outputs, other_outputs = function(_like(floats, wide), others)
    return _like(outputs, dtype), other_outputs

  def pull(saved, cotangents):
    floats, others = saved
    _, back, _ = jax.vjp(lambda x: doubled(x, others), floats, has_aux=True)
    return back(cotangents)[0]

  double, pull_double = _one_by_one(doubled), _one_by_one(pull)

  def forward(floats, others):
    return double(no_derivative(floats, _ONCE), others)

  def backward(saved, cotangents):
    floats, others = saved
    saved = no_derivative(floats, _ONCE), others
    return pull_double(saved, cotangents[0]), None

  run = jax.custom_vjp(forward)
  run.defvjp(
    lambda floats, others: (forward(floats, others), (floats, others)), backward
  )
  return run
