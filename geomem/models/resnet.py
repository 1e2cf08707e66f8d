"""Residual networks."""

from geomem.models.layers import Block, mean_pool, stem_pool
from geomem.models.network import LayerSpec
from geomem.models.spec import ModelSpec, conv, function, layer, logits


def resnet(
  spec: ModelSpec, *, depths: tuple[int, ...], bottleneck: bool = False
) -> list[LayerSpec]:
  """Lists stages of k, 2k, 4k and 8k channels, k being the width.

  Source: He et al., CVPR 2016. For large images the stem is a 7 x 7
  convolution and pooling, each with stride two, as in the source; for small
  ones it is a 3 x 3 convolution, with widths as in Nakkiran et al., "Deep
  double descent", ICLR 2020. `depths` has the number of blocks in each stage.
  """
  stem = {"size": 7, "stride": 2} if spec.is_large else {}
  layers = [conv("stem", spec.width, norm=True, dtype=spec.dtype, **stem)]
  if spec.is_large:
    layers.append(function("stem_pool", stem_pool))
  for stage, depth in enumerate(depths):
    for index in range(depth):
      layers.append(
        layer(
          f"block{stage + 1}_{index + 1}",
          Block,
          spec.width * 2**stage,
          stride=2 if stage and not index else 1,
          bottleneck=bottleneck,
          dtype=spec.dtype,
        )
      )
  return [*layers, function("pool", mean_pool), logits(spec)]
