"""Models: networks as ordered lists of named layers."""

from geomem.models.architectures import MODELS, build
from geomem.models.network import Network, Output, dtype_named

__all__ = ["MODELS", "Network", "Output", "build", "dtype_named"]
