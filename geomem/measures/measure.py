"""The definition of a measure: numbers of a layer from its statistics."""

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
    name: its name in rows.
    label: its name on axes, with the unit, in Matplotlib's markup.
    scale: `linear` or `log`.
    chance: the fact among the rows that is its value for structureless points,
      `chance_capacity` or `chance_accuracy`; empty if none is.
  """

  name: str
  label: str
  scale: str = "linear"
  chance: str = ""

  @property
  def plain_label(self) -> str:
    """The label without mathematical markup."""
    text = self.label.replace("$", "")
    for markup, letter in _LETTERS.items():
      text = text.replace(markup, letter)
    return text


class Options(NamedTuple):
  """The user's options for the measures; hashable.

  Attributes:
    kappa: margin κ, in units of the norm of a manifold's centre.
    num_probes: T, number of probes of each manifold.
    centers: the rule for shared directions; see `geometry.manifold_geometry`.
    labels: the labellings for GLUE, one of `geometry.LABELLINGS`.
  """

  kappa: float = 0.0
  num_probes: int = 300
  centers: str | int | None = "low_rank"
  labels: str = "balanced"


# Functions from the points `[P, M, N]` of a subset, and a block size of
# features, to the statistics of measures. Most measures take `manifolds`; the
# products of all points with each other, `points`, are (P M)² numbers.
STATISTICS: dict[str, Callable[..., Any]] = {
  "manifolds": geometry.gram_statistics,
  "points": geometry.point_products,
}

# Values `[subsets]` of a metric, and their standard errors or None.
Values = tuple[Any, Any]


def without_errors(values: dict[str, Any]) -> dict[str, Values]:
  """Gives metrics that a measure computed by their names no errors."""
  return {name: (value, None) for name, value in values.items()}


class Measure(NamedTuple):
  """A function of a layer's manifolds, and the metrics that it computes.

  Attributes:
    name: its name in `--measures`.
    metrics: its metrics, in the order of the rows.
    compute: `(key, statistics, options) -> arrays`, for the manifolds of one
      subset; jax traces it.
    summarize: from those arrays, of one subset or with leading axes, to the
      values and standard errors of each metric; jax traces it, too. By default
      the arrays are the metrics, and have no errors.
    statistic: the kind of `STATISTICS` that `compute` takes.
  """

  name: str
  metrics: tuple[Metric, ...]
  compute: Callable[[Any, Any, Options], Any]
  summarize: Callable[[Any], dict[str, Values]] = without_errors
  statistic: str = "manifolds"

  def rows(
    self, values: dict[str, Values], subsets: Sequence[str]
  ) -> list[dict[str, Any]]:
    """Makes the rows of a layer from the values of its subsets."""

    def row(i, subset, name):
      value, stderr = values[name]
      error = None if stderr is None else float(stderr[i])
      numbers = {"value": float(value[i]), "stderr": error}
      return {"subset": subset, "metric": name} | numbers

    return [
      row(i, subset, metric.name)
      for i, subset in enumerate(subsets)
      for metric in self.metrics
    ]
