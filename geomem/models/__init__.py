"""Models: networks as ordered lists of named layers."""

from geomem.models.architectures import MODELS, build
from geomem.models.network import Network, Output

__all__ = ["MODELS", "Network", "Output", "build"]
