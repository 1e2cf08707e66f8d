"""Several processes, one on each host, that share the work of a binary.

All processes get the same flags except for `--process_id`. The directories are
on a disk that all of them can access.
"""

import contextlib
import os
from collections.abc import Callable

from absl import flags

from experiments import values
from geomem import parallel

# Flags defined here count as key flags of the calling module.
flags.disclaim_key_flags()


def define_flags() -> None:
  """Defines the flags by which processes find each other."""
  flags.DEFINE_bool(
    "distributed",
    False,
    "whether the cluster (Cloud TPU, Slurm, MPI) provides the hosts",
  )
  flags.DEFINE_string(
    "coordinator_address",
    None,
    "on several hosts, HOST:PORT of process 0, the same for all",
  )
  flags.DEFINE_integer(
    "num_processes", None, "on several hosts, the number of processes"
  )
  flags.DEFINE_integer(
    "process_id", None, "on several hosts, the index of this one, from 0"
  )


def joined(main: Callable) -> Callable:
  """Wraps a main function so that it first joins the other processes."""

  def run(argv):
    with values.command_line():
      parallel.start(
        flags.FLAGS.coordinator_address,
        flags.FLAGS.num_processes,
        flags.FLAGS.process_id,
        automatic=flags.FLAGS.distributed,
      )
    if parallel.is_first():
      return main(argv)
    # Errors propagate, and the caller reports them.
    with (
      open(os.devnull, "w") as nowhere,
      contextlib.redirect_stdout(nowhere),
      contextlib.redirect_stderr(nowhere),
    ):
      return main(argv)

  return run
