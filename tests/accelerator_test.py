"""What accelerators run gives the numbers of what a core runs.

The programs differ: many sets at once, features in blocks, loops that ask less
often. Here a core runs them, and says that it is none.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geomem import geometry, measures
from geomem.measures import activations


@pytest.fixture
def pretend(monkeypatch):
  """Lets programs be those of an accelerator from here on."""

  def start(name="gpu"):
    monkeypatch.setattr(jax, "default_backend", lambda: name)
    jax.clear_caches()

  yield start
  jax.clear_caches()


def forward(state, images):
  """Two layers; the first is wider than a block of features."""
  x = images.reshape(len(images), -1) / 255.0
  return {"wide": jax.nn.relu(x @ state["a"]), "narrow": x @ state["b"]}


def make_problem():
  rng = np.random.default_rng(0)
  images = {
    name: rng.integers(256, size=(6, 8, 5, 5, 1), dtype=np.uint8)
    for name in ("train", "test")
  }
  state = {
    "a": rng.standard_normal((25, 90), np.float32),
    "b": rng.standard_normal((25, 7), np.float32),
  }
  return jax.tree.map(jnp.asarray, state), images


def rows_of(state, images, names, centers):
  found = measures.measure_layers(
    jax.random.key(0),
    tuple(measures.MEASURES[name] for name in names),
    measures.Options(num_probes=40, centers=centers),
    forward,
    state,
    images,
    ("wide", "narrow"),
  )
  return {
    (layer, row["subset"], row["metric"]): row["value"]
    for layer, rows in found
    for row in rows
  }


@pytest.mark.slow
@pytest.mark.parametrize(
  # Which of nearly equal minima the directions end in, rounding may decide.
  "names, centers, error",
  [
    pytest.param(tuple(measures.MEASURES), None, 1e-3, marks=pytest.mark.long),
    (("mean_field",), "low_rank", 5e-2),
  ],
)
def test_layers_measured_together_and_in_blocks_give_the_same(
  names, centers, error, pretend, monkeypatch
):
  state, images = make_problem()
  expected = rows_of(state, images, names, centers)
  pretend()
  monkeypatch.setattr(activations, "_FEATURE_BLOCK", 32)
  widths = {
    layer: points.shape[1]
    for layer, points in measures.layer_blocks(
      forward, state, images["test"].reshape(-1, 5, 5, 1), ["wide", "narrow"]
    )
  }
  assert widths == {"wide": 96, "narrow": 32}
  found = rows_of(state, images, names, centers)
  assert found.keys() == expected.keys()
  of_glue = {m.name for m in measures.MEASURES["glue"].metrics}
  for name, value in expected.items():
    if name[2] in of_glue:
      # More points than features: rounding turns the root that probes are made
      # of, and they differ by less than their error; how many samples are
      # solved is up to rounding where the points surround the origin.
      if name[2] == "glue_converged":
        continue
      assert found[name] == pytest.approx(value, rel=5e-2, nan_ok=True), name
      continue
    # Rounding itself, and where on a flat minimum directions end.
    if name[2] not in ("residual", "center_left"):
      assert found[name] == pytest.approx(value, rel=error, abs=2e-4), name


def test_programmes_in_tiers_are_solved(pretend):
  rng = np.random.default_rng(1)
  points = rng.standard_normal((3, 20, 9), np.float32)
  points[..., -1] = 1
  probes = rng.standard_normal((3, 50, 9), np.float32)
  G = jnp.asarray(points @ points.swapaxes(1, 2))
  b = jnp.asarray(-probes @ points.swapaxes(1, 2))

  def values():
    found = geometry.solve_nonnegative_qp(G, b)
    assert found.converged.all()
    Glam = jnp.einsum("pij,ptj->pti", G, found.lam)
    return (found.lam * (Glam / 2 - b)).sum(axis=-1)

  expected = values()
  pretend()
  np.testing.assert_allclose(values(), expected, rtol=1e-4, atol=1e-5)


def test_devices_without_double_precision_do_without(pretend):
  """XLA cannot bring all that GLUE does in float64 to TPUs."""
  rng = np.random.default_rng(0)
  points = rng.standard_normal((4, 6, 60), np.float32)

  def measure(points):
    return geometry.glue(jax.random.key(0), points, num_probes=30)

  def program():
    return jax.jit(measure).lower(points).as_text()

  assert "xf64>" in program()
  expected = measure(points)
  pretend("tpu")
  assert "f64>" not in program()
  found = measure(points)
  assert found.converged.all()
  np.testing.assert_allclose(found.capacity, expected.capacity, rtol=1e-3)
  np.testing.assert_allclose(found.radius, expected.radius, rtol=1e-2)
