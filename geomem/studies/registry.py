"""All studies, by the `experiment` entry of their configs.

To add a study, write its module and add a line here.
"""

import inspect

from geomem.studies.capacity import Capacity
from geomem.studies.gradients import Gradients
from geomem.studies.measure import Measuring
from geomem.studies.memorization import Memorization
from geomem.studies.model_size import ModelSize
from geomem.studies.noise import MemorizationSweep
from geomem.studies.paper import Paper
from geomem.studies.readout import Readout
from geomem.studies.rewind import LayerRewind
from geomem.studies.similarity import Similarity
from geomem.studies.task_capacity import TaskCapacity
from geomem.studies.truncate import Truncate

STUDIES = {
  "capacity": Capacity,
  "gradients": Gradients,
  "measure": Measuring,
  "memorization": Memorization,
  "memorization_sweep": MemorizationSweep,
  "model_size": ModelSize,
  "paper": Paper,
  "readout": Readout,
  "rewind": LayerRewind,
  "similarity": Similarity,
  "task_capacity": TaskCapacity,
  "truncate": Truncate,
}


def takes_a_run(study: type) -> bool:
  """Tells whether a study takes a finished run, given as a `TrainedRun`."""
  return "trained" in inspect.signature(study.__init__).parameters
