"""Training: recipe, steps, loop, scores and checkpoints."""

from geomem.training.checkpoints import CheckpointError, Checkpoints
from geomem.training.config import TrainingConfig, checkpoint_epochs
from geomem.training.evaluation import padded_blocks, predict_logits, scores
from geomem.training.loop import (
  NonFiniteLossError,
  TrainState,
  steps_per_epoch,
  train,
  train_seeds,
)
from geomem.training.windows import TrainingData, on_devices

__all__ = [
  "CheckpointError",
  "Checkpoints",
  "NonFiniteLossError",
  "TrainState",
  "TrainingConfig",
  "TrainingData",
  "checkpoint_epochs",
  "on_devices",
  "padded_blocks",
  "predict_logits",
  "scores",
  "steps_per_epoch",
  "train",
  "train_seeds",
]
