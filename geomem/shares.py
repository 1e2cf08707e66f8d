"""Entries shared out: each device, or each core, does its own.

An accelerator does many manifold sets at once. On a processor the geometry is
many small operations, of which a core does one at a time: each core gets sets
of its own, and the loops of a set end when that set is done.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from geomem import parallel

# Manifold sets that an accelerator measures together: their loops' steps take
# as long for one as for so many.
_ENTRIES_A_DEVICE = 32
# Larger entries, of which GLUE takes some 30 times as much, go one by one.
_MOST_BYTES_A_CORE = 2**25
_SPEC = PartitionSpec(parallel.AXIS)
_T = TypeVar("_T")


def entries_at_once() -> int:
  """Returns how many entries `map_over` should get to use all devices."""
  each = 1 if jax.default_backend() == "cpu" else _ENTRIES_A_DEVICE
  return each * jax.device_count()


def devices_for(entries: Any) -> Mesh:
  """Returns the devices that `map_over` is to share entries out to.

  Args:
    entries: as there, before `place`.
  """
  leaves = jax.tree.leaves(entries)
  if sum(leaf.nbytes for leaf in leaves) > len(leaves[0]) * _MOST_BYTES_A_CORE:
    return parallel.mesh()
  return parallel.in_a_row(jax.devices())


def place(entries: _T, devices: Mesh) -> _T:
  """Places entries for `map_over`.

  Where cores get what one device has, the last entry fills up their shares.
  """
  if devices == parallel.mesh():
    return entries
  more = -len(jax.tree.leaves(entries)[0]) % devices.size
  if more:
    entries = jax.tree.map(
      lambda x: jnp.concatenate([x, jnp.repeat(x[-1:], more, axis=0)]), entries
    )
  return jax.device_put(entries, NamedSharding(devices, _SPEC))


def _map(function: Callable[[_T], Any], entries: _T) -> Any:
  if jax.default_backend() == "cpu":
    return jax.lax.map(function, entries)
  return jax.vmap(function)(entries)


def map_over(function: Callable[[_T], Any], entries: _T, devices: Mesh) -> Any:
  """Maps under jit, each device over its share.

  An accelerator does its entries together; a core one after the other, so that
  loops end when an entry is done.

  Args:
    function: of one entry; nothing in it may communicate.
    entries: a tree of arrays with one leading axis; the last entry is done
      more than once where they do not go up in the devices.
    devices: whose shares, `devices_for` them.
  """
  if devices.size == 1:
    return _map(function, entries)
  count = len(jax.tree.leaves(entries)[0])
  index = np.minimum(np.arange(count + -count % devices.size), count - 1)
  mapped = jax.shard_map(
    functools.partial(_map, function),
    mesh=devices,
    in_specs=_SPEC,
    out_specs=_SPEC,
    check_vma=False,
  )
  if len(index) == count:
    return mapped(entries)
  found = mapped(jax.tree.map(lambda x: jnp.take(x, index, axis=0), entries))
  return jax.tree.map(lambda x: x[:count], found)
