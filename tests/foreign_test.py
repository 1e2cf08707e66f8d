"""Arrays of other libraries, and manifolds from labelled examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geomem import geometry
from geomem.geometry import arrays
from tests.fakes import also_long


class Tensor:
  """A tensor as PyTorch's: DLPack once it is detached, never `__array__`."""

  def __init__(self, values, device=1, grad=True):
    self._values, self._device, self._grad = values, device, grad
    self.shape, self.dtype = values.shape, f"tensor.{values.dtype}"

  def detach(self):
    return Tensor(self._values, self._device, grad=False)

  def __dlpack_device__(self):
    return self._device, 0

  def __dlpack__(self, **kwargs):
    if self._grad:
      raise BufferError("This tensor requires gradients; detach it.")
    if self._device != 1:
      raise BufferError("There is no such device.")
    return self._values.__dlpack__(**kwargs)

  def __array__(self, *_, **__):
    raise TypeError("A tensor is not an array.")


class OnCuda(Tensor):
  """One on a device that JAX does not see."""

  def __init__(self, values, grad=True):
    super().__init__(values, device=2, grad=grad)

  def detach(self):
    return OnCuda(self._values, grad=False)

  def cpu(self):
    return Tensor(self._values, grad=self._grad)


POINTS = np.random.default_rng(0).normal(size=(4, 6, 20))


@pytest.mark.parametrize("kind", [Tensor, OnCuda])
@pytest.mark.parametrize(
  "dtype", [np.float64, np.float32, np.float16, np.int32]
)
def test_tensors_give_what_their_values_give(kind, dtype):
  values = (10 * POINTS).astype(dtype)
  found = geometry.gram_statistics(kind(values))
  expected = geometry.gram_statistics(values)
  np.testing.assert_array_equal(found.within, expected.within)
  in_a_list = geometry.gram_statistics([kind(x) for x in values])
  np.testing.assert_array_equal(in_a_list.within, expected.within)


def test_a_tensor_on_the_host_keeps_the_digits_of_a_far_offset():
  # Converted first, 1e8 would leave nothing of them in single precision.
  near = geometry.gram_statistics(POINTS)
  far = geometry.gram_statistics(Tensor(POINTS + 1e8))
  np.testing.assert_allclose(far.within, near.within, rtol=1e-4, atol=1e-4)


def test_a_tensor_of_a_type_that_numpy_lacks_becomes_an_array_of_jax():
  values = jnp.asarray(POINTS, jnp.bfloat16)
  found = arrays.as_array(Tensor(values))
  assert found.dtype == jnp.bfloat16
  np.testing.assert_array_equal(found, values)


def test_masks_and_labels_may_be_tensors():
  mask = np.ones(POINTS.shape[:2], bool)
  mask[0, 3:] = False
  found = geometry.gram_statistics(Tensor(POINTS), mask=Tensor(mask))
  assert found.within.shape == (4, 6, 6)
  np.testing.assert_array_equal(found.mask, mask)
  assert geometry.is_separable(Tensor(POINTS[0]), Tensor(np.arange(6) % 2))


def test_a_tensor_that_cannot_be_had_is_named():
  with pytest.raises(ValueError, match=r"Tensor with type tensor\.float64"):
    geometry.gram_statistics(Tensor(POINTS, device=7))


def test_manifolds_hold_examples_of_their_label_once():
  labels = np.array(["b", "a", "c", "a", "b", "a", "c", "b", "c", "c"])
  activations = np.arange(10)[:, None, None] + np.zeros((1, 2, 3))
  found = geometry.manifolds(
    activations, labels, per_class=2, key=jax.random.key(0)
  )
  assert found.shape == (3, 2, 6)
  chosen = found[..., 0].astype(int)
  assert (found == chosen[..., None]).all()
  np.testing.assert_array_equal(
    labels[chosen], [["a"] * 2, ["b"] * 2, ["c"] * 2]
  )
  assert (chosen[:, 0] != chosen[:, 1]).all()


# NumPy's strings of variable length are its own type from version 2 on.
STRING = getattr(np.dtypes, "StringDType", lambda: object)


@pytest.mark.parametrize("dtype", [object, STRING()])
def test_strings_of_any_type_are_labels(dtype):
  found = geometry.manifolds(
    np.arange(4)[:, None],
    np.array(["b", "a", "b", "a"], dtype),
    key=jax.random.key(0),
  )
  assert [sorted(of.ravel()) for of in found] == [[1, 3], [0, 2]]


@pytest.mark.parametrize("kind", [int, np.int64, bool])
def test_whole_numbers_in_an_array_of_objects_are_labels(kind):
  labels = np.array([1, 0, 1, 0])
  objects = np.array([kind(x) for x in labels], object)
  rows, key = np.arange(4)[:, None], jax.random.key(0)
  np.testing.assert_array_equal(
    geometry.manifolds(rows, objects, key=key),
    geometry.manifolds(rows, labels, key=key),
  )


