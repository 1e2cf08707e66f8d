"""Dense networks."""

from geomem.models.network import LayerSpec
from geomem.models.spec import ModelSpec, dense, logits


def mlp(
  spec: ModelSpec, *, depth: int = 3, relu: bool = True
) -> list[LayerSpec]:
  """Lists hidden layers of `width` units, and the logits.

  Without nonlinearities closed forms exist; see `studies.gradients`.
  """
  options = {"relu": relu, "dtype": spec.dtype}
  hidden = [dense(f"fc{i + 1}", spec.width, **options) for i in range(depth)]
  return [*hidden, logits(spec)]
