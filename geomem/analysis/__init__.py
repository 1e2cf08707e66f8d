"""Analysis: what joins the rooms."""

from geomem.analysis.capacity import (
  Agreement,
  CapacityConfig,
  agreements,
  capacity_config_dict,
  check_capacity,
  measure_units,
  name_of,
)
from geomem.analysis.capacity_units import (
  count_run_units,
  count_synthetic_units,
  run_units,
  synthetic_units,
)
from geomem.analysis.config import (
  ExperimentConfig,
  config_dict,
  measured_layers,
  resolve,
)
from geomem.analysis.experiment import (
  Experiment,
  Seed,
  prepare,
  prepare_seed,
  prepare_seeds,
)
from geomem.analysis.findings import (
  Finding,
  epoch_of,
  find,
  last_hidden_layer,
  layer_means,
  of_layer,
)
from geomem.analysis.finished import load_experiment
from geomem.analysis.gradient_findings import find_gradients
from geomem.analysis.gradient_plan import (
  GradientConfig,
  gradient_config_dict,
  plan_gradients,
)
from geomem.analysis.gradient_run import measure_gradients
from geomem.analysis.memorization import (
  checkpoints_of,
  measure_layers,
  measure_seed,
  score_subsets,
)
from geomem.analysis.model_size import ModelSizeConfig, summarize_sizes
from geomem.analysis.noise import summarize_noise
from geomem.analysis.rewind import (
  measure_rewinds,
  num_networks,
  score_rewinds,
)
from geomem.analysis.rewind_findings import (
  RewindScores,
  best_rewinds,
  find_rewinds,
)
from geomem.analysis.rewind_plan import (
  RewindConfig,
  epochs_to_rewind,
  make_rewinds,
)
from geomem.analysis.sentences import sentences_of
from geomem.analysis.shared_run import SharedRun, open_run
from geomem.analysis.train import train_seed, train_seeds
from geomem.analysis.whole import (
  run_memorization,
  run_model_sizes,
  run_rewinds,
  train_and_measure,
)

__all__ = [
  "Agreement",
  "CapacityConfig",
  "Experiment",
  "ExperimentConfig",
  "Finding",
  "GradientConfig",
  "ModelSizeConfig",
  "RewindConfig",
  "RewindScores",
  "Seed",
  "SharedRun",
  "agreements",
  "best_rewinds",
  "capacity_config_dict",
  "check_capacity",
  "checkpoints_of",
  "config_dict",
  "count_run_units",
  "count_synthetic_units",
  "epoch_of",
  "epochs_to_rewind",
  "find",
  "find_gradients",
  "find_rewinds",
  "gradient_config_dict",
  "last_hidden_layer",
  "layer_means",
  "load_experiment",
  "make_rewinds",
  "measure_gradients",
  "measure_layers",
  "measure_rewinds",
  "measure_seed",
  "measure_units",
  "measured_layers",
  "name_of",
  "num_networks",
  "of_layer",
  "open_run",
  "plan_gradients",
  "prepare",
  "prepare_seed",
  "prepare_seeds",
  "resolve",
  "run_memorization",
  "run_model_sizes",
  "run_rewinds",
  "run_units",
  "score_rewinds",
  "score_subsets",
  "sentences_of",
  "summarize_noise",
  "summarize_sizes",
  "synthetic_units",
  "train_and_measure",
  "train_seed",
  "train_seeds",
]
