"""Data: sets by name, label permutation, subsets, sampling, batching."""

from geomem.data.batches import augment, epoch_order, normalize, pixel_moments
from geomem.data.dataset import (
  DamagedError,
  Dataset,
  DatasetError,
  fingerprint,
  limit_per_class,
  make_dataset,
  select_classes,
)
from geomem.data.label_kinds import LABELS, has_own_fraction, make_labels
from geomem.data.labels import PermutedLabels, permute_labels
from geomem.data.sources import SOURCES, hold, load, located, open_split
from geomem.data.streamed import Images, StreamedImages, read_ahead, streams
from geomem.data.subsets import Subset, make_subsets, sample_manifolds
from geomem.runs import SUBSETS

__all__ = [
  "LABELS",
  "SOURCES",
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
  "has_own_fraction",
  "hold",
  "limit_per_class",
  "load",
  "located",
  "make_dataset",
  "make_labels",
  "make_subsets",
  "normalize",
  "open_split",
  "permute_labels",
  "pixel_moments",
  "read_ahead",
  "sample_manifolds",
  "select_classes",
  "streams",
]
