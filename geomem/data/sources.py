"""Data sets by name.

To add a source, write its file and add its line to `SOURCES`.
"""

import pathlib
from collections.abc import Callable

from geomem.data.dataset import Dataset, DatasetError
from geomem.data.digits import load_digits
from geomem.data.npz import load_npz
from geomem.data.streamed import streams

MEMORY_LIMIT = 4.0  # GB of pixels that are held in memory.


# Maps the part of a name before the colon to a function of the part after it
# and of the split. All other names are those of TFDS sets.
SOURCES: dict[str, Callable[[str, str], Dataset]] = {
  "digits": load_digits,
  "npz": load_npz,
}


def load(
  name: str,
  split: str,
  data_dir: str | pathlib.Path | None = None,
  *,
  image_size: int | None = None,
  memory_limit: float | None = None,
) -> Dataset:
  """Loads one split of a data set, in memory if it fits.

  Args:
    name: `digits` (scikit-learn's handwritten digits, which need no download),
      `npz:PATH` (see `load_npz`), or the name of a TFDS image set.
    split: `train` or `test`; if a TFDS set has no test split, `test` is its
      validation split.
    data_dir: directory of the TFDS sets; TFDS's own by default. Also that of an
      npz file which is not at PATH any more.
    image_size: side to which the images of a TFDS set are scaled; by default
      their own, or 224 if they differ in size.
    memory_limit: GB of pixels that are held in memory; `MEMORY_LIMIT` by
      default.

  Raises:
    DatasetError: the set is missing or damaged; says what to do.
  """
  return hold(open_split(name, split, data_dir, image_size), memory_limit)


def open_split(
  name: str,
  split: str,
  data_dir: str | pathlib.Path | None = None,
  image_size: int | None = None,
) -> Dataset:
  """Opens a split, with the images of TFDS sets still on the disk.

  The arguments are as for `load`.
  """
  if split not in ("train", "test"):
    raise DatasetError(f"split {split!r} is not known; use train or test.")
  if image_size is not None and image_size < 1:
    raise DatasetError(f"image_size is {image_size}; it must be positive.")
  source, _, rest = name.partition(":")
  if source.partition("#")[0] in SOURCES.keys() - {source}:
    raise DatasetError(
      f"{name} has no features to select labels from with #; only TFDS sets do."
    )
  if source in SOURCES:
    if image_size is not None:
      raise DatasetError(
        f"{name} is not resized; leave --image_size out, or resize your arrays."
      )
    _, _, rest = located(name, data_dir).partition(":")
    return SOURCES[source](rest, split)
  # TFDS takes a second to import, and only these sets need it.
  from geomem.data import tfds_images

  return tfds_images.open_split(name, split, data_dir, image_size)


def located(name: str, data_dir: str | pathlib.Path | None) -> str:
  """Returns `kind:PATH`, or its file in `data_dir` where only that exists.

  So a run finds a file that has moved, though its config names the old place.
  """
  kind, _, path = name.partition(":")
  if data_dir is None or not path:
    return name
  moved = pathlib.Path(data_dir).expanduser() / pathlib.Path(path).name
  is_there = pathlib.Path(path).expanduser().exists()
  return f"{kind}:{moved}" if moved.is_file() and not is_there else name


def hold(dataset: Dataset, memory_limit: float | None = None) -> Dataset:
  """Loads the images into memory, unless they exceed the limit.

  Only this function decides whether a set streams.
  """
  limit = MEMORY_LIMIT if memory_limit is None else memory_limit
  images = dataset.images
  if not streams(images) or images.nbytes > limit * 1e9:
    return dataset
  from geomem.data import tfds_images

  return dataset._replace(images=tfds_images.read_all(images))
