"""Images that stay on the disk until their pixels are needed."""

import concurrent.futures
import functools
import io
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageOps

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_TASK = 16  # Images that one thread reads at a time.


def decode(
  encoded: bytes, shape: tuple[int, int, int]
) -> UInt8[np.ndarray, "H W C"]:
  """Decodes a JPEG or PNG file to pixels of the given shape.

  An image of another size is scaled to cover the shape, with its aspect ratio
  kept, and cropped about its centre.
  """
  height, width, channels = shape
  with Image.open(io.BytesIO(encoded)) as image:
    if image.size == (width, height):
      image = image.convert(_MODES[channels])
    else:
      # JPEG is decoded at a half, a quarter or an eighth of its size if that is
      # still twice as large as needed, which saves most of the time.
      image.draft(None, (2 * width, 2 * height))
      image = ImageOps.fit(
        image.convert(_MODES[channels]),
        (width, height),
        Image.Resampling.BILINEAR,
      )
    return np.asarray(image).reshape(shape)


def streams(images: Any) -> bool:
  """Returns whether images are read from the disk each time they are used."""
  return isinstance(images, StreamedImages)


@functools.cache
def threads() -> concurrent.futures.ThreadPoolExecutor:
  """Returns the thread pool for decoding, with one thread for each core."""
  return concurrent.futures.ThreadPoolExecutor(os.cpu_count())


class StreamedImages:
  """An array of uint8 images `[n, H, W, C]` that is read when it is used.

  Indexing selects images without reading them and returns another
  `StreamedImages`. `np.asarray` and `jnp.asarray` read and decode the selected
  images, in threads.

  Attributes:
    name: name of the set and split, for the cache and for errors.
    indices: `[...]` positions of the selected examples in the split.
    shape: `[..., H, W, C]`.
    dtype: uint8.
  """

  dtype = np.dtype(np.uint8)

  def __init__(
    self,
    name: str,
    source,
    image_shape: tuple[int, int, int],
    indices: Int[np.ndarray, "..."] | None = None,
  ):
    """Wraps a TFDS data source whose examples hold encoded images.

    It gives `{"image": bytes, ...}` for each of a list of positions.
    """
    self.name = name
    self.indices = np.arange(len(source)) if indices is None else indices
    self._source, self._image_shape = source, tuple(image_shape)

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape of the decoded array."""
    return (*self.indices.shape, *self._image_shape)

  @property
  def ndim(self) -> int:
    """The number of axes."""
    return len(self.shape)

  @property
  def size(self) -> int:
    """The number of entries of the decoded array."""
    return math.prod(self.shape)

  @property
  def nbytes(self) -> int:
    """The number of bytes of the decoded images."""
    return self.size

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, index) -> "StreamedImages":
    """Selects the images at the indices, in their order; reads none."""
    chosen = np.asarray(self.indices[index])
    return StreamedImages(self.name, self._source, self._image_shape, chosen)

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    if copy is False:
      raise ValueError(
        "Streamed images are always decoded anew; drop copy=False."
      )
    positions = self.indices.ravel().tolist()
    images = np.empty((len(positions), *self._image_shape), np.uint8)

    def read(start: int) -> None:
      block = range(len(positions))[start : start + _TASK]
      files = self._read(positions[start : start + _TASK])
      for i, encoded in zip(block, files, strict=True):
        images[i] = self._decode(encoded, positions[i])

    list(threads().map(read, range(0, len(positions), _TASK)))
    images = images.reshape(self.shape)
    return images if dtype is None else images.astype(dtype, copy=False)

  def encoded(self) -> Iterator[bytes]:
    """Yields the encoded files of the selected images, as they are on disk."""
    positions = self.indices.ravel().tolist()
    for start in range(0, len(positions), _TASK):
      yield from self._read(positions[start : start + _TASK])

  def _read(self, positions: list[int]) -> list[bytes]:
    try:
      return [x["image"] for x in self._source.__getitems__(positions)]
    except Exception as error:  # From the reader or the parser.
      raise ValueError(
        f"Images {positions[0]} to {positions[-1]} of {self.name} cannot be"
        f" read ({error}); prepare the data set again."
      ) from error

  def _decode(self, encoded: bytes, position: int) -> np.ndarray:
    try:
      return decode(encoded, self._image_shape)
    except Exception as error:  # Pillow's plugins raise many types.
      raise ValueError(
        f"Image {position} of {self.name} cannot be decoded ({error}); prepare"
        " the data set again."
      ) from error


# The types of a data set's images.
Images = np.ndarray | jax.Array | StreamedImages


def read_ahead(
  images: StreamedImages,
  choices: Int[np.ndarray, "k ..."],
  place: Callable[[StreamedImages], Any] = np.asarray,
) -> Iterator[Any]:
  """Yields `place(images[choice])` for each choice in turn.

  Grain keeps at most two results ready ahead of their use, and reads two more
  meanwhile.

  Args:
    images: the images to choose from.
    choices: indices of the images of each result.
    place: reads the chosen images and puts them on their devices.
  """
  import grain  # Imported here: only streamed sets need it.

  loader = grain.MapDataset.source(choices).map(
    lambda choice: place(images[choice])
  )
  options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
  return iter(loader.to_iter_dataset(options))
