"""Strict mode for every test: no silent broadcasting, shapes checked."""

import os

# Before jax is imported: tests never need an accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jaxtyping

# Public borders state their shapes; the tests hold the code to them.
jaxtyping.install_import_hook("geomem", "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")
