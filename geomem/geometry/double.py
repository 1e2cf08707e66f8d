"""Parts of a program in double precision, whatever JAX's own type is.

JAX lets a traced function hold float64 while its default is float32, but what
transforms that function later does not know of it: derivatives and `vmap` would
mix both types. `in_double` keeps them out. Derivatives are computed in double
precision as well, from the function run once more, and `vmap` maps.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.experimental
import jax.numpy as jnp

# (floats, others) -> (floats, others): trees of arrays.
_Function = Callable[[Any, Any], tuple[Any, Any]]


def _has_double() -> bool:
  """Tells whether the devices know float64.

  On TPUs XLA splits it in two, which it does not know how to do for all that is
  done here.
  """
  return jax.default_backend() != "tpu"


def _double_precision() -> contextlib.AbstractContextManager:
  """Returns a context in which arrays may be float64, where devices know it."""
  if not _has_double():
    return contextlib.nullcontext()
  if hasattr(jax, "enable_x64"):
    return jax.enable_x64(True)
  return jax.experimental.enable_x64(True)  # Before JAX 0.8.


def _one_by_one(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
  """Runs a function in double precision; under `vmap`, one by one."""

  @jax.custom_batching.custom_vmap
  def run(first, second):
    with _double_precision():
      return function(first, second)

  @run.def_vmap
  def mapped(axis_size, in_batched, first, second):
    del axis_size
    arrays, tree = jax.tree.flatten((first, second))
    batched = jax.tree.leaves(in_batched)

    def one(moving):
      moving = iter(moving)
      here = [
        next(moving) if moves else x
        for x, moves in zip(arrays, batched, strict=True)
      ]
      return run(*jax.tree.unflatten(tree, here))

    moving = [x for x, moves in zip(arrays, batched, strict=True) if moves]
    found = jax.lax.map(one, moving)
    return found, jax.tree.map(lambda _: True, found)

  return run


def _like(tree, dtype):
  """Converts what is a float of a tree."""
  return jax.tree.map(
    lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x,
    tree,
  )


def in_double(function: _Function, dtype) -> _Function:
  """Returns a function that computes in float64, and takes and gives `dtype`.

  On TPUs it computes in `dtype` as well. For use under jit, with reverse-mode
  derivatives and `vmap`. What JAX lowers by functions of its own knows no
  float64 there: argmin and argmax, and before JAX 0.8 `x[..., -1]`, frexp,
  ldexp, and integers that do not say their bits.

  Args:
    function: from trees of floats and of other arrays to two such trees. Floats
      among the others, if any, stay what they are and have no derivative.
    dtype: of the floats outside.
  """
  wide = jnp.float64 if _has_double() else dtype

  def doubled(floats, others):
    found, more = function(_like(floats, wide), others)
    return _like(found, dtype), more

  def pull(saved, cotangents):
    floats, others = saved
    _, back, _ = jax.vjp(lambda x: doubled(x, others), floats, has_aux=True)
    return back(cotangents)[0]

  forward, backward = _one_by_one(doubled), _one_by_one(pull)

  @jax.custom_vjp
  def run(floats, others):
    return forward(floats, others)

  run.defvjp(
    lambda floats, others: (forward(floats, others), (floats, others)),
    lambda saved, cotangents: (backward(saved, cotangents[0]), None),
  )
  return run
