"""Where and when a deep network memorizes, by the geometry of its layers."""

__version__ = "0.1.0"
