"""Analysis: what joins the rooms."""

from geomem.analysis.config import (
  ExperimentConfig,
  config_dict,
  measured_layers,
  resolve,
)
from geomem.analysis.experiment import (
  Experiment,
  Seed,
  load_experiment,
  prepare,
  prepare_seed,
)
from geomem.analysis.findings import Finding, epoch_of, find, layer_means
from geomem.analysis.memorization import (
  checkpoints_of,
  measure_layers,
  measure_seed,
  score_subsets,
)
from geomem.analysis.model_size import ModelSizeConfig, summarize_sizes
from geomem.analysis.noise import summarize_noise
from geomem.analysis.train import train_seed, train_seeds

__all__ = [
  "Experiment",
  "ExperimentConfig",
  "Finding",
  "ModelSizeConfig",
  "Seed",
  "checkpoints_of",
  "config_dict",
  "epoch_of",
  "find",
  "layer_means",
  "load_experiment",
  "measure_layers",
  "measure_seed",
  "measured_layers",
  "prepare",
  "prepare_seed",
  "resolve",
  "score_subsets",
  "summarize_noise",
  "summarize_sizes",
  "train_seed",
  "train_seeds",
]
