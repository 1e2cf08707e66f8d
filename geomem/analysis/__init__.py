"""Analysis: what joins the rooms."""

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
  train_seed,
)

__all__ = [
  "Experiment",
  "ExperimentConfig",
  "Finding",
  "GradientConfig",
  "Seed",
  "checkpoints_of",
  "config_dict",
  "epoch_of",
  "find",
  "find_gradients",
  "gradient_config_dict",
  "layer_means",
  "load_experiment",
  "measure_gradients",
  "measure_layers",
  "measure_seed",
  "plan_gradients",
  "prepare",
  "prepare_seed",
  "resolve",
  "score_subsets",
  "train_seed",
]
