"""Centres: the directions that they share, and how many of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geomem import geometry

KEY = jax.random.key(0)


def correlated(num_manifolds, rank, strength=3.0, seed=0):
  """Gram matrix of centres that share directions, and the centres."""
  rng = np.random.default_rng(seed)
  shared = rng.normal(size=(num_manifolds, rank)) @ rng.normal(size=(rank, 400))
  centers = strength * shared + rng.normal(size=(num_manifolds, 400))
  return centers @ centers.T, centers


def test_shared_directions_are_found_and_removed():
  """Centres that share three directions: K = 3, and no correlation is left."""
  gram, centers = correlated(30, 3)
  with jax.enable_x64(True):
    found = geometry.shared_directions(KEY, jnp.asarray(gram))
    assert int(found.rank) == 3
    assert float(found.correlations[0]) > 0.3
    assert float(found.correlations[3]) < 0.1
    assert float(found.costs[3]) >= 15  # P / 2, where no cosine is left.
    # V = C̄ᵀA has orthonormal columns.
    kept = np.asarray(found.coefficients)[:, :3]
    V = (centers - centers.mean(axis=0)).T @ kept
    np.testing.assert_allclose(V.T @ V, np.eye(3), atol=1e-9)


def test_rules_find_the_rank_and_independent_centres_have_none():
  gram, independent = correlated(30, 3)[0], correlated(30, 1, strength=0.0)[0]
  for rule in ("elbow", "null"):
    find = jax.jit(
      lambda gram, rule=rule: geometry.shared_directions(KEY, gram, rule).rank
    )
    assert int(find(jnp.asarray(gram, jnp.float32))) == 3
    if rule == "null":
      assert int(find(jnp.asarray(independent, jnp.float32))) == 0


def random_start_cost(X, rank, seed):
  """By plain descent from one random start, with its own gradient."""
  rng = np.random.default_rng(seed)
  V, _ = np.linalg.qr(rng.normal(size=(X.shape[1], rank)))

  def cost(V):
    Y = X - X @ V @ V.T
    Y = Y / jnp.linalg.norm(Y, axis=1, keepdims=True)
    return 0.5 * ((Y @ Y.T) ** 2).sum()

  value_and_grad = jax.jit(jax.value_and_grad(cost))
  rate, best = 0.1, np.inf
  for _ in range(300):
    value, gradient = value_and_grad(V)
    rate = 1.2 * rate if value < best else 0.5 * rate
    best = min(best, float(value))
    V, _ = np.linalg.qr(V - rate * gradient / np.linalg.norm(gradient))
  return best


def test_costs_are_as_low_as_those_of_many_random_starts():
  gram = correlated(20, 4)[0]
  with jax.enable_x64(True):
    found = geometry.shared_directions(KEY, jnp.asarray(gram))
    centered = gram - gram.mean(axis=0)
    centered = centered - centered.mean(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(centered)
    # Without the axis that the mean has taken: V must stay in their span.
    X = (vectors * np.sqrt(np.maximum(values, 0)))[:, 1:]
    for rank in (1, 3, 4, 6):
      others = min(random_start_cost(X, rank, seed) for seed in range(5))
      assert float(found.costs[rank]) <= 1.01 * others


def test_the_stability_rule_and_the_number_of_directions_are_options():
  gram = jnp.asarray(correlated(12, 2)[0], jnp.float32)
  found = geometry.shared_directions(KEY, gram, 2, select="stability")
  assert int(found.rank) == 2
  nothing = geometry.shared_directions(KEY, gram, None)
  assert int(nothing.rank) == 0
  assert not bool(nothing.coefficients.any())
  with pytest.raises(ValueError, match="at most 9 can"):
    geometry.shared_directions(KEY, gram, 10)
  with pytest.raises(ValueError, match="'high' is not known"):
    geometry.shared_directions(KEY, gram, "high")
  with pytest.raises(ValueError, match="'luck' is not known"):
    geometry.shared_directions(KEY, gram, select="luck")
