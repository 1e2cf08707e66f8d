"""Orbax checkpoints that are written whole or not at all."""

import contextlib
import gc
import logging
import pathlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from geomem import disk, parallel

_LOG = logging.getLogger(__name__)


class CheckpointError(ValueError):
  """A checkpoint is missing, damaged or of another network."""


class Checkpoints:
  """Checkpoints of pytrees by epoch, in one directory.

  `save` returns once the checkpoint is on disk. A process killed during a save
  leaves no checkpoint of that epoch.
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
        checkpoints; the message lists what is there.
      DiskError: the directory cannot be created.
    """
    self.directory = pathlib.Path(directory).resolve()
    if must_exist:
      _expect_checkpoints(self.directory)
    self._keep = keep
    with disk.explained(self.directory):
      self._checkpointer = self._open()

  def _open(self) -> ocp.training.Checkpointer:
    policies = ocp.training.preservation_policies
    return ocp.training.Checkpointer(
      self.directory,
      save_decision_policy=(
        ocp.training.save_decision_policies.FixedIntervalPolicy(1)
      ),
      preservation_policy=(
        policies.LatestN(self._keep) if self._keep else policies.PreserveAll()
      ),
    )

  @property
  def epochs(self) -> list[int]:
    """The epochs on disk, ascending."""
    return sorted(m.step for m in self._checkpointer.checkpoints)

  def save(self, epoch: int, tree: Any) -> None:
    """Saves a tree; does nothing if the epoch is already saved.

    Raises:
      DiskError: writing fails, as on a full disk; earlier epochs stay intact.
      CheckpointError: a later epoch is already saved.
    """
    if epoch in self.epochs:
      return
    try:
      with _leaving_nothing_behind():
        saved = self._checkpointer.save(int(epoch), tree)
    except Exception as error:  # Orbax and tensorstore define many types.
      with contextlib.suppress(Exception):  # It may raise the same error again.
        self._checkpointer.close()
      self._checkpointer = self._open()
      raise disk.explain(self.directory / str(epoch), error) from error
    if not saved:
      raise CheckpointError(
        f"The checkpoint of epoch {epoch} was not saved in {self.directory}:"
        f" it holds later epochs already ({self.epochs})."
      )

  def load(self, epoch: int, like: Any) -> Any:
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

  def shapes(self, epoch: int) -> Any:
    """Returns the shapes and types of a checkpoint, as a tree for `load`.

    Raises:
      CheckpointError: the epoch is missing or damaged.
    """
    metadata = self._read(
      epoch, lambda: self._checkpointer.metadata(epoch).metadata
    )
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), metadata
    )

  def load_layers(self, epoch: int, like: dict[str, Any]) -> dict[str, Any]:
    """Restores selected entries of a checkpoint; reads no others.

    Args:
      epoch: one of `epochs`.
      like: as in `load`, with the entries to restore only.

    Raises:
      CheckpointError: as in `load`; the message lists the saved layers.
    """
    saved = self._read(
      # The metadata of lost arrays is None.
      epoch,
      lambda: dict(self._checkpointer.metadata(epoch).metadata),
    )
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
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
      return self._load(epoch, like)

  def _load(self, epoch: int, like: Any) -> Any:
    # The sharding is given here, not read from the disk: the checkpoint may
    # come from other devices.
    place = parallel.everywhere()
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=place), like
    )
    return self._read(epoch, lambda: self._checkpointer.load(epoch, abstract))

  def _read(self, epoch: int, read: Callable[[], Any]) -> Any:
    """Calls `read` and converts its errors to `CheckpointError`."""
    if epoch not in self.epochs:
      raise CheckpointError(
        f"There is no checkpoint of epoch {epoch} in {self.directory}; the"
        f" saved epochs are {self.epochs}."
      )
    try:
      with _leaving_nothing_behind():
        return read()
    except Exception as error:
      raise CheckpointError(
        f"The checkpoint of epoch {epoch} in {self.directory} cannot be read:"
        f" it is damaged or of another network ({type(error).__name__}). The"
        f" saved epochs are {self.epochs}. The same config and seed train the"
        " same network again in another directory."
      ) from error

  def load_latest(self, like: Any) -> tuple[int, Any] | None:
    """Loads the newest readable checkpoint; returns None if there is none."""
    for epoch in reversed(self.epochs):
      try:
        return epoch, self.load(epoch, like)
      except CheckpointError as error:
        _LOG.warning("%s Resuming from an earlier one, if there is one.", error)
    return None

  def close(self) -> None:
    """Waits for pending writes and closes the checkpointer."""
    self._checkpointer.close()

  def __enter__(self) -> "Checkpoints":
    return self

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
      f" {', '.join(names) or 'nothing'}."
    )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  """Returns the shape of every leaf by its path."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {
    jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape)
    for path, leaf in leaves
  }
