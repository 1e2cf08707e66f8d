"""Times of calls, with compilation apart."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class Timing(NamedTuple):
  """Seconds of a first call, and the quartiles of the calls after it."""

  first: float
  low: float
  median: float
  high: float

  @property
  def spread(self) -> float:
    """Half the interquartile range."""
    return (self.high - self.low) / 2


def timed(
  call: Callable[[], Any], repeats: int = 5, most: float = math.inf
) -> Timing:
  """Times a first call, then more of them until what they return is ready.

  Args:
    call: the function to time.
    repeats: number of calls after the first.
    most: seconds after which no further call begins, except the second.
  """

  def one() -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start

  first, end = one(), time.perf_counter() + most
  seconds = [one()]
  while len(seconds) < repeats and time.perf_counter() < end:
    seconds.append(one())
  return Timing(first, *map(float, np.percentile(seconds, (25, 50, 75))))
