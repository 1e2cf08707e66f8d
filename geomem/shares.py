"""Maps over entries that are sharded over devices or over the cores of a CPU.

An accelerator processes many manifold sets at once. On a CPU the geometry is
many small operations, of which a core runs one at a time: each core gets sets
of its own, and the loops of a set end when that set has converged.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from geomem import parallel

# Manifold sets that an accelerator measures together: an iteration takes as
# long for one set as for this many.
_ENTRIES_A_DEVICE = 32
# Larger entries are mapped one by one: GLUE takes about 30 times their memory.
_MOST_BYTES_A_CORE = 2**25
_SPEC = PartitionSpec(parallel.AXIS)
_T = TypeVar("_T")


def entries_at_once() -> int:
  """Returns how many entries `map_over` needs to keep all devices busy."""
  each = 1 if jax.default_backend() == "cpu" else _ENTRIES_A_DEVICE
  return each * jax.device_count()


def devices_for(entries: Any) -> Mesh:
  """Returns the devices over which `map_over` should distribute entries.

  Args:
    entries: as for `map_over`, before `place`.
  """
  leaves = jax.tree.leaves(entries)
  if sum(leaf.nbytes for leaf in leaves) > len(leaves[0]) * _MOST_BYTES_A_CORE:
    return parallel.mesh()
  return parallel.in_a_row(jax.devices())


def place(entries: _T, devices: Mesh) -> _T:
  """Places entries on the devices for `map_over`.

  The last entry is repeated until their number is a multiple of the devices.
  """
  pad = -len(jax.tree.leaves(entries)[0]) % devices.size
  if pad:
    entries = jax.tree.map(
      lambda x: jnp.concatenate([x, jnp.repeat(x[-1:], pad, axis=0)]), entries
    )
  if devices == parallel.mesh():
    return entries
  return jax.device_put(entries, NamedSharding(devices, _SPEC))


def _map(function: Callable[[_T], Any], entries: _T) -> Any:
  if jax.default_backend() == "cpu":
    return jax.lax.map(function, entries)
  return jax.vmap(function)(entries)


def map_over(function: Callable[[_T], Any], entries: _T, devices: Mesh) -> Any:
  """Maps a function over entries under jit, each device over its own shard.

  An accelerator processes its entries together; a core processes one after the
  other, so that loops end when an entry has converged.

  Args:
    function: takes one entry; it must not communicate between devices.
    entries: a tree of arrays with a common leading axis, as `place` returns.
    devices: from `devices_for` of the entries.
  """
  if devices.size == 1:
    return _map(function, entries)
  mapped = jax.shard_map(
    functools.partial(_map, function),
    mesh=devices,
    in_specs=_SPEC,
    out_specs=_SPEC,
    check_vma=False,
  )
  return mapped(entries)
