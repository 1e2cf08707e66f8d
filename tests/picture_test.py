"""The picture of the method is computed, not drawn by hand."""

import numpy as np

from benchmarks import picture
from geomem import geometry


def test_the_hyperplane_separates_and_touches_at_the_anchors():
  points, labels = picture.classes(), np.array(picture.SEPARABLE)
  normal, anchors = picture.hyperplane(points, labels)
  margins = labels[:, None] * (points @ normal)
  np.testing.assert_allclose(margins.min(), 1, rtol=1e-4)
  assert anchors
  for i, anchor in anchors.items():
    np.testing.assert_allclose(labels[i] * anchor @ normal, 1, rtol=1e-4)


def test_the_other_labelling_is_separated_by_none():
  points = picture.classes()
  labels = np.repeat(picture.INSEPARABLE, points.shape[1])
  assert not geometry.is_separable(points.reshape(-1, 2), labels)
