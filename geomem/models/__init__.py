"""Models: networks as ordered lists of named layers."""

from geomem.models.architectures import MODELS, build, check_known
from geomem.models.network import Network, Output, dtype_named
from geomem.models.spec import ModelSpec

__all__ = [
  "MODELS",
  "ModelSpec",
  "Network",
  "Output",
  "build",
  "check_known",
  "dtype_named",
]
