"""Strategies for stepping several seeds of one architecture together."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from geomem import compilation, parallel
from geomem.models import Network, kernels

# On CPU, XLA runs batched matrix products in a loop of its own, which from
# about 64 x 64 on is slower than separate products. For smaller ones dispatch
# dominates, and a batch shares it among the seeds.
_LARGEST_BATCHED_MATRIX = 64 * 64


class Together(NamedTuple):
  """How to stack, unstack and run an epoch of several seeds' networks.

  Attributes:
    pack: stacks a list of states, one for each seed, into the carry.
    unpack: returns the state of the seed at a position from the carry.
    epoch: `(carry, data, batches, keys) -> (carry, losses)`: the labels of
      the data are `[seeds, n]`, batches `[steps, seeds, batch]`, keys
      `[steps, seeds]`, losses `[steps, seeds]`.
  """

  pack: Callable[[list], Any]
  unpack: Callable[[Any, int], Any]
  epoch: Callable


def make_together(
  step: Callable, network: Network, num_seeds: int, form: str | None = None
) -> Together:
  """Makes the strategy for stepping several seeds of a network.

  Args:
    step: the step of one seed.
    network: the network of the step.
    num_seeds: number of seeds.
    form: one of `FORMS`; by default the fastest known one.
  """
  if form is None:
    form = fastest_form(network) if num_seeds > 1 else "one_by_one"
  return FORMS[form](step)


def fastest_form(network: Network) -> str:
  """Returns the form in which several seeds of a network step fastest.

  A single accelerator runs all seeds in one program, by `vmap`; convolutions
  are products there where JAX cannot. So do a CPU and several devices, by
  `vmap`, if every layer is a small dense one. Otherwise seeds step one
  by one: `vmap` turns convolutions into grouped ones and products into batched
  ones. Both are slower on a CPU than one seed after another, and XLA does not
  shard the batch of grouped convolutions over several devices.

  Measured on two cores, milliseconds a step of five seeds of ResNet-18 at batch
  128, k = 4 and 16: one by one 895 and 2,843, unrolled 695 and 2,598, products
  1,246 and 7,771; vmapped 1,151 for k = 4. Unrolled takes as long to compile as
  five networks, and a seed's bits depend on the others, so it is not used.
  """
  if jax.default_backend() != "cpu" and parallel.mesh().size == 1:
    return "vmapped" if can_vmap_convolutions() else "products"
  is_small = all(
    leaf.ndim <= 2 and leaf.size <= _LARGEST_BATCHED_MATRIX
    for leaf in jax.tree.leaves(network.abstract_state)
  )
  return "vmapped" if is_small else "one_by_one"


@functools.cache
def can_vmap_convolutions() -> bool:
  """Tells whether convolutions have gradients under `vmap`: not in JAX 0.7."""

  def total(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME").sum()

  # JAX 0.7 fails for arrays that are placed on a mesh.
  placed = jax.device_put(jnp.ones((2, 1, 1, 1, 1)), parallel.everywhere())
  try:
    jax.eval_shape(jax.vmap(jax.grad(total)), placed, placed)
  except NotImplementedError:
    return False
  return True


def _many_steps(step: Callable) -> Callable:
  """Runs many steps in one call: `epoch(states, data, batches, keys)`.

  Accelerators run one compiled scan. On CPU each step is one dispatch, since
  XLA runs a convolution about 25 times slower inside a loop than outside.
  """
  on_mesh = functools.partial(
    compilation.jit, out_shardings=parallel.everywhere()
  )
  if jax.default_backend() != "cpu":

    @on_mesh
    def scanned(states, data, batches, keys):
      return jax.lax.scan(
        lambda carry, xs: step(carry, data, *xs), states, (batches, keys)
      )

    return scanned

  compiled = on_mesh(step)

  def dispatched(states, data, batches, keys):
    losses = []
    for indices, key in zip(batches, keys, strict=True):
      states, loss = compiled(states, data, indices, key)
      losses.append(loss)
    return states, jnp.stack(losses)

  return dispatched


def _vmapped(step: Callable) -> Together:
  def all_seeds(states, data, indices, keys):
    # Only the labels of the data differ between seeds.
    axes = jax.tree.map(lambda _: None, data)._replace(labels=0)
    return jax.vmap(step, (0, axes, 0, 0))(states, data, indices, keys)

  return Together(
    pack=lambda states: jax.tree.map(lambda *xs: jnp.stack(xs), *states),
    unpack=lambda carry, seed: jax.tree.map(lambda x: x[seed], carry),
    epoch=_many_steps(all_seeds),
  )


def _as_products(step: Callable) -> Together:
  def with_products(*arguments):
    with kernels.products():
      return step(*arguments)

  return _vmapped(with_products)


def _unrolled(step: Callable) -> Together:
  def all_seeds(states, data, indices, keys):
    results = [
      step(state, data._replace(labels=data.labels[i]), indices[i], keys[i])
      for i, state in enumerate(states)
    ]
    states, losses = zip(*results, strict=True)
    return list(states), jnp.stack(losses)

  return Together(list, lambda carry, seed: carry[seed], _many_steps(all_seeds))


def _one_by_one(step: Callable) -> Together:
  run = _many_steps(step)

  def epoch(carry, data, batches, keys):
    results = [
      run(
        states,
        data._replace(labels=data.labels[seed]),
        batches[:, seed],
        keys[:, seed],
      )
      for seed, states in enumerate(carry)
    ]
    states, losses = zip(*results, strict=True)
    return list(states), jnp.stack(losses, axis=1)

  return Together(list, lambda carry, seed: carry[seed], epoch)


# Seeds one after the other; the same in one program; `vmap`, with grouped
# convolutions; and `vmap`, with convolutions as sums of products.
FORMS = {
  "one_by_one": _one_by_one,
  "unrolled": _unrolled,
  "vmapped": _vmapped,
  "products": _as_products,
}
