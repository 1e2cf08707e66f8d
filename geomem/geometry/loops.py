"""Loops until all is done."""

from collections.abc import Callable
from typing import TypeVar

import jax

_T = TypeVar("_T")

# Between two steps an accelerator asks the host whether to go on, which takes
# longer than the step.
_STEPS_A_QUESTION = 4


def repeat_until_done(
  unfinished: Callable[[_T], jax.Array], advance: Callable[[_T], _T], state: _T
) -> _T:
  """Advances a state while it is unfinished, as `jax.lax.while_loop` does.

  Args:
    unfinished: tells whether to go on.
    advance: one step. On accelerators there may be a few more than it takes, so
      that further steps must leave what is finished as good as it was.
    state: what to start from.
  """
  if jax.default_backend() == "cpu":
    return jax.lax.while_loop(unfinished, advance, state)
  return jax.lax.while_loop(
    unfinished,
    lambda state: jax.lax.fori_loop(
      0, _STEPS_A_QUESTION, lambda _, state: advance(state), state
    ),
    state,
  )
