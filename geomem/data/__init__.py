"""Data: sets by name, label permutation, subsets, sampling, batching."""

from geomem.data.batches import augment, epoch_order, normalize, pixel_moments
from geomem.data.datasets import (
  DamagedError,
  Dataset,
  DatasetError,
  hold,
  limit_per_class,
  load,
  make_dataset,
  open_split,
  select_classes,
)
from geomem.data.fingerprint import fingerprint
from geomem.data.labels import PermutedLabels, permute_labels
from geomem.data.streamed import Images, StreamedImages, read_ahead
from geomem.data.subsets import SUBSETS, Subset, make_subsets, sample_manifolds

__all__ = [
  "SUBSETS",
  "DamagedError",
  "Dataset",
  "DatasetError",
  "Images",
  "PermutedLabels",
  "StreamedImages",
  "Subset",
  "augment",
  "epoch_order",
  "fingerprint",
  "hold",
  "limit_per_class",
  "load",
  "make_dataset",
  "make_subsets",
  "normalize",
  "open_split",
  "permute_labels",
  "pixel_moments",
  "read_ahead",
  "sample_manifolds",
  "select_classes",
]
