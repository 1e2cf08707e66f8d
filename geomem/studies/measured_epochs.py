"""The choice and the order of the saved epochs to measure."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

# In the order of measuring: figure 3 needs the first two.
WORDS = ("best", "last", "first")


class SavedEpochs(NamedTuple):
  """The saved epochs of a seed.

  Attributes:
    saved: epochs whose networks are saved, ascending.
    best: epoch with the best test accuracy, saved or not.
    last: last epoch, saved or not.
  """

  saved: Sequence[int]
  best: int
  last: int

  def named(self, word: str) -> int:
    """Returns the epoch that a word stands for."""
    return min(self.saved) if word == "first" else getattr(self, word)


def normalized(text: str | None, name: str = "measure_epochs") -> str | None:
  """Returns a choice of epochs in canonical form.

  Words come first, in the order of measuring, then numbers; `all` is None.

  Args:
    text: the choice.
    name: name of its field, for error messages.

  Raises:
    ValueError: an item is neither a known word nor a number.
  """
  if text is None:
    return None
  items = [item.strip() for item in text.split(",")]
  for item in items:
    if item not in ("all", *WORDS) and not re.fullmatch("[0-9]{1,9}", item):
      raise ValueError(
        f"{name} names {item!r}, which is no epoch; use all,"
        f" {', '.join(WORDS)} or numbers of epochs, comma-separated."
      )
  if "all" in items:
    return None
  words = [word for word in WORDS if word in items]
  numbers = sorted({int(item) for item in items if item.isdigit()})
  return ",".join([*words, *map(str, numbers)])


def check_saved(
  text: str | None, saved: Collection[int], name: str = "measure_epochs"
) -> None:
  """Checks that the epochs chosen by number are saved.

  Args:
    text: the normalized choice.
    saved: the epochs that at least one seed has saved.
    name: name of the field with the choice.

  Raises:
    ValueError: an epoch is not saved; the message lists those that are.
  """
  for item in (text or "").split(","):
    if item.isdigit() and int(item) not in saved:
      raise ValueError(
        f"Epoch {item} of {name} is not saved; saved are"
        f" {', '.join(map(str, sorted(saved)))}."
      )


def places_to_measure(
  text: str | None, seeds: Mapping[int, SavedEpochs]
) -> list[tuple[int, int]]:
  """Lists seeds and epochs in the order of measuring.

  The best epochs of all seeds come first, then their last and first epochs,
  then the others, so that an early end of the work costs the least.

  Args:
    text: the normalized choice; epochs that a seed has not saved are left out.
    seeds: the epochs of each seed.

  Returns:
    Pairs of a seed and an epoch.
  """
  chosen = None if text is None else text.split(",")

  def is_asked(seed: int, epoch: int) -> bool:
    of_seed = seeds[seed]
    if epoch not in of_seed.saved:
      return False
    names = [word for word in WORDS if of_seed.named(word) == epoch]
    return chosen is None or bool({str(epoch), *names} & set(chosen))

  with_networks = [seed for seed, of_seed in seeds.items() if of_seed.saved]
  ordered = [(s, seeds[s].named(w)) for w in WORDS for s in with_networks]
  every = sorted({e for of_seed in seeds.values() for e in of_seed.saved})
  ordered += [(seed, epoch) for epoch in every for seed in with_networks]
  return [place for place in dict.fromkeys(ordered) if is_asked(*place)]
