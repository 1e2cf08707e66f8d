"""What a measure is: named numbers of a layer, from sufficient statistics."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from geomem import geometry

# Greek letters in Matplotlib's markup, and as text.
_LETTERS = {
  r"\alpha": "\N{GREEK SMALL LETTER ALPHA}",
  r"\rho": "\N{GREEK SMALL LETTER RHO}",
}


class Metric(NamedTuple):
  """One number of a layer, and how to show it.

  Attributes:
    name: as rows call it.
    label: as axes call it, with the unit; Matplotlib's markup.
    scale: `linear` or `log`.
    has_chance: whether the rows know its value for structureless points.
  """

  name: str
  label: str
  scale: str = "linear"
  has_chance: bool = False

  @property
  def plain_label(self) -> str:
    """The label without mathematical markup."""
    text = self.label.replace("$", "")
    for markup, letter in _LETTERS.items():
      text = text.replace(markup, letter)
    return text


class Options(NamedTuple):
  """What a user chooses about the measures; hashable.

  Attributes:
    kappa: margin κ, in units of the norm of a manifold's centre.
    num_probes: T, probes of each manifold.
    centers: the rule for shared directions; see `geometry.manifold_geometry`.
    labels: the labellings that GLUE asks for, of `geometry.LABELLINGS`.
  """

  kappa: float = 0.0
  num_probes: int = 300
  centers: str | int | None = "low_rank"
  labels: str = "balanced"


# From the points `[P, M, N]` of a subset, and features at a time, to all that a
# measure needs of them. By name: most measures take those of manifolds; those
# of all points with each other take (P M)² numbers.
STATISTICS: dict[str, Callable[..., Any]] = {
  "manifolds": geometry.gram_statistics,
  "points": geometry.point_products,
}

# Values `[subsets]` of a metric, and their standard errors or None.
Values = tuple[Any, Any]


class Measure(NamedTuple):
  """A function of a layer's manifolds, and the metrics it gives.

  Attributes:
    name: as `--measures` calls it.
    metrics: in the order of the rows.
    compute: `(key, statistics, options) -> arrays`, of the manifolds of one
      subset; jax traces it.
    summarize: from those arrays, with a leading axis for the subsets, to the
      values and standard errors of each metric; jax traces it, too.
    statistic: of `STATISTICS`, what `compute` takes.
  """

  name: str
  metrics: tuple[Metric, ...]
  compute: Callable[[Any, Any, Options], Any]
  summarize: Callable[[Any], dict[str, Values]]
  statistic: str = "manifolds"

  def rows(
    self, values: dict[str, Values], subsets: Sequence[str]
  ) -> list[dict[str, Any]]:
    """Makes the rows of a layer from the values of its subsets."""
    rows = []
    for i, subset in enumerate(subsets):
      for metric in self.metrics:
        value, stderr = values[metric.name]
        rows.append(
          {
            "subset": subset,
            "metric": metric.name,
            "value": float(value[i]),
            "stderr": None if stderr is None else float(stderr[i]),
          }
        )
    return rows
