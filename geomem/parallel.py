"""The mesh: one axis with all devices of all processes, and arrays on it.

Programs are written for global arrays and compiled once for the mesh: the
sharding of the arrays determines what each device does. Every process runs the
same program on the same values; only the first writes. With one device, the
mesh is that device.

A CPU counts as one device, whose cores share each large operation. Many small
operations leave all cores but one idle; `geomem.shares` distributes those over
the cores.
"""

import contextlib
import functools
import json
import os
import pickle
import re
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "devices"
# More cores than this would hardly have enough work.
_MOST_CORES = 16
# What the libraries that connect processes call themselves in their errors.
_LOST = re.compile("Gloo|NCCL|coordination ?service", re.IGNORECASE)
_T = TypeVar("_T")


def start(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  *,
  automatic: bool = False,
) -> None:
  """Joins the processes of several hosts, before any device is used.

  Args:
    coordinator_address: `host:port` of process 0, the same everywhere.
    num_processes: number of processes.
    process_id: index of this process, from 0.
    automatic: whether the cluster (Cloud TPU, Slurm, MPI) provides all three.

  Raises:
    ValueError: only some of the three are given, one is invalid, or no cluster
      is found.
  """
  given = (coordinator_address, num_processes, process_id)
  if all(value is None for value in given):
    if not automatic:
      _use_cores()
      return
    try:
      _initialize()
    except (ValueError, RuntimeError) as error:
      raise ValueError(
        f"--distributed found no cluster to join ({error}); give"
        " --coordinator_address, --num_processes and --process_id."
      ) from error
    return
  if (
    any(value is None for value in given)
    or not re.fullmatch(r".+:[0-9]+", coordinator_address)
    or not 0 <= process_id < num_processes
  ):
    raise ValueError(
      f"coordinator_address={coordinator_address}, num_processes="
      f"{num_processes}, process_id={process_id} were given; several processes"
      " need all three: HOST:PORT, their number, and an index below it, from 0;"
      " or --distributed if the cluster provides them."
    )
  _initialize(*given)


def _initialize(*given) -> None:
  # JAX's service would take SIGTERM from us, and the work would not stop. Old
  # versions have no such option.
  with contextlib.suppress(AttributeError):
    jax.config.update("jax_enable_preemption_service", False)
  jax.distributed.initialize(*given)


# Not empty if the devices are the cores of one CPU.
_CORES: list[bool] = []


def _use_cores() -> None:
  """Makes each core a device, unless the user sets the number of devices."""
  is_set = jax.config.jax_num_cpu_devices >= 0
  if is_set or "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
    return
  count = os.cpu_count() or 1
  if hasattr(os, "sched_getaffinity"):
    count = len(os.sched_getaffinity(0))
  # If a device has been used before, JAX keeps the existing devices.
  with contextlib.suppress(RuntimeError):
    jax.config.update("jax_num_cpu_devices", min(count, _MOST_CORES))
    _CORES.append(True)


@functools.cache
def mesh() -> Mesh:
  """Returns a one-axis mesh of all devices, or of only one of a CPU's cores."""
  one = bool(_CORES) and jax.default_backend() == "cpu"
  return in_a_row(jax.devices()[:1] if one else jax.devices())


def in_a_row(devices) -> Mesh:
  """Returns a one-axis mesh of the given devices."""
  auto = (jax.sharding.AxisType.Auto,)
  return jax.make_mesh(
    (len(devices),), (AXIS,), axis_types=auto, devices=devices
  )


def is_first() -> bool:
  """Returns whether this process is the one that writes."""
  return jax.process_index() == 0


def describe(batch_size: int) -> str:
  """Describes devices, mesh and global batch in one line."""
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
  """Returns the sharding that replicates an array on every device."""
  return NamedSharding(mesh(), PartitionSpec())


def along(axis: int) -> NamedSharding:
  """Returns the sharding along one axis, which must not be negative."""
  return NamedSharding(mesh(), PartitionSpec(*[None] * axis, AXIS))


