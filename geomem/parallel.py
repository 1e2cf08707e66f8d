"""The mesh: all devices of all processes in one row, and arrays on it.

Programs are written for whole arrays, and compiled once for the mesh: what a
device does follows from where the arrays lie. Every process runs the same
program on the same values; only the first writes. With one device all of this
comes down to that device.

A processor counts as one device, whose cores share a large operation. What is
many small ones leaves all cores but one idle: `geomem.shares` gives it to each
core by itself.
"""

import contextlib
import functools
import os
import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "devices"
# Beyond so many there is hardly work for all.
_MOST_CORES = 16
_T = TypeVar("_T")


def start(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  *,
  automatic: bool = False,
) -> None:
  """Joins the processes of several hosts, before anything touches a device.

  Args:
    coordinator_address: `host:port` of process 0, the same everywhere.
    num_processes: how many there are.
    process_id: which of them this one is, from 0.
    automatic: whether the cluster (Cloud TPU, Slurm, MPI) says all that.

  Raises:
    ValueError: only some of it is given, or no cluster is found.
  """
  given = (coordinator_address, num_processes, process_id)
  if all(value is None for value in given):
    if automatic:
      _start_automatically()
    else:
      _use_cores()
    return
  if any(value is None for value in given):
    raise ValueError(
      f"coordinator_address={coordinator_address}, num_processes="
      f"{num_processes}, process_id={process_id} were given; several processes"
      " need all three, or --distributed where the cluster knows them."
    )
  jax.distributed.initialize(*given)


def _start_automatically() -> None:
  try:
    jax.distributed.initialize()
  except (ValueError, RuntimeError) as error:
    raise ValueError(
      f"--distributed found no cluster to join ({error}); give"
      " --coordinator_address, --num_processes and --process_id."
    ) from error


# Whether devices are the cores of one processor: not empty if so.
_CORES: list[bool] = []


def _use_cores() -> None:
  """Makes a device of each core, unless the user says how many there are."""
  told = jax.config.jax_num_cpu_devices >= 0
  if told or "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
    return
  count = os.cpu_count() or 1
  if hasattr(os, "sched_getaffinity"):
    count = len(os.sched_getaffinity(0))
  # Whoever has touched a device before keeps those that there are.
  with contextlib.suppress(RuntimeError):
    jax.config.update("jax_num_cpu_devices", min(count, _MOST_CORES))
    _CORES.append(True)


@functools.cache
def mesh() -> Mesh:
  """Returns the devices as a mesh of one axis; of a processor's cores one."""
  one = bool(_CORES) and jax.default_backend() == "cpu"
  return in_a_row(jax.devices()[:1] if one else jax.devices())


def in_a_row(devices) -> Mesh:
  """Returns a mesh of one axis of some devices."""
  auto = (jax.sharding.AxisType.Auto,)
  return jax.make_mesh(
    (len(devices),), (AXIS,), axis_types=auto, devices=devices
  )


def is_first() -> bool:
  """Tells whether this process is the one that writes."""
  return jax.process_index() == 0


def describe(batch_size: int) -> str:
  """Devices, mesh and global batch in one line."""
  count, processes = mesh().size, jax.process_count()
  kind = jax.devices()[0].device_kind
  if count < jax.device_count():
    kind += f", manifold sets shared out to {jax.device_count()} cores"
  return (
    f"{count} device{'s' * (count > 1)} ({kind}) of {processes}"
    f" process{'es' * (processes > 1)}, mesh {AXIS}={count}, batches of"
    f" {batch_size} examples, {-(-batch_size // count)} a device"
  )


def everywhere() -> NamedSharding:
  """Returns the sharding that copies to every device."""
  return NamedSharding(mesh(), PartitionSpec())


def along(axis: int) -> NamedSharding:
  """Returns the sharding of one axis, counted from the front."""
  return NamedSharding(mesh(), PartitionSpec(*[None] * axis, AXIS))


def _place(array, sharding: NamedSharding) -> jax.Array:
  if jax.process_count() == 1:
    # What only can become an array, such as streamed images, becomes one here.
    held = array if isinstance(array, jax.Array) else np.asarray(array)
    return jax.device_put(held, sharding)

  def piece(index):
    # Each process reads what its own devices take, and nothing else.
    rows = np.asarray(array[index[0]] if index else array)
    return rows[(slice(None), *index[1:])] if index else rows

  return jax.make_array_from_callback(array.shape, sharding, piece)


def replicate(tree: Any) -> Any:
  """Copies every array to every device."""
  return jax.tree.map(lambda x: _place(x, everywhere()), tree)


def missing(count: int) -> int:
  """Counts the entries that pad `count` to equal shares."""
  return -count % mesh().size


def shard(array, axis: int = 0) -> jax.Array:
  """Shards an axis of an array over the devices, padded with zeros."""
  more = missing(array.shape[axis])
  if more:
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, more)
    array = np.pad(np.asarray(array), widths)
  return _place(array, along(axis))


def share(array: jax.Array) -> jax.Array:
  """Shards the first axis, of whatever length, under jit.

  XLA fills it up and leaves out of every sum what it filled in.
  """
  if mesh().size == 1:
    return array
  return jax.lax.with_sharding_constraint(array, along(0))


@functools.cache
def _gather():
  return jax.jit(lambda array: array, out_shardings=everywhere())


def gather(array: jax.Array) -> jax.Array:
  """Copies an array, however it is shared out, to every device."""
  return _gather()(array)


def fetch(tree: Any) -> Any:
  """Returns whole arrays on the host, in every process; one wait for all."""
  return jax.device_get(
    jax.tree.map(
      lambda x: (
        x if x.is_fully_addressable or x.is_fully_replicated else gather(x)
      ),
      tree,
    )
  )


def by_examples(
  function: Callable[..., jax.Array], argument: int, axis: int
) -> Callable[..., jax.Array]:
  """Runs a function that mixes no examples on every device's own ones.

  They are along the first axis of one argument, and along `axis` of the result.
  """

  def run(*arguments):
    if mesh().size == 1:
      return function(*arguments)
    specs = [PartitionSpec()] * len(arguments)
    specs[argument] = PartitionSpec(AXIS)
    return jax.shard_map(
      function,
      mesh=mesh(),
      in_specs=tuple(specs),
      out_specs=PartitionSpec(*[None] * axis, AXIS),
      check_vma=False,
    )(*arguments)

  return run


def from_first(function: Callable[[], _T]) -> _T:
  """Calls in the first process, and returns or raises in all of them."""
  if jax.process_count() == 1:
    return function()
  message = b""
  if is_first():
    try:
      message = pickle.dumps((function(), None))
    except Exception as error:  # Whatever it is, all must stop by it.
      message = pickle.dumps((None, error))
  value, error = pickle.loads(_broadcast(message))
  if error is not None:
    raise error
  return value


def _broadcast(message: bytes) -> bytes:
  """Returns the first process's bytes."""
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
  # Powers of two, so that few programs are compiled.
  padded = np.zeros(1 << (size - 1).bit_length(), np.uint8)
  padded[: len(message)] = np.frombuffer(message, np.uint8)
  return bytes(multihost_utils.broadcast_one_to_all(padded)[:size])


def wait(name: str) -> None:
  """Blocks until every process has reached this call."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)
