"""Orbax checkpoints that are written whole or not at all."""

import contextlib
import functools
import gc
import logging
import operator
import pathlib
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, SupportsIndex

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from geomem import disk, parallel

_LOG = logging.getLogger(__name__)
# The entry of the checksums in Orbax's metadata of a checkpoint.
_SUMS = "checksums"


class CheckpointError(ValueError):
  """A checkpoint is missing, damaged or of another network."""


class Checkpoints(contextlib.AbstractContextManager):
  """Checkpoints of pytrees by epoch, in one directory.

  `save` returns once the checkpoint is on disk. A process killed during a save
  leaves no checkpoint of that epoch. A checksum of every array is saved, too,
  since the files alone do not tell that a bit of an array has changed.
  """

  def __init__(
    self,
    directory: pathlib.Path | str,
    *,
    keep: int | None = None,
    must_exist: bool = False,
  ):
    """Opens or creates the directory.

    Args:
      directory: the directory of the checkpoints.
      keep: number of the newest checkpoints to keep; all by default.
      must_exist: whether to raise instead of creating the directory.

    Raises:
      CheckpointError: the directory must exist, but is missing or holds no
        checkpoints; the message lists what is there. Or metadata are damaged.
      DiskError: the directory cannot be created.
    """
    self.directory = pathlib.Path(directory).resolve()
    if must_exist:
      _expect_checkpoints(self.directory)
    self._keep = keep
    self._unreadable: list[int] = []
    with disk.explained(self.directory):
      self._checkpointer = self._open()

  def _open(self) -> ocp.training.Checkpointer:
    policies = ocp.training.preservation_policies
    try:
      return ocp.training.Checkpointer(
        self.directory,
        preservation_policy=(
          policies.LatestN(self._keep) if self._keep else policies.PreserveAll()
        ),
      )
    except ValueError as error:
      raise CheckpointError(
        f"A checkpoint in {self.directory} has damaged metadata: {error}"
        " Restore its file _CHECKPOINT_METADATA, or delete this checkpoint."
      ) from error

  @property
  def epochs(self) -> list[int]:
    """The epochs on disk, ascending."""
    return sorted(m.step for m in self._checkpointer.checkpoints)

  def save(
    self, epoch: SupportsIndex, tree: Any, *, replace: bool = False
  ) -> None:
    """Saves a tree; does nothing if the epoch is already saved.

    It first removes what `load_latest` could not read: that would be taken for
    a newer state, and kept instead of this one.

    Args:
      epoch: the epoch.
      tree: the arrays.
      replace: whether to save it in place of a tree that is already saved.

    Raises:
      DiskError: writing fails, as on a full disk; earlier epochs stay intact.
    """
    epoch = operator.index(epoch)  # Orbax refuses NumPy's integers.
    if replace and epoch in self.epochs:
      self._unreadable.append(epoch)
    self._remove_unreadable()
    if epoch in self.epochs:
      return
    sums = {path: disk.checksum(leaf) for path, leaf in _by_path(tree).items()}
    try:
      with _leaving_nothing_behind():
        # Forced, as Orbax saves none before a later one.
        self._checkpointer.save(
          epoch, tree, force=True, custom_metadata={_SUMS: sums}
        )
    except Exception as error:  # Orbax and tensorstore define many types.
      with contextlib.suppress(Exception):  # It may raise the same error again.
        self._checkpointer.close()
      self._checkpointer = self._open()
      raise disk.explain(self.directory / str(epoch), error) from error

  def load(self, epoch: SupportsIndex, like: Any) -> Any:
    """Restores the checkpoint of an epoch.

    Args:
      epoch: one of `epochs`.
      like: a tree of arrays or `jax.ShapeDtypeStruct` with the structure of
        the saved one.

    Raises:
      CheckpointError: the epoch is missing or damaged, or has another structure
        or other shapes.
    """
    return self._load(epoch, like)

  def shapes(self, epoch: SupportsIndex) -> Any:
    """Returns the shapes and types of a checkpoint, as a tree for `load`.

    Raises:
      CheckpointError: the epoch is missing or damaged.
    """
    saved, _ = self._saved(epoch)
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), saved
    )

  def load_layers(
    self, epoch: SupportsIndex, like: dict[str, Any]
  ) -> dict[str, Any]:
    """Restores selected entries of a checkpoint; reads no others.

    Args:
      epoch: one of `epochs`.
      like: as in `load`, with the entries to restore only.

    Raises:
      CheckpointError: as in `load`; the message lists the saved layers.
    """
    saved, _ = self._saved(epoch)
    # Orbax restores entries that were never saved as empty, without an error.
    for name in like:
      if name not in saved:
        raise CheckpointError(
          f"There is no layer {name!r} in the checkpoint of epoch {epoch} in"
          f" {self.directory}; there are {', '.join(saved)}."
        )
      wanted, stored = (_shapes(tree[name]) for tree in (like, saved))
      if wanted != stored:
        raise CheckpointError(
          f"Layer {name!r} of epoch {epoch} in {self.directory} is of another"
          f" network: it has the shapes {stored}, not {wanted}."
        )
    return self._load(epoch, like, partial=True)

  def _saved(
    self, epoch: SupportsIndex
  ) -> tuple[dict[str, Any], dict[str, int] | None]:
    """Reads shapes and types of a checkpoint, and its checksums by path.

    Older checkpoints have none.
    """

    def read(epoch: int):
      metadata = self._checkpointer.metadata(epoch)
      if metadata.init_timestamp_nsecs is None:  # Lost or cut, and so are sums.
        raise ValueError("The metadata cannot be read.")
      sums = (metadata.custom_metadata or {}).get(_SUMS)
      # The entry of lost arrays is None.
      return dict(metadata.metadata), sums

    return self._read(epoch, read)

  def _load(
    self, epoch: SupportsIndex, like: Any, *, partial: bool = False
  ) -> Any:
    saved, sums = self._saved(epoch)
    stored = _by_path(saved)
    # The sharding is given here, not read from the disk: the checkpoint may
    # come from other devices. Arrays are read in the type that they were saved
    # in, to which their checksums belong.
    place = parallel.everywhere()
    abstract = jax.tree_util.tree_map_with_path(
      lambda path, x: jax.ShapeDtypeStruct(
        np.shape(x),
        getattr(stored.get(_name(path)), "dtype", x.dtype),
        sharding=place,
      ),
      like,
    )

    def read(epoch: int) -> Any:
      context = ocp.Context()
      context.pytree.loading.partial_load = partial
      with context:
        return self._checkpointer.load(epoch, abstract)

    tree = self._read(epoch, read)
    for path, leaf in _by_path(tree).items() if sums is not None else ():
      if sums.get(path) != disk.checksum(leaf):
        raise CheckpointError(
          f"The checkpoint of epoch {epoch} in {self.directory} is damaged: the"
          f" numbers of {path} are not those that were saved. {self._advice}"
        )
    return jax.tree.map(lambda x, wanted: x.astype(wanted.dtype), tree, like)

  @property
  def _advice(self) -> str:
    return (
      f"The saved epochs are {self.epochs}. The same config and seed train the"
      " same network again in another directory."
    )

  def _read(self, epoch: SupportsIndex, read: Callable[[int], Any]) -> Any:
    """Calls `read` and converts its errors to `CheckpointError`."""
    epoch = operator.index(epoch)  # Orbax refuses NumPy's integers.
    if epoch not in self.epochs:
      raise CheckpointError(
        f"There is no checkpoint of epoch {epoch} in {self.directory}; the"
        f" saved epochs are {self.epochs}."
      )
    try:
      with _leaving_nothing_behind():
        return read(epoch)
    except (MemoryError, jax.errors.JaxRuntimeError):  # The devices' memory.
      raise
    except Exception as error:  # Damaged files fail in many ways.
      raise CheckpointError(
        f"The checkpoint of epoch {epoch} in {self.directory} cannot be read:"
        f" it is damaged or of another network ({type(error).__name__})."
        f" {self._advice}"
      ) from error

  def load_latest(self, like: Any) -> tuple[int, Any] | None:
    """Loads the newest readable checkpoint; returns None if there is none."""
    latest = None
    for epoch in reversed(self.epochs):
      try:
        latest = epoch, self.load(epoch, like)
        break
      except CheckpointError as error:
        self._unreadable.append(epoch)
        _LOG.warning("%s Resuming from an earlier one, if there is one.", error)
    parallel.check_same({"the epoch to resume from": latest and latest[0]})
    return latest

  def _remove_unreadable(self) -> None:
    # Processes may not have seen the same.
    epochs = parallel.from_first(lambda: self._unreadable)
    if not epochs:
      return
    self._checkpointer.close()
    for epoch in epochs:
      place = self.directory / str(epoch)
      parallel.from_first(functools.partial(shutil.rmtree, place, True))
    self._unreadable = []
    self._checkpointer = self._open()

  def close(self) -> None:
    """Waits for pending writes and closes the checkpointer."""
    self._checkpointer.close()

  def __exit__(self, *_) -> None:
    self.close()


