"""Progress bars: on a terminal, in a notebook, or as lines of a log file."""

import logging
import sys
import threading
import weakref

from tqdm import auto, notebook

_LOG = logging.getLogger(__name__)
_LOG_SECONDS = 30.0  # Seconds between lines of a bar in a log file.
_BEAT = 1.0  # Seconds between redraws, however long a step takes.
_BAR = "{l_bar}{bar}| {n:.0f}/{total} [{elapsed}<{remaining}{postfix}]"
_LINE = "{desc}: {n:.0f} of {total} [{elapsed}<{remaining}{postfix}]"


class _Lines:
  """A file for bars that prints each redraw as a line of its own."""

  def write(self, text: str) -> None:
    line = text.replace("\x1b[A", "").strip()
    if line:
      print(line, file=sys.stderr, flush=True)

  def flush(self) -> None:
    pass


class _Bar(auto.tqdm):
  """A bar that redraws between steps, and whose rate excludes compilation.

  A thread keeps the elapsed time current, and adds lines to the run's log.
  """

  def __init__(self, *args, **options):
    self._ended = threading.Event()
    # Pairs (steps done, time) over the later half of this start.
    self._done: list[tuple[float, float]] = []
    super().__init__(*args, **options)
    self._drawn = self._noted = self.start_t
    # The thread's weak reference does not keep an unclosed bar alive.
    arguments = weakref.ref(self), self._ended
    threading.Thread(target=_go_on, args=arguments, daemon=True).start()

  def update(self, n: float | None = 1) -> bool | None:
    """Advances the bar by `n` steps."""
    done = self.n + n - self.initial
    if done > (self._done[-1][0] if self._done else 0):
      self._done.append((done, self._time()))
      while len(self._done) > 2 and 2 * self._done[1][0] <= done:
        self._done.pop(0)
    return super().update(n)

  def _rate(self) -> float:
    """Returns steps per second, over the later half of this start's steps.

    The first step includes compilation, which happens once, so the rate is
    unknown (0) until there are two.
    """
    if self.total is not None and self.n >= self.total:
      return 1.0  # Nothing is left, so any rate will do.
    if len(self._done) < 2:
      return 0.0
    (before, start), (done, end) = self._done[0], self._done[-1]
    return (done - before) / max(end - start, 1e-9)

  @property
  def format_dict(self) -> dict:
    """The values that the bar is drawn from, with our rate."""
    return super().format_dict | {"rate": self._rate()}

  def display(self, *args, **options) -> bool | None:
    """Draws the bar, and notes the time."""
    self._drawn = self._time()
    return super().display(*args, **options)

  def beat(self) -> None:
    """Redraws the bar and adds a line to the log, each when it is due."""
    now = self._time()
    with self.get_lock():
      is_due = now - self._drawn >= max(self.mininterval, _BEAT)
      if is_due and not self._ended.is_set():
        self.refresh(nolock=True)
        self.last_print_t = now
    if now - self._noted >= _LOG_SECONDS:
      self._note()

  def _note(self) -> None:
    """Adds a line to the log of the run."""
    self._noted = self._time()
    fields = self.format_dict | {"bar_format": _LINE, "ncols": None}
    _LOG.info("%s", self.format_meter(**fields))

  def close(self) -> None:
    """Draws the bar and adds a line to the log for the last time."""
    with self.get_lock():
      has_ended = self._ended.is_set()
      self._ended.set()
    super().close()
    if not has_ended:
      self._note()


def _go_on(reference: weakref.ref, ended: threading.Event) -> None:
  """Calls a bar's `beat` until the bar is closed or garbage-collected."""
  while not ended.wait(_BEAT):
    bar = reference()
    if bar is None:
      return
    bar.beat()
    del bar


def bar(total: int, desc: str, **options) -> auto.tqdm:
  """Makes a progress bar of tqdm; without a terminal, it prints lines."""
  is_notebook = issubclass(auto.tqdm, notebook.tqdm)
  if is_notebook or sys.stderr.isatty():
    return _Bar(total=total, desc=desc, bar_format=_BAR, **options)
  options |= {"mininterval": _LOG_SECONDS, "maxinterval": _LOG_SECONDS}
  return _Bar(
    total=total, desc=desc, bar_format=_LINE, file=_Lines(), **options
  )
