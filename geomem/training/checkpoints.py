"""Checkpoints through Orbax: what is saved is whole, or not there."""

import logging
import pathlib
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

_LOG = logging.getLogger(__name__)


class CheckpointError(ValueError):
  """A checkpoint is missing, damaged or of another network."""


class Checkpoints:
  """Pytrees of arrays by epoch, below one directory.

  A save is on disk when it returns, and a process killed in the middle of it
  leaves no checkpoint of that epoch.
  """

  def __init__(self, directory: pathlib.Path | str, *, keep: int | None = None):
    """Opens or creates the directory; `keep` newest are kept, or all."""
    self.directory = pathlib.Path(directory).resolve()
    policies = ocp.training.preservation_policies
    self._checkpointer = ocp.training.Checkpointer(
      self.directory,
      save_decision_policy=(
        ocp.training.save_decision_policies.FixedIntervalPolicy(1)
      ),
      preservation_policy=(
        policies.LatestN(keep) if keep else policies.PreserveAll()
      ),
    )

  @property
  def epochs(self) -> list[int]:
    """Epochs on disk, in order."""
    return sorted(m.step for m in self._checkpointer.checkpoints)

  def save(self, epoch: int, tree: Any) -> None:
    """Saves; an epoch that is there already is left as it is."""
    if epoch in self.epochs:
      return
    if not self._checkpointer.save(int(epoch), tree):
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
    if epoch not in self.epochs:
      raise CheckpointError(
        f"There is no checkpoint of epoch {epoch} in {self.directory}; there"
        f" are those of epochs {self.epochs}."
      )
    # Where the arrays shall live is said here, not read from the disk: the
    # checkpoint may come from other devices.
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=place), like
    )
    try:
      return self._checkpointer.load(epoch, abstract)
    except Exception as error:
      raise CheckpointError(
        f"The checkpoint of epoch {epoch} in {self.directory} cannot be read:"
        f" it is damaged or of another network ({type(error).__name__})."
      ) from error

  def load_latest(self, like: Any) -> tuple[int, Any] | None:
    """The newest checkpoint that can be read, with its epoch, or None."""
    for epoch in reversed(self.epochs):
      try:
        return epoch, self.load(epoch, like)
      except CheckpointError as error:
        _LOG.warning("%s Falling back to the one before.", error)
    return None

  def close(self) -> None:
    """Waits for what is being written."""
    self._checkpointer.close()

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *_) -> None:
    self.close()
