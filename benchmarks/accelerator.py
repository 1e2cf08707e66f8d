"""Timings on one accelerator, beside the floors of arithmetic and memory.

  python -m benchmarks.accelerator --out=accelerator.jsonl

needs no data, and takes 200 seconds including compilation. Each stage has its
own time limit: a stage that fails or exceeds it is reported and skipped. Every
row is written as it arrives. `--tiny` rehearses everything on a CPU core.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

from absl import app, flags

# Time limits of the stages in seconds, compilation included.
LIMITS = {
  "peaks": 20,
  "qps": 25,
  "geometry": 40,
  "training": 60,
  "scores": 20,
  "statistics": 30,
  "rewinds": 30,
  "networks": 90,
}
_START = 40  # Seconds to import JAX and initialize the device.
_TINY_FACTOR = 10
_COMMAND = (sys.executable, "-m", "benchmarks.accelerator", "--child")

_OUT = flags.DEFINE_string("out", None, "file that the rows go to, as JSON")
_TINY = flags.DEFINE_bool("tiny", False, "small sizes, to rehearse on a core")
_SECONDS = flags.DEFINE_integer("seconds", 200, "for all stages together")
_STAGES = flags.DEFINE_list("stages", list(LIMITS), "which stages")
_CHILD = flags.DEFINE_bool("child", False, "be the process that measures")

Row = dict[str, Any]


def _measure_all() -> None:
  """Runs the stages in this process, and prints each row as a line of JSON."""
  from benchmarks import accelerator_stages as stages
  from geomem.compilation import keep_programs

  keep_programs()
  sizes = stages.TINY if _TINY.value else stages.FULL
  for name in _STAGES.value:
    _say({"begins": name})
    try:
      for row in stages.STAGES[name](sizes):
        _say({"stage": name} | row)
    except Exception as error:  # The other stages still run.
      _say({"stage": name, "failed": f"{type(error).__name__}: {error}"[:500]})
  _say({"begins": None})


def _say(row: Row) -> None:
  print(json.dumps(row), flush=True)


def run_stages(
  names: list[str],
  *,
  tiny: bool,
  seconds: float,
  command: tuple[str, ...] = _COMMAND,
) -> Iterator[Row]:
  """Yields rows of the stages; a stage that hangs is killed and reported.

  `seconds` limits all stages together; if `tiny`, the limit of each is wider.
  """
  remaining, end = list(names), time.monotonic() + seconds
  while remaining:
    options = [f"--stages={','.join(remaining)}", f"--tiny={tiny}"]
    with (
      subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, text=True
      ) as process,
      futures.ThreadPoolExecutor(1) as reader,
    ):

      def read(until, reader=reader, process=process):
        line = reader.submit(process.stdout.readline)
        return line.result(max(0, until - time.monotonic()))

      try:
        yield from _follow(read, remaining, _TINY_FACTOR if tiny else 1, end)
      finally:
        process.kill()  # Which ends a read in progress, too.


def _follow(
  read: Callable[[float], str], remaining: list[str], factor: int, end: float
) -> Iterator[Row]:
  """Yields a process's rows, and removes finished stages from `remaining`."""
  current = None
  until = min(time.monotonic() + factor * _START, end)
  while remaining:
    line, why = "", "its process ended"
    try:
      line = read(until)
    except futures.TimeoutError:
      why = "there was no time left" if until == end else "it took too long"
    if not line:
      yield {"stage": remaining.pop(0), "failed": why}
      return
    row = json.loads(line)
    if "begins" not in row:
      yield row
      continue
    if current is not None:
      remaining.remove(current)
    current = row["begins"]
    until = min(time.monotonic() + factor * LIMITS.get(current, 0), end)


def floor_of(row: Row, peaks: dict[str, float]) -> float | None:
  """Returns the fewest seconds that a row's operations and bytes allow."""
  needs = [
    row[name] / peaks[peak]
    for name, peak in (
      ("float32_operations", "float32"),
      ("bfloat16_operations", "bfloat16"),
      ("bytes", "memory"),
    )
    if name in row and peak in peaks
  ]
  return max(needs, default=None)


def table(rows: list[Row]) -> str:
  """Tabulates first call, measured time, floor and their ratio by row."""
  peaks = {row["name"]: row["rate"] for row in rows if "rate" in row}
  lines = [
    f"{'':44}{'first call':>12}{'measured':>12}{'floor':>12}{'ratio':>8}"
  ]
  for row in rows:
    if "failed" in row:
      lines.append(f"{row['stage']}: failed, {row['failed']}")
    elif "rate" in row:
      lines.append(
        f"{row['stage'] + ' ' + row['name']:44}{row['rate']:12.3g}/s"
      )
    elif "seconds" in row:
      floor = floor_of(row, peaks)
      cells = f"{row['first']:12.3g}{row['seconds']:12.3g}"
      if floor:
        cells += f"{floor:12.3g}{row['seconds'] / floor:8.1f}"
      lines.append(f"{row['stage'] + ' ' + row['name']:44}{cells}")
    else:
      lines.append(f"{row['stage']}: {row['name']}")
  return "\n".join(lines)


def main(argv: list[str]) -> None:
  """Runs the stages, writes their rows, and prints the table."""
  del argv
  if unknown := set(_STAGES.value) - set(LIMITS):
    raise app.UsageError(
      f"--stages has {', '.join(sorted(unknown))}; choose from"
      f" {', '.join(LIMITS)}."
    )
  if _CHILD.value:
    return _measure_all()
  rows = []
  with open(_OUT.value or os.devnull, "a") as out:
    for row in run_stages(
      _STAGES.value, tiny=_TINY.value, seconds=_SECONDS.value
    ):
      rows.append(row)
      _say(row)
      print(json.dumps(row), file=out, flush=True)
  print(table(rows))


if __name__ == "__main__":
  app.run(main)
