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
from geomem.analysis.experiment import (
  Experiment,
  ExperimentConfig,
  Seed,
  config_dict,
  load_experiment,
  prepare,
  prepare_seed,
  resolve,
)
from geomem.analysis.findings import Finding, epoch_of, find, layer_means
from geomem.analysis.memorization import (
  checkpoints_of,
  measure_layers,
  measure_seed,
  score_subsets,
  train_seed,
)

__all__ = [
  "Agreement",
  "CapacityConfig",
  "Experiment",
  "ExperimentConfig",
  "Finding",
  "Seed",
  "agreements",
  "capacity_config_dict",
  "check_capacity",
  "checkpoints_of",
  "config_dict",
  "count_run_units",
  "count_synthetic_units",
  "epoch_of",
  "find",
  "layer_means",
  "load_experiment",
  "measure_layers",
  "measure_seed",
  "measure_units",
  "name_of",
  "prepare",
  "prepare_seed",
  "resolve",
  "run_units",
  "score_subsets",
  "synthetic_units",
  "train_seed",
]