def test_manifolds_under_jit_are_those_outside():
  rng = np.random.default_rng(1)
  x, labels = rng.normal(size=(12, 8)).astype("f4"), np.arange(12) % 3
  key = jax.random.key(3)

  def measured(x):
    drawn = geometry.manifolds(x, labels, per_class=3, key=key)
    found = geometry.manifold_geometry(key, drawn, num_probes=4, centers=None)
    return found.mean_capacity, drawn

  drawn = geometry.manifolds(jnp.asarray(x), labels, per_class=3, key=key)
  differentiated = jax.value_and_grad(measured, has_aux=True)
  (capacity, _), gradient = differentiated(jnp.asarray(x))

  @jax.jit
  def under_jit(traced, scale):
    # What a traced function closes over is known.
    return differentiated(traced), scale * measured(jnp.asarray(x))[0]

  ((found, traced), slope), closed = under_jit(x, 2.0)
  np.testing.assert_array_equal(traced, drawn)
  assert float(found) == pytest.approx(float(capacity), rel=1e-4)
  assert float(closed) == pytest.approx(2 * float(capacity), rel=1e-4)
  np.testing.assert_allclose(slope, gradient, atol=1e-5)


def test_subsets_under_jit_are_those_outside():
  mask = np.ones(POINTS.shape[:2], bool)
  mask[1, 4:] = False
  points, key = jnp.asarray(POINTS, jnp.float32), jax.random.key(3)

  def capacities(points):
    found = geometry.subsample(
      key, points, mask=mask, num_samples=2, num_probes=4, centers=None
    )
    return found.samples.capacity

  found, expected = jax.jit(capacities)(points), capacities(points)
  np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_what_a_traced_function_closes_over_is_known():
  points = jnp.asarray(POINTS, jnp.float32)
  hidden = np.ma.masked_array(
    POINTS[1], np.arange(6)[:, None] + POINTS[1] * 0 < 2
  )
  found = jax.jit(lambda s: s * geometry.point_products(points).gram)(1.0)
  np.testing.assert_allclose(
    found, geometry.point_products(points).gram, rtol=1e-5, atol=1e-5
  )
  of_list = jax.jit(lambda x: geometry.gram_statistics([x, hidden]).mask)
  np.testing.assert_array_equal(
    of_list(points[0]), [[True] * 6, [False] * 2 + [True] * 4]
  )


def test_masks_of_points_on_the_host_are_not_traced():
  for function in (geometry.gram_statistics, geometry.point_products):
    traced = jax.jit(lambda m, function=function: function(POINTS, mask=m))
    with pytest.raises(ValueError, match="works on the host"):
      traced(np.ones(POINTS.shape[:2], bool))


def test_every_example_is_drawn_as_often():
  # 2,000 draws of 2 of 4: each is in 1,000 of them, ± 22.
  labels = np.array([0, 1, 0, 1, 0, 1, 0, 1])
  rows = np.arange(8)[:, None]
  counts = np.zeros(8)
  for seed in range(2000):
    found = geometry.manifolds(
      rows, labels, per_class=2, key=jax.random.key(seed)
    )
    counts[found.ravel()] += 1
  assert abs(counts - 1000).max() < 100


def test_one_key_chooses_the_same_examples_in_all_layers():
  labels, key = np.arange(12) % 3, jax.random.key(1)
  first = geometry.manifolds(np.arange(12)[:, None], labels, key=key)
  other = geometry.manifolds(
    jnp.arange(12)[:, None] * jnp.ones((1, 5), int), Tensor(labels), key=key
  )
  assert first.shape == (3, 4, 1)
  assert isinstance(other, jax.Array)
  np.testing.assert_array_equal(other[..., :1], first)


@pytest.mark.parametrize(
  ("shape", "labels", "per_class", "sentence"),
  [
    ((6, 2), [0, 0, 0, 1, 1, 2], 2, "1 to 1 .* label 2"),
    ((6, 2), [0, 0, 0, 1, 1, 1], 0, "per_class is 0"),
    ((5, 2), [0, 0, 0, 1, 1, 1], 2, r"shape \(5, 2\) .* \(6,\)"),
    ((6, 2), np.eye(6), 2, r"labels \(6, 6\)"),
    ((6,), [0, 0, 0, 1, 1, 1], 2, r"shape \(6,\)"),
    ((6, 2), [0.0, 0.5, 1, 1, 1, 1], 2, "float64"),
    ((0, 2), np.zeros(0, int), 2, "There are 0 labels"),
    ((3, 2), np.ma.array([0, 1, 1], mask=[0, 0, 1]), 1, "hidden by a mask"),
    ((3, 2), np.array(["a", None, "a"], object), 1, "type object"),
  ],
)
def test_labels_that_do_not_fit_are_refused(shape, labels, per_class, sentence):
  with pytest.raises(ValueError, match=sentence):
    geometry.manifolds(
      np.zeros(shape), labels, per_class=per_class, key=jax.random.key(0)
    )


