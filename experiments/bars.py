"""Progress bars: on a terminal, in a notebook, or as lines of a log file."""

import sys
import threading
import weakref

from tqdm import auto, notebook

from experiments import log

_LOG_SECONDS = 30.0  # Between the lines of a bar in a log file.
_BEAT = 1.0  # Seconds between drawings, however long a step takes.
_BAR = "{l_bar}{bar}| {n:.0f}/{total} [{elapsed}<{remaining}{postfix}]"
_LINE = "{desc}: {n:.0f} of {total} [{elapsed}<{remaining}{postfix}]"


class _Lines:
  """A file for bars: what they draw over and over becomes one line each."""

  def write(self, text: str) -> None:
    line = text.replace("\x1b[A", "").strip()
    if line:
      print(line, file=sys.stderr, flush=True)

  def flush(self) -> None:
    pass


class _Bar(auto.tqdm):
  """A bar that does not fall silent, and believes no time of compilation.

  Between steps the time goes on, and lines of it go to the log of the run.
  """

  def __init__(self, *args, **options):
    self._ended = threading.Event()
    # What this start had done, and when: the later half of it.
    self._done: list[tuple[float, float]] = []
    super().__init__(*args, **options)
    self._drawn = self._noted = self.start_t
    # A bar that nobody closes is not kept by what makes it go on.
    arguments = weakref.ref(self), self._ended
    threading.Thread(target=_go_on, args=arguments, daemon=True).start()

  def update(self, n: float | None = 1) -> bool | None:
    """Moves the bar."""
    done = self.n + n - self.initial
    if done > (self._done[-1][0] if self._done else 0):
      self._done.append((done, self._time()))
      while len(self._done) > 2 and 2 * self._done[1][0] <= done:
        self._done.pop(0)
    return super().update(n)

  def _rate(self) -> float:
    """Returns steps a second, over the later half of those of this start.

    What is first is compiled, which comes once: of one step nothing follows for
    the others.
    """
    if self.total is not None and self.n >= self.total:
      return 1.0  # Nothing is left, at any rate.
    if len(self._done) < 2:
      return 0.0
    (before, start), (done, now) = self._done[0], self._done[-1]
    return (done - before) / max(now - start, 1e-9)

  @property
  def format_dict(self) -> dict:
    """What the bar is drawn from."""
    return super().format_dict | {"rate": self._rate()}

  def display(self, *args, **options) -> bool | None:
    """Draws the bar."""
    self._drawn = self._time()
    return super().display(*args, **options)

  def beat(self) -> None:
    """Draws the bar, and adds a line to the log, where the last is long ago."""
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
    known = self.format_dict | {"bar_format": _LINE, "ncols": None}
    log.note(self.format_meter(**known))

  def close(self) -> None:
    """Draws the bar for the last time."""
    with self.get_lock():
      has_ended = self._ended.is_set()
      self._ended.set()
    super().close()
    if not has_ended:
      self._note()


def _go_on(reference: weakref.ref, ended: threading.Event) -> None:
  """Lets a bar beat until it is closed, or gone."""
  while not ended.wait(_BEAT):
    bar = reference()
    if bar is None:
      return
    bar.beat()
    del bar


def bar(total: int, desc: str, **options) -> auto.tqdm:
  """Makes a progress bar; without a terminal, a line now and then.

  Args:
    total: units of work.
    desc: what is worked on.
    **options: as tqdm takes them.
  """
  is_notebook = issubclass(auto.tqdm, notebook.tqdm)
  if is_notebook or sys.stderr.isatty():
    return _Bar(total=total, desc=desc, bar_format=_BAR, **options)
  options |= {"mininterval": _LOG_SECONDS, "maxinterval": _LOG_SECONDS}
  return _Bar(
    total=total, desc=desc, bar_format=_LINE, file=_Lines(), **options
  )
