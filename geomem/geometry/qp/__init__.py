"""The quadratic programmes at the heart of the geometry."""