@contextlib.contextmanager
def _leaving_nothing_behind() -> Iterator[None]:
  """Collects the coroutines that Orbax leaves unfinished when it fails.

  Orbax closes its event loop with tasks pending. Collected later, they would
  print warnings in the middle of unrelated work.
  """
  hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
  try:
    with warnings.catch_warnings():
      warnings.filterwarnings("ignore", "coroutine .* was never awaited")
      try:
        yield
      except Exception:
        gc.collect()
        raise
  finally:
    sys.unraisablehook = hook


def _expect_checkpoints(directory: pathlib.Path) -> None:
  """Raises unless the directory has an entry that is named by an epoch."""
  existing = directory
  while not existing.is_dir():
    existing = existing.parent
  names = sorted(path.name for path in existing.iterdir())
  if existing != directory or not any(name.isdigit() for name in names):
    raise CheckpointError(
      f"There are no checkpoints in {directory}; {existing} holds"
      f" {', '.join(names) or 'nothing'}. Give a copy of the run that has its"
      " networks."
    )


def _name(path: tuple) -> str:
  return jax.tree_util.keystr(path, simple=True, separator=".")


def _by_path(tree: Any) -> dict[str, Any]:
  """Returns every leaf by its path."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {_name(path): leaf for path, leaf in leaves}


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  """Returns the shape of every leaf by its path."""
  return {path: tuple(leaf.shape) for path, leaf in _by_path(tree).items()}
