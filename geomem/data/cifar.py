"""CIFAR-10 and CIFAR-100 prepared for TFDS without TensorFlow.

TFDS's own builders unpack the archive and encode the images through
TensorFlow. These subclasses do the same with the standard library and Pillow;
the stock builders can open the result.
"""

import io
import os
import pathlib
import socket
import tarfile
import urllib.parse

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from geomem.data.dataset import DatasetError

_PIXELS = 3 * 32 * 32


class _WithoutTensorFlow:
  """A reader of the binary archive; label bytes come before the pixels."""

  def _split_generators(self, dl_manager):
    # Download only: extraction would import TensorFlow.
    path = dl_manager.download(self._cifar_info.url)
    files = {}
    with tarfile.open(os.fspath(path), "r:*") as archive:
      for member in archive:
        if member.isfile():
          name = os.path.basename(member.name)
          files[name] = archive.extractfile(member).read()
    info = self._cifar_info
    for key, file in zip(info.label_keys, info.label_files, strict=True):
      names = files[file].decode().split("\n")
      self.info.features[key].names = [name for name in names if name]
    return {
      "train": self._generate("train_", [files[f] for f in info.train_files]),
      "test": self._generate("test_", [files[f] for f in info.test_files]),
    }

  def _generate(self, prefix, blobs):
    keys = self._cifar_info.label_keys
    index = 0
    for blob in blobs:
      rows = np.frombuffer(blob, np.uint8).reshape(-1, len(keys) + _PIXELS)
      for row in rows:
        planes = row[len(keys) :].reshape(3, 32, 32)
        png = io.BytesIO()
        image = np.ascontiguousarray(planes.transpose(1, 2, 0))
        Image.fromarray(image).save(png, format="PNG")
        png.seek(0)
        example = dict(zip(keys, map(int, row), strict=False))
        example |= {"image": png, "id": f"{prefix}{index:05d}"}
        yield index, example
        index += 1


class Cifar10(
  _WithoutTensorFlow, tfds.image_classification.Cifar10, skip_registration=True
):
  """CIFAR-10, with the version and features of the stock builder."""

  name = "cifar10"


class Cifar100(
  _WithoutTensorFlow, tfds.image_classification.Cifar100, skip_registration=True
):
  """CIFAR-100, with the version and features of the stock builder."""

  name = "cifar100"


BUILDERS = {"cifar10": Cifar10, "cifar100": Cifar100}


def _check_reachable(builder, manual: pathlib.Path) -> None:
  """Fails at once without a network, where TFDS would retry for minutes."""
  url = builder._cifar_info.url
  if not (manual / os.path.basename(url)).exists():
    socket.getaddrinfo(urllib.parse.urlsplit(url).hostname, 443)


def prepare(name: str, data_dir: str | os.PathLike):
  """Prepares CIFAR from a download or from an archive placed by hand.

  Args:
    name: `cifar10` or `cifar100`.
    data_dir: directory of the TFDS sets; its `downloads/manual` may hold the
      archive.

  Returns:
    The builder of the prepared set.

  Raises:
    DatasetError: there is neither a network nor an archive.
  """
  downloads = pathlib.Path(data_dir) / "downloads"
  manual = downloads / "manual"
  builder = BUILDERS[name](data_dir=data_dir, file_format="array_record")
  config = tfds.download.DownloadConfig(
    manual_dir=os.fspath(manual), try_download_gcs=False
  )
  try:
    _check_reachable(builder, manual)
    manual.mkdir(parents=True, exist_ok=True)
    builder.download_and_prepare(
      download_dir=os.fspath(downloads), download_config=config
    )
  except Exception as error:  # From the network, the disk, the archive or TFDS.
    prepared = BUILDERS[name](data_dir=data_dir, file_format="array_record")
    if prepared.is_prepared():  # Another process was faster.
      return prepared
    url = builder._cifar_info.url
    raise DatasetError(
      f"{name} is not in {data_dir}, and could not be downloaded and prepared"
      f" there ({type(error).__name__}: {error}). Place the archive {url} in"
      f" {manual} by hand, or give another directory with --data_dir."
    ) from error
  return builder
