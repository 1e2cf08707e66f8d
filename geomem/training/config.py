"""The training recipe: every number of it, and nothing else."""

import dataclasses
import math
import numbers

OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("constant", "step", "cosine")
_KINDS = {
  str: (str, "a string"),
  bool: (bool, "True or False"),
  int: (numbers.Integral, "a whole number"),
  float: (numbers.Real, "a number"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
  """The training recipe.

  Attributes:
    optimizer: `sgd` (with momentum) or `adam`.
    learning_rate: peak learning rate.
    momentum: momentum of SGD; Adam ignores it.
    weight_decay: coefficient of the L2 penalty added to the gradient.
    schedule: `constant`, `step` (divided by ten after one half of
      the steps, and again after three quarters) or `cosine` (to zero).
    batch_size: examples per step.
    epochs: passes over the training set.
    crop: pixels of padding for the random crop; 0 turns it off.
    flip: whether images are mirrored at random.
  """

  optimizer: str = "sgd"
  learning_rate: float = 0.02
  momentum: float = 0.9
  weight_decay: float = 0.0
  schedule: str = "constant"
  batch_size: int = 64
  epochs: int = 120
  crop: int = 0
  flip: bool = False

  def __post_init__(self):
    for field in dataclasses.fields(self):
      _expect_type(field.name, getattr(self, field.name), type(field.default))
    _expect_one_of("optimizer", self.optimizer, OPTIMIZERS)
    _expect_one_of("schedule", self.schedule, SCHEDULES)
    for name in ("learning_rate", "batch_size", "epochs"):
      value = getattr(self, name)
      if not 0 < value < math.inf:  # Written so that NaN fails, too.
        raise ValueError(
          f"{name} is {value}; a positive, finite number was expected."
        )
    if not 0 <= self.momentum < 1:
      raise ValueError(
        f"momentum is {self.momentum}; from 0 to less than 1 was expected."
      )
    for name in ("weight_decay", "crop"):
      value = getattr(self, name)
      if not 0 <= value < math.inf:
        raise ValueError(
          f"{name} is {value}; a finite number of at least 0 was expected."
        )


def _expect_type(name: str, value: object, kind: type) -> None:
  accepted, expected = _KINDS[kind]
  if not isinstance(value, accepted) or (
    isinstance(value, bool) != (kind is bool)
  ):
    raise ValueError(f"{name} is {value!r}; {expected} was expected.")


def _expect_one_of(field: str, value: str, known: tuple[str, ...]) -> None:
  if value not in known:
    raise ValueError(
      f"{field} {value!r} is not known; choose one of {', '.join(known)}."
    )


def checkpoint_epochs(last: int) -> tuple[int, ...]:
  """Returns the epochs to keep: 0, 1, 2, 3, 5, 8, 13, ... and the last.

  Networks change fast at first and slowly later, so the list grows like the
  Fibonacci numbers.
  """
  epochs, step = [0, 1, 2], 3
  while step < last:
    epochs.append(step)
    step = epochs[-1] + epochs[-2]
  return tuple(sorted({e for e in epochs if e < last} | {last}))
