"""What must hold for any labels, points and rows."""

import collections
import json
import pathlib
import tempfile

import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from geomem import data, geometry, runs

SOME = hypothesis.settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**31 - 1)
# Few lengths, since each compiles programs of its own.
LABELS = st.sampled_from([1, 2, 17, 40]).flatmap(
  lambda n: hnp.arrays(np.int32, n, elements=st.integers(0, 4))
)


@SOME
@hypothesis.given(labels=LABELS, fraction=st.floats(0, 1), seed=SEEDS)
def test_permuted_labels_are_the_same_labels_elsewhere(labels, fraction, seed):
  found = data.permute_labels(jax.random.key(seed), labels, fraction)
  again = data.permute_labels(jax.random.key(seed), labels, fraction)
  assert collections.Counter(found.labels) == collections.Counter(labels)
  assert found.permuted.sum() == round(fraction * len(labels))
  changed = found.labels != labels
  assert not (changed & ~found.permuted).any()
  for one, other in zip(found, again, strict=True):
    np.testing.assert_array_equal(one, other)


@SOME
@hypothesis.given(labels=LABELS, fraction=st.floats(0, 1), seed=SEEDS)
def test_subsets_part_the_examples(labels, fraction, seed):
  permuted = data.permute_labels(jax.random.key(seed), labels, fraction)
  subsets = data.make_subsets(permuted, labels)
  parts = [
    subsets[n].indices for n in ("unpermuted", "permuted") if n in subsets
  ]
  assert sorted(np.concatenate(parts)) == list(range(len(labels)))
  # What was trained on, put together from the parts.
  trained = np.full(len(labels), -1)
  for name in {"unpermuted", "permuted"} & set(subsets):
    trained[subsets[name].indices] = subsets[name].labels
  np.testing.assert_array_equal(trained, permuted.labels)


@SOME
@hypothesis.given(
  counts=st.lists(st.integers(3, 6), min_size=2, max_size=4),
  other=st.integers(3, 6),
  seed=SEEDS,
  shift=st.integers(0, 50),
)
def test_samples_are_distinct_of_their_class_and_independent(
  counts, other, seed, shift
):
  def sample(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    ids = np.arange(len(labels)) + shift
    subset = data.Subset("test", "test", ids, labels)
    chosen = data.sample_manifolds(jax.random.key(seed), subset, len(counts), 3)
    np.testing.assert_array_equal(
      labels[chosen - shift], np.arange(len(counts))[:, None] * [[1, 1, 1]]
    )
    assert all(len(set(row)) == 3 for row in chosen.tolist())
    # The places within each class.
    return chosen - shift - (np.cumsum(counts) - counts)[:, None]

  first = sample(counts)
  # Another size of the last class, and the others choose as before.
  np.testing.assert_array_equal(sample([*counts[:-1], other])[:-1], first[:-1])


def points_of(seed, shape=(3, 4, 6)):
  rng = np.random.default_rng(seed)
  return rng.normal(size=shape) * rng.uniform(0.1, 10, (shape[0], 1, 1)) + 5


def assert_close(a, b, scale):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6 * scale, rtol=0),
    (a.within, a.cross, a.centers),
    (b.within, b.cross, b.centers),
  )


@SOME
@hypothesis.given(seed=SEEDS, block=st.sampled_from([1, 2, 4, 5, 6]))
def test_statistics_are_sums_that_neither_turns_nor_shifts_change(seed, block):
  points = points_of(seed)
  whole = geometry.gram_statistics(points)
  scale = float(jnp.trace(whole.within, axis1=-2, axis2=-1).max())
  scale += float(jnp.trace(whole.centers))
  assert_close(geometry.gram_statistics(points, block_size=block), whole, scale)
  rng = np.random.default_rng(seed)
  turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
  assert_close(
    geometry.gram_statistics(points @ turn + rng.normal(size=6)), whole, scale
  )


@SOME
@hypothesis.given(
  seed=SEEDS,
  manifolds=st.permutations(range(3)),
  order=st.permutations(range(4)),
)
def test_statistics_follow_the_order_of_manifolds_and_points(
  seed, manifolds, order
):
  points = points_of(seed)
  whole = geometry.gram_statistics(points)
  found = geometry.gram_statistics(points[manifolds][:, order])
  m, o = np.array(manifolds), np.array(order)
  expected = geometry.GramStatistics(
    within=whole.within[m][:, o][:, :, o],
    cross=whole.cross[m][:, o][:, :, m],
    centers=whole.centers[m][:, m],
    mask=whole.mask,
  )
  scale = float(jnp.abs(whole.within).max() + jnp.abs(whole.centers).max()) * 4
  assert_close(found, expected, scale)


ROWS = st.lists(
  st.fixed_dictionaries(
    {
      "seed": st.integers(0, 2),
      "epoch": st.none() | st.integers(0, 3),
      "metric": st.sampled_from(["accuracy", "loss"]),
    },
    optional={"width": st.integers(1, 2)},
  ),
  min_size=1,
  max_size=8,
)


def valued(rows):
  """Each row with a value that follows from what it is about."""
  return [row | {"value": len(repr(sorted(row.items()))) / 7} for row in rows]


def commit_all(path, blocks, order):
  with runs.Run(path, {}) as run:
    for number in order:
      run.commit({"unit": number}, valued(blocks[number]))
    return run.rows


def test_a_unit_does_not_take_the_rows_of_another_that_was_cut_off(tmp_path):
  """Rows that are equal: the later unit has its own at the end of the file."""
  row = {"seed": 0, "epoch": None, "metric": "accuracy"}
  blocks = [[row, row, row | {"width": 1}], [row]]
  commit_all(tmp_path, blocks, range(2))
  file = tmp_path / "results.jsonl"
  content = file.read_bytes()
  file.write_bytes(content[: len(content) // 3])
  commit_all(tmp_path, blocks, range(2))
  assert file.read_bytes() == content


@SOME
@hypothesis.given(
  blocks=st.lists(ROWS, min_size=1, max_size=4), draws=st.data()
)
def test_units_are_whole_whatever_was_lost(blocks, draws):
  """Units may hold equal rows, and rows equal to those of other units."""
  order = range(len(blocks))
  with tempfile.TemporaryDirectory() as path:
    calm = commit_all(path, blocks, order)
    assert len(calm) == sum(map(len, blocks))
    file = pathlib.Path(path) / "results.jsonl"
    content = file.read_bytes()
    # A cut anywhere, and the work done again.
    file.write_bytes(content[: draws.draw(st.integers(0, len(content)))])
    commit_all(path, blocks, order)
    assert file.read_bytes() == content
    # A damaged line, and the work done again in another order.
    lines = content.splitlines(True)
    lines[draws.draw(st.integers(0, len(lines) - 1))] = b"\x00{]\n"
    file.write_bytes(b"".join(lines))
    found = commit_all(path, blocks, draws.draw(st.permutations(order)))
    assert sorted(map(json.dumps, found)) == sorted(map(json.dumps, calm))