@pytest.mark.parametrize(
  "dtype", [jnp.bfloat16, *also_long(jnp.float16), np.int8, "int4"]
)
def test_programmes_take_any_real_type(dtype):
  S = np.array([[1, 0, 1], [-1, 1, 1], [0, -2, 1]])
  t = np.array([[2, 0, -1], [1, 1, 1], [0, -2, 0]])

  def solutions(to):
    frame, probes = to(S), to(t)
    G, b = to(S @ S.T), to(1 - t @ S.T)
    solver = geometry.NonnegativeQP()
    return (
      geometry.anchors(frame, probes, 1).lam,
      geometry.ellipsoid_anchors(jnp.array([1.0, 2]), probes, 1).force,
      geometry.solve_nonnegative_qp(G[None], b[None]).lam,
      geometry.solve_signed_qp(G, b, to(np.ones((3, 3)))).lam,
      solver.run(None, G, b[1]).params,
    )

  floats = solutions(lambda x: jnp.asarray(x, jnp.float32))
  if dtype == "int4":  # Which JAX promotes to no other type.
    points = jnp.asarray(S[None] + [[[0]], [[3]]])
    expected, found = (
      geometry.gram_statistics(points.astype(kind)).within
      for kind in ("float32", dtype)
    )
    np.testing.assert_array_equal(found, expected)
    return
  for found, expected in zip(
    solutions(lambda x: jnp.asarray(x).astype(dtype)), floats, strict=True
  ):
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_statistics_of_another_precision_are_taken_silently():
  points = np.random.default_rng(0).normal(size=(3, 5, 20))
  stats = geometry.gram_statistics(points)
  with jax.enable_x64(True):
    wide = geometry.gram_statistics(points)
  assert wide.within.dtype == np.float64
  found, expected = (
    geometry.manifold_geometry(jax.random.key(0), x, num_probes=10)
    for x in (wide, stats)
  )
  np.testing.assert_allclose(found.capacity, expected.capacity, rtol=1e-5)


def test_products_of_another_precision_are_taken_silently():
  """CKA, alignment, spectra and sums used to fail where types met."""
  points = np.random.default_rng(0).normal(size=(3, 5, 20))

  def measure(stats, products, others):
    yield geometry.within_spectrum(stats + stats)
    yield geometry.center_spectrum(stats)
    yield geometry.label_alignment(products + products)
    yield geometry.linear_cka(products, others)
    yield geometry.glue(jax.random.key(0), products, num_probes=4).capacity

  def made():
    others = geometry.point_products(points[..., :7])
    stats = geometry.gram_statistics(points)
    return stats, geometry.point_products(points), others

  expected = list(measure(*made()))
  with jax.enable_x64(True):
    wide = made()
  assert wide[1].gram.dtype == np.float64
  for found, number in zip(measure(*wide), expected, strict=True):
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, number, rtol=1e-5, atol=1e-5)


def test_arrays_of_another_precision_keep_their_digits():
  """An offset of 10⁶ used to take four digits off points in float64."""
  points = 1e6 + np.random.default_rng(0).normal(size=(3, 5, 20))
  with jax.enable_x64(True):
    wide, radii = jnp.asarray(points), jnp.asarray([0.5, 2.0])
  assert wide.dtype == np.float64
  near = np.asarray(geometry.gram_statistics(points - 1e6).within)
  found = geometry.gram_statistics(wide)
  np.testing.assert_allclose(found.within, near, rtol=1e-5, atol=1e-5)
  found = geometry.ball_capacity(radii, 3.0)
  assert found == pytest.approx(geometry.ball_capacity(np.array(radii), 3.0))


def test_results_compare_and_show_their_means():
  points = np.random.default_rng(0).normal(size=(3, 5, 20))
  found = geometry.manifold_geometry(jax.random.key(0), points, num_probes=10)
  again = geometry.manifold_geometry(jax.random.key(0), points, num_probes=10)
  assert found not in [again]
  assert hash(found)
  mean = float(found.mean_capacity)
  assert f"capacity {mean:.4f}".rstrip("0") in repr(found)
  assert len(repr(found)) < 100


def test_only_public_names_are_listed():
  assert dir(geometry) == sorted(geometry.__all__)


def test_a_tuple_of_layers_is_refused_by_name():
  layers = tuple(np.zeros((3, 30, 7, 4)))
  with pytest.raises(ValueError, match="one layer at a time"):
    geometry.manifolds(layers, np.arange(30) % 3, key=jax.random.key(0))
