"""The case with a closed form: a deep linear network with small weights.

Without nonlinearities Jᵀ is a product of weight matrices. With x centred, e the
one-hot labels, and A and B the products of the weights before and after layer
ℓ, the label part of the layer's gradient is

  −Aᵀ Cov(x, e) Bᵀ = −Cov(h, e) Bᵀ,  h = xA the layer's features

at any weights. With small weights p → 1/C, and the total gradient is the same.
Source: Stephenson et al., ICLR 2021, eq. 25.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from geomem import compilation, models
from geomem.studies.gradients.backprop import basis_cotangents, pull_back

WIDTH = 64
# Relative to the usual initialization; four layers give logits of order 1e-4.
SCALE = 0.1
# The closed form is exact for any set, and takes it whole, in float64.
MOST_EXAMPLES = 1024


def deep_linear(
  num_classes: int, image_shape: tuple[int, int, int], seed: int
) -> tuple[models.Network, dict]:
  """Makes a deep linear network and its small initial state."""
  network = models.build(
    "deep_linear", num_classes=num_classes, image_shape=image_shape, width=WIDTH
  )
  state = network.init(jax.random.key(seed))
  return network, jax.tree.map(lambda w: SCALE * w, state)


def centered_images(images, std) -> Float[np.ndarray, "n H W C"]:
  """Subtracts the set's own mean of every pixel, in float32."""
  pixels = np.asarray(images, np.float64)
  return ((pixels - pixels.mean(axis=0)) / std).astype(np.float32)


def closed_form(
  network: models.Network,
  state: dict,
  images: Float[np.ndarray, "n H W C"],
  labels: Int[np.ndarray, " n"],
  *,
  centered: bool = True,
) -> dict[str, Float[np.ndarray, " P"]]:
  """Computes the label part of every layer, flattened, in float64.

  The network is deep linear and its biases are zero, and the images are
  centred. Whether labels are e_y − 1/C, `centered`, affects biases only.
  """
  x = images.reshape(len(images), -1).astype(np.float64)
  num_classes = network.abstract_state["logits"]["dense"]["bias"].shape[0]
  e = np.eye(num_classes)[labels]
  covariance = x.T @ (e - e.mean(axis=0)) / len(x)
  level = e.mean(axis=0) - (1 / num_classes if centered else 0)
  kernels = [
    np.asarray(state[layer]["dense"]["kernel"], np.float64)
    for layer in network.parameter_layers
  ]
  label_parts = {}
  for index, layer in enumerate(network.parameter_layers):
    after = functools.reduce(
      np.matmul, kernels[index + 1 :], np.eye(kernels[index].shape[1])
    )
    before = functools.reduce(np.matmul, kernels[:index], np.eye(x.shape[1]))
    parts = [-level @ after.T, -before.T @ covariance @ after.T]
    label_parts[layer] = np.concatenate([part.ravel() for part in parts])
  return label_parts


@functools.cache
def _compiled(network: models.Network):
  def sums(state, images, labels):
    def cotangents(logits):
      level = jnp.full(logits.shape[1], 1 / logits.shape[1])
      ones = jnp.ones(labels.shape)
      return basis_cotangents(logits, labels, ones, level)

    return pull_back(network, state, images, cotangents)

  return compilation.jit(sums)


def linear_rows(
  network: models.Network, state: dict, images, labels, subset: str
) -> list[dict]:
  """Compares measured gradients with the closed form.

  The metric is `closed_form_error`. The closed form is exact for the label
  part, raw and centred; the total converges to it as the weights get smaller.
  """
  sums = _compiled(network)(state, jnp.asarray(images), jnp.asarray(labels))
  rows = []
  for centered in (True, False):
    expected = closed_form(network, state, images, labels, centered=centered)
    for layer in network.parameter_layers:
      means = np.asarray(sums[layer], np.float64) / len(labels)
      total, label, mean, _ = means
      measured = {"label": label if centered else label - mean}
      if centered:
        measured["total"] = total
      for part, value in measured.items():
        distance = np.linalg.norm(value - expected[layer])
        rows.append(
          {
            "network": network.name,
            "layer": layer,
            "subset": subset,
            "part": part,
            "labels": "centered" if centered else "raw",
            "metric": "closed_form_error",
            "value": distance / np.linalg.norm(expected[layer]),
          }
        )
  return rows