def _place(array, sharding: NamedSharding) -> jax.Array:
  if jax.process_count() == 1:
    # Array-likes such as streamed images are converted to arrays.
    held = array if isinstance(array, jax.Array) else np.asarray(array)
    return jax.device_put(held, sharding)

  def piece(index):
    # Each process reads only the rows of its own devices.
    rows = np.asarray(array[index[0]] if index else array)
    return rows[(slice(None), *index[1:])] if index else rows

  return jax.make_array_from_callback(array.shape, sharding, piece)


def replicate(tree: Any) -> Any:
  """Replicates every array of a tree on every device."""
  return jax.tree.map(lambda x: _place(x, everywhere()), tree)


def missing(count: int) -> int:
  """Returns how many padding entries give all devices equal shards."""
  return -count % mesh().size


def shard(array) -> jax.Array:
  """Shards the first axis of an array over the devices, padded with zeros."""
  padding = missing(len(array))
  if padding:
    widths = [(0, padding)] + [(0, 0)] * (array.ndim - 1)
    array = np.pad(np.asarray(array), widths)
  return _place(array, along(0))


def share(array: jax.Array) -> jax.Array:
  """Shards the first axis, of any length, under jit.

  XLA pads the axis, and leaves the padding out of every sum.
  """
  if mesh().size == 1:
    return array
  return jax.lax.with_sharding_constraint(array, along(0))


@functools.cache
def _gather():
  return jax.jit(lambda array: array, out_shardings=everywhere())


def gather(array: jax.Array) -> jax.Array:
  """Replicates an array of any sharding on every device."""
  return _gather()(array)


def fetch(tree: Any) -> Any:
  """Fetches global arrays to the host in every process, waiting only once."""
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
  """Wraps a function that mixes no examples to run on each device's shard.

  Examples are along the first axis of one argument, and `axis` of the result.
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


# Not empty while the first process calls a function of `from_first`.
_ALONE: list[bool] = []


def _message_of(error: Exception) -> bytes:
  """Returns an error for all processes; its text alone if it cannot be sent."""
  try:
    message = pickle.dumps((None, error))
    pickle.loads(message)
  except Exception:
    named = RuntimeError(f"{type(error).__name__}: {error}")
    message = pickle.dumps((None, named))
  return message


def from_first(function: Callable[[], _T]) -> _T:
  """Calls a function in the first process; returns or raises in all.

  A nested call, in which the others take no part, only calls its function.
  """
  if jax.process_count() == 1 or _ALONE:
    return function()
  message, own = b"", None
  if is_first():
    _ALONE.append(True)
    try:
      message = pickle.dumps((function(), None))
    except Exception as error:  # All processes must raise it.
      message, own = _message_of(error), error
    finally:
      _ALONE.pop()
  value, error = pickle.loads(_broadcast(message))
  if error is not None:
    raise own or error
  return value


def _broadcast(message: bytes) -> bytes:
  """Returns the first process's bytes."""
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
  # Padded to powers of two, so that few programs are compiled.
  padded = np.zeros(1 << (size - 1).bit_length(), np.uint8)
  padded[: len(message)] = np.frombuffer(message, np.uint8)
  return bytes(multihost_utils.broadcast_one_to_all(padded)[:size])


def wait(name: str) -> None:
  """Blocks until every process has reached this call."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def check_same(values: dict[str, Any]) -> None:
  """Checks that every process has the same values, of JSON types.

  Raises:
    ValueError: in all of them; names a process, and what it has otherwise.
  """
  if jax.process_count() == 1:
    return
  names = from_first(lambda: list(values))
  texts = (json.dumps(values.get(name), sort_keys=True) for name in names)
  sums = np.array([zlib.crc32(text.encode()) for text in texts], np.uint32)
  gathered = multihost_utils.process_allgather(sums)
  different = np.argwhere(gathered != gathered[0])
  if len(different):
    process, index = different[0]
    raise ValueError(
      f"Process {process} has another {names[index]} than process 0. Give all"
      " of them the same flags but for --process_id, the same data, the same"
      " versions, and directories on a disk that they share."
    )


def has_lost_another(error: BaseException | None) -> bool:
  """Returns whether an error, or its cause, is that another process is gone."""
  if error is None:
    return False
  # In this order, as counting processes starts the devices.
  if _LOST.search(str(error)) and jax.process_count() > 1:
    return True
  return has_lost_another(error.__cause__ or error.__context__)
