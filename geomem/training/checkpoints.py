"""Checkpoints through Orbax: what is saved is whole, or not there."""

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
  """Pytrees of arrays by epoch, below one directory.

  A save is on disk when it returns, and a process killed in the middle of it
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
      directory: where.
      keep: how many of the newest are kept; all by default.
      must_exist: refuses to create it.

    Raises:
      CheckpointError: it must exist, and does not or is empty; it names what
        is there.
      DiskError: it cannot be created.
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
    """Epochs on disk, in order."""
    return sorted(m.step for m in self._checkpointer.checkpoints)

  def save(self, epoch: int, tree: Any) -> None:
    """Saves; an epoch that is there already is left as it is.

    Raises:
      DiskError: the disk is full, or the like; earlier epochs are whole.
      CheckpointError: there are later epochs.
    """
    if epoch in self.epochs:
      return
    try:
      with _leaving_nothing_behind():
        saved = self._checkpointer.save(int(epoch), tree)
    except Exception as error:  # Orbax and tensorstore have many of their own.
      with contextlib.suppress(Exception):  # The same error, once more.
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
      CheckpointError: the epoch is not there, is damaged, or has another
        structure or other shapes.
    """
    return self._load(epoch, like)

  def shapes(self, epoch: int) -> Any:
    """Returns the tree of a checkpoint as `load` takes it, without its values.

    Raises:
      CheckpointError: the epoch is not there, or is damaged.
    """
    found = self._read(
      epoch, lambda: self._checkpointer.metadata(epoch).metadata
    )
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), found
    )

  def load_layers(self, epoch: int, like: dict[str, Any]) -> dict[str, Any]:
    """Restores some entries of a checkpoint; the others are not read.

    Args:
      epoch: one of `epochs`.
      like: as in `load`, with the entries that are wanted.

    Raises:
      CheckpointError: as in `load`; it names the layers that are there.
    """
    saved = self._read(
      # Of arrays that are lost the metadata is None.
      epoch,
      lambda: dict(self._checkpointer.metadata(epoch).metadata),
    )
    # Orbax gives back entries that were never saved, filled with nothing.
    for name in like:
      if name not in saved:
        raise CheckpointError(
          f"There is no layer {name!r} in the checkpoint of epoch {epoch} in"
          f" {self.directory}; there are {', '.join(saved)}."
        )
      wanted, found = (_shapes(tree[name]) for tree in (like, saved))
      if wanted != found:
        raise CheckpointError(
          f"Layer {name!r} of epoch {epoch} in {self.directory} is of another"
          f" network: it has the shapes {found}, not {wanted}."
        )
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
      return self._load(epoch, like)

  def _load(self, epoch: int, like: Any) -> Any:
    # Where the arrays shall live is said here, not read from the disk: the
    # checkpoint may come from other devices.
    place = parallel.everywhere()
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=place), like
    )
    return self._read(epoch, lambda: self._checkpointer.load(epoch, abstract))

  def _read(self, epoch: int, read: Callable[[], Any]) -> Any:
    """Calls `read`, and turns its errors into sentences."""
    if epoch not in self.epochs:
      raise CheckpointError(
        f"There is no checkpoint of epoch {epoch} in {self.directory}; there"
        f" are those of epochs {self.epochs}."
      )
    try:
      with _leaving_nothing_behind():
        return read()
    except Exception as error:
      raise CheckpointError(
        f"The checkpoint of epoch {epoch} in {self.directory} cannot be read:"
        f" it is damaged or of another network ({type(error).__name__}). There"
        f" are those of epochs {self.epochs}. The same config and seed train"
        " the same network again in another directory."
      ) from error

  def load_latest(self, like: Any) -> tuple[int, Any] | None:
    """Loads the newest checkpoint that can be read, if any."""
    for epoch in reversed(self.epochs):
      try:
        return epoch, self.load(epoch, like)
      except CheckpointError as error:
        _LOG.warning("%s Going on from an earlier one, if there is.", error)
    return None

  def close(self) -> None:
    """Waits for what is being written."""
    self._checkpointer.close()

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *_) -> None:
    self.close()


@contextlib.contextmanager
def _leaving_nothing_behind() -> Iterator[None]:
  """Collects the coroutines that a failure of Orbax leaves unfinished.

  It closes its event loop with tasks in it. Collected at some later time, they
  would complain in the middle of something else.
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
  """Raises unless the directory holds a number, that of an epoch."""
  here = directory
  while not here.is_dir():
    here = here.parent
  names = sorted(path.name for path in here.iterdir())
  if here != directory or not any(name.isdigit() for name in names):
    raise CheckpointError(
      f"There are no checkpoints in {directory}; {here} holds"
      f" {', '.join(names) or 'nothing'}."
    )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  """Returns the shape of every leaf, by its path."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {
    jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape)
    for path, leaf in leaves
  }
