"""A loop that runs until its state is finished."""

from collections.abc import Callable
from typing import TypeVar

import jax

_T = TypeVar("_T")

# Steps between two checks of the condition. On accelerators each check asks the
# host, which takes longer than a step.
_STEPS_A_QUESTION = 4


def repeat_until_done(
  unfinished: Callable[[_T], jax.Array], advance: Callable[[_T], _T], state: _T
) -> _T:
  """Advances a state while it is unfinished, as `jax.lax.while_loop` does.

  Args:
    unfinished: returns whether to continue.
    advance: performs one step. Accelerators may run a few more steps than
      needed, which must not degrade a finished state.
    state: the initial state.
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
