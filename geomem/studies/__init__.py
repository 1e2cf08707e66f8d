"""Studies: experiments on networks and runs, with figures and findings."""

from geomem.studies.capacity import Capacity, CapacityConfig
from geomem.studies.config import ExperimentConfig
from geomem.studies.experiment import prepare, prepare_seed, prepare_seeds
from geomem.studies.finding import Finding
from geomem.studies.gradients import GradientConfig, Gradients
from geomem.studies.measure import Measuring
from geomem.studies.measure_config import MeasuringConfig
from geomem.studies.memorization import Memorization
from geomem.studies.model_size import ModelSize, model_size_sweep
from geomem.studies.noise import MemorizationSweep, memorization_sweep
from geomem.studies.presets import PRESETS, make_config
from geomem.studies.registry import STUDIES, draw, findings, takes_a_run
from geomem.studies.rewind import LayerRewind, RewindConfig
from geomem.studies.study import Stage, Step, Study, Unit, run
from geomem.studies.sweep import Sweep, run_sweep
from geomem.studies.train import score_subsets
from geomem.studies.trained import TrainedRun

__all__ = [
  "PRESETS",
  "STUDIES",
  "Capacity",
  "CapacityConfig",
  "ExperimentConfig",
  "Finding",
  "GradientConfig",
  "Gradients",
  "LayerRewind",
  "Measuring",
  "MeasuringConfig",
  "Memorization",
  "MemorizationSweep",
  "ModelSize",
  "RewindConfig",
  "Stage",
  "Step",
  "Study",
  "Sweep",
  "TrainedRun",
  "Unit",
  "draw",
  "findings",
  "make_config",
  "memorization_sweep",
  "model_size_sweep",
  "prepare",
  "prepare_seed",
  "prepare_seeds",
  "run",
  "run_sweep",
  "score_subsets",
  "takes_a_run",
]
