"""Numbers in sentences."""

import math


def with_error(value: float, error: float, spec: str = ".3f") -> str:
  """`0.123 ± 0.004`, and the value alone where no error is known.

  One seed, or one draw, has no error.
  """
  text = format(value, spec)
  if not math.isfinite(error):
    return text
  return f"{text} ± {error:{spec.removeprefix('+')}}"
