"""Data: sets by name, label permutation, subsets, sampling, batching."""

from geomem.data.batches import augment, epoch_order, normalize, pixel_moments
from geomem.data.datasets import (
  Dataset,
  DatasetError,
  limit_per_class,
  load,
  make_dataset,
  select_classes,
)
from geomem.data.labels import PermutedLabels, permute_labels
from geomem.data.subsets import SUBSETS, Subset, make_subsets, sample_manifolds

__all__ = [
  "SUBSETS",
  "Dataset",
  "DatasetError",
  "PermutedLabels",
  "Subset",
  "augment",
  "epoch_order",
  "limit_per_class",
  "load",
  "make_dataset",
  "make_subsets",
  "normalize",
  "permute_labels",
  "pixel_moments",
  "sample_manifolds",
  "select_classes",
]
