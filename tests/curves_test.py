"""Figures show each number in its place: under its label, at its x."""

import itertools

import numpy as np
import pytest

from geomem import plots, runs
from geomem.plots import style
from geomem.studies.readout import plot_readout
from geomem.studies.similarity import plot_similarity
from tests import figures_test as known
from tests import gradient_findings_test as gradients
from tests.fakes import curve, line_of
from tests.figures_test import BEST, LAST, LAYERS, METRICS, SUBSETS, mean_of
from tests.figures_test import number as number_of

EPOCHS = np.arange(4)


def look(line) -> tuple:
  """What tells the entries of a legend apart that are not of a colour."""
  is_open = line.get_markerfacecolor() == "w"
  marker = line.get_marker() not in ("None", None, "")
  return line.get_linestyle(), marker, is_open, line.get_alpha()


def explained(figure) -> dict[str, tuple]:
  """Returns the looks of the figure's own legend, by what it calls them."""
  legend = figure.legends[0]
  names = [text.get_text() for text in legend.get_texts()]
  return {
    name: look(handle)
    for name, handle in zip(names, legend.legend_handles, strict=True)
    if hasattr(handle, "get_markerfacecolor")
  }


def of_look(ax, color: str, wanted: tuple) -> tuple[np.ndarray, np.ndarray]:
  """Returns x and y of the one curve of a colour that looks so."""
  lines = [*ax.get_lines(), *(line_of(bars) for bars in ax.containers)]
  (line,) = {
    id(line): line
    for line in lines
    if line.get_color() == color and look(line) == wanted
  }.values()
  return tuple(np.asarray(values, float) for values in line.get_data())


def assert_curve(found, x, y) -> None:
  np.testing.assert_allclose(found[0], x)
  np.testing.assert_allclose(found[1], y, rtol=1e-3)


def color_of(ax, label: str) -> str:
  handles, names = ax.get_legend_handles_labels()
  return line_of(handles[names.index(label)]).get_color()


def means(metric, subset, layer=None, *more):
  return [mean_of(metric, subset, (e, e), layer, *more) for e in EPOCHS]


def test_accuracy_of_each_subset_is_under_its_name():
  (ax,) = plots.plot_accuracy(known.rows_of()).axes
  for subset in SUBSETS:
    assert_curve(curve(ax, subset), EPOCHS, means("accuracy", subset))
    assert color_of(ax, subset) == style.COLORS[subset]


def test_losses_of_each_subset_are_under_its_name():
  rows = known.rows_of()
  for row in rows.where("accuracy"):
    row["metric"] = "loss"
  (ax,) = plots.plot_loss(rows).axes
  for subset in SUBSETS:
    assert_curve(curve(ax, subset), EPOCHS, means("accuracy", subset))


def test_geometry_by_layer_has_the_best_epoch_above_the_last():
  axes = plots.plot_geometry_by_layer(known.rows_of()).axes
  assert len(axes) == 6
  places = itertools.product((BEST, LAST), METRICS)
  for ax, (epochs, metric) in zip(axes, places, strict=True):
    assert ax.get_ylabel() == style.label_of(metric)
    for subset in SUBSETS:
      expected = [mean_of(metric, subset, epochs, name) for name in LAYERS]
      assert_curve(curve(ax, subset), range(4), expected)
      assert color_of(ax, subset) == style.COLORS[subset]
      faint = [
        line.get_ydata()
        for line in ax.get_lines()
        if line.get_alpha() == 0.35 and line.get_color() == style.COLORS[subset]
      ]
      # Below, the best epoch is repeated.
      best = [mean_of(metric, subset, BEST, name) for name in LAYERS]
      assert len(faint) == (epochs == LAST)
      for heights in faint:
        np.testing.assert_allclose(heights, best, rtol=1e-3)


SIZES = np.array([300, 500])  # Parameters of the widths 3 and 5.


def by_size(metric, subset, epochs, layer=None):
  return [mean_of(metric, subset, epochs, layer, width) for width in (3, 5)]


def test_the_figure_of_sizes_has_all_curves_in_their_places():
  figure = plots.plot_model_size(known.size_rows())
  accuracy, training, change, *geometry = figure.axes
  names = explained(figure)
  at = {"best epoch": BEST, "last epoch": LAST}
  color = style.COLORS["test"]
  for name, epochs in at.items():
    found = of_look(accuracy, color, names[name])
    assert_curve(found, SIZES, by_size("accuracy", "test", epochs))
    for ax, metric in zip(
      geometry, ("radius", "dimension", "capacity"), strict=True
    ):
      assert style.label_of(metric) in ax.get_ylabel()
      found = of_look(ax, color, names[name])
      assert_curve(found, SIZES, by_size(metric, "test", epochs, "fc2"))
  for subset in ("unpermuted", "permuted"):
    expected = by_size("accuracy", subset, LAST)
    assert_curve(curve(training, subset), SIZES, expected)
    assert color_of(training, subset) == style.COLORS[subset]
  for metric in ("dimension", "radius"):
    ratios = [
      np.mean(
        [
          number_of(metric, "fc2", s, LAST[s], "test", width)
          / number_of(metric, "fc2", s, BEST[s], "test", width)
          for s in (0, 1)
        ]
      )
      for width in (3, 5)
    ]
    (name,) = (
      label
      for label in change.get_legend_handles_labels()[1]
      if metric in label
    )
    assert_curve(curve(change, name), SIZES, ratios)


def test_geometry_by_size_has_a_row_for_each_subset():
  figure = plots.plot_geometry_by_size(known.size_rows())
  names = explained(figure)
  places = itertools.product(SUBSETS[:3], ("radius", "dimension", "capacity"))
  for ax, (subset, metric) in zip(figure.axes, places, strict=True):
    assert ax.get_ylabel() == f"{subset} {style.label_of(metric)}"
    for name, epochs in (("best epoch", BEST), ("last epoch", LAST)):
      found = of_look(ax, style.COLORS[subset], names[name])
      assert_curve(found, SIZES, by_size(metric, subset, epochs, "fc2"))


def test_curves_of_sizes_are_named_by_their_parameters():
  accuracy, dimension = plots.plot_size_by_epoch(known.size_rows()).axes
  for width in (3, 5):
    label = f"{100 * width}"
    expected = means("accuracy", "test", None, width)
    assert_curve(curve(accuracy, label), EPOCHS, expected)
    expected = means("dimension", "test", "fc2", width)
    assert_curve(curve(dimension, label), EPOCHS, expected)


def noise_rows():
  rows = runs.Rows()
  for fraction in (0.25, 0.5):
    rows += known.rows_of(permuted_fraction=fraction)
    for seed in (0, 1):
      at = {"seed": seed, "subset": "permuted", "permuted_fraction": fraction}
      found = {"metric": "departure_depth", "value": fraction + seed / 10}
      rows.append(dict.fromkeys(runs.COLUMNS) | at | found)
  return rows


def by_fraction(metric, subset, epochs):
  return [mean_of(metric, subset, epochs, "fc2", x) for x in (0.25, 0.5)]


def test_the_last_layer_by_noise_has_both_epochs_in_their_looks():
  figure = plots.plot_last_layer(noise_rows())
  names = explained(figure)
  for ax, metric in zip(figure.axes, METRICS, strict=True):
    for subset in SUBSETS:
      expected = by_fraction(metric, subset, LAST)
      assert_curve(curve(ax, subset), [0.25, 0.5], expected)
      color = style.COLORS[subset]
      for name, epochs in (("best epoch", BEST), ("last epoch", LAST)):
        found = of_look(ax, color, names[name])
        expected = by_fraction(metric, subset, epochs)
        assert_curve(found, [0.25, 0.5], expected)


def test_departures_are_left_and_capacities_right():
  left, right = plots.plot_departure(noise_rows()).axes
  assert_curve(curve(left, "permuted"), [0.25, 0.5], [0.3, 0.55])
  expected = by_fraction("capacity", "permuted", LAST)
  assert_curve(curve(right, "permuted"), [0.25, 0.5], expected)


# The sets that a name on an axis stands for, by their kind.
SETS = {
  "one layer alone": ("single", {"fc1": "fc1", "fc2": "fc2"}),
  "from a layer on": ("suffix", {"fc1": "fc1+fc2", "fc2": "fc2"}),
  "up to a layer": ("prefix", {"fc1": "fc1", "fc2": "fc1+fc2"}),
}


def test_rewinds_of_each_layer_are_under_its_name():
  axes = {
    ax.get_title(): ax
    for ax in plots.plot_rewind_accuracy(known.rewind_rows()).axes
  }
  assert len(axes) == 6
  for subset in ("test", "permuted"):
    for title, (kind, sets) in SETS.items():
      ax = axes[f"{subset}, {title}"]
      whole = means("accuracy", subset)
      assert_curve(curve(ax, "all layers"), EPOCHS, whole)
      for name, rewound in sets.items():
        expected = means("accuracy", subset, None, kind, rewound)
        assert_curve(curve(ax, name), EPOCHS, expected)


def test_what_comes_back_is_above_its_layer():
  recovered, accuracy = plots.plot_recovered(known.rewind_rows()).axes
  ticks = [text.get_text() for text in recovered.get_xticklabels()]
  assert ticks == ["fc1", "fc2"]
  for ax, metric, subset in (
    (recovered, "recovered", "test"),
    (accuracy, "accuracy", "permuted"),
  ):
    for title, (kind, sets) in SETS.items():
      expected = [
        mean_of(metric, subset, BEST, None, kind, rewound)
        for rewound in sets.values()
      ]
      assert_curve(curve(ax, title), [0, 1], expected)


SIMULATED = "simulation,\nif separable in all features"


@pytest.mark.parametrize("along", ["radius", "layer"])
def test_theory_simulation_and_shuffled_labels_look_as_explained(along):
  x, layers = [0.1, 0.3, 1.0], [None]
  if along == "layer":
    x, layers = range(4), LAYERS
  sets = {"layers": LAYERS, "radii": (None,)} if along == "layer" else {}
  rows = known.capacity_rows(**sets)
  figure = plots.plot_capacity_along(rows)
  (ax,) = figure.axes
  (color,) = {
    line.get_color() for line in ax.get_lines() if line.get_linestyle() == "-."
  }
  names = explained(figure)
  for metric, name in (
    ("capacity", "theory"),
    ("simulated_capacity", SIMULATED),
    ("null_capacity", "labels shuffled"),
  ):
    places = (
      itertools.product(layers, [None])
      if along == "layer"
      else itertools.product([None], x)
    )
    expected = [number_of(metric, *place) for place in places]
    assert_curve(of_look(ax, color, names[name]), x, expected)


def test_simulation_is_drawn_above_theory_of_its_own_group():
  rows = known.capacity_rows()
  other = [
    row | {"subset": "points", "value": row["value"] / 2}
    for row in known.capacity_rows()
  ]
  (ax,) = plots.plot_capacity(runs.Rows([*rows, *other])).axes
  for group, factor in (("clouds", 1), ("points", 0.5)):
    x, y = (
      [factor * number_of(metric, None, radius) for radius in (0.1, 0.3, 1.0)]
      for metric in ("capacity", "simulated_capacity")
    )
    found = curve(ax, group)
    np.testing.assert_allclose(found[0], x, rtol=1e-3)
    np.testing.assert_allclose(found[1], y, rtol=1e-3)


def gradient_rows():
  """Training mode is evaluation's, doubled; two layers and two seeds."""
  rows = gradients.rows_of()
  for row in gradients.rows_of():
    if row["mode"] == "evaluation" and row["value"] is not None:
      rows.append(row | {"mode": "training", "value": 2 * row["value"]})
  return rows


def test_gradient_parts_have_rows_for_norms_projections_and_modes():
  axes = plots.plot_gradient_parts(gradient_rows()).axes
  assert len(axes) == 8
  assert [ax.get_title() for ax in axes[:2]] == ["fc1", "logits"]
  rows = [axes[i : i + 2] for i in range(0, 8, 2)]
  places = itertools.product(("evaluation", "training"), ("norm", "projection"))
  for row_of_axes, (mode, metric) in zip(rows, places, strict=True):
    label = row_of_axes[0].get_ylabel()
    assert label.startswith(metric)
    assert f"({mode} mode)" in label
    factor = 2 if mode == "training" else 1
    for ax in row_of_axes:
      for (subset, part), values in gradients.NORMS.items():
        found = curve(ax, f"{subset}, {part}")
        assert_curve(found, [0, 1, 5], factor * np.array(values))
        name = f"{subset}, {part}"
        assert color_of(ax, name) == style.COLORS[subset]


def test_gradients_are_compared_under_their_names():
  ratio, cosine, cancelled = plots.plot_gradient_comparison(
    gradient_rows()
  ).axes
  table = gradients.TABLE
  measured, unbiased = (
    next(
      name
      for name in ratio.get_legend_handles_labels()[1]
      if word in name and name.startswith("label part")
    )
    for word in ("as measured", "less the noise")
  )
  epochs, ratios = [0, 1, 5], np.array(table["ratio"])
  assert_curve(curve(ratio, measured), epochs, ratios)
  assert_curve(curve(ratio, unbiased), epochs, ratios / 2)
  assert_curve(curve(cosine, "label part"), epochs, [0.3] * 3)
  for subset in ("unpermuted", "permuted"):
    assert_curve(curve(cancelled, subset), epochs, table["cancelled"])


def test_the_law_has_its_points_fits_and_slopes_under_their_names():
  rows = gradients.rows_of(slope=-0.5, unpermuted_slope=0.1)
  for row in rows:  # Each kind of labels has numbers of its own.
    if row["drawn"] == "independent":
      row["value"] *= 2 if row["metric"] == "law_norm" else 1
    if row["labels"] == "raw" and row["metric"] == "law_norm":
      row["value"] *= 3
    # Lines have the slopes of the fits, whatever that of the points.
    if row["metric"] == "law_slope" and row["layer"] is None:
      row["value"] += 0.25
  left, right = plots.plot_gradient_law(rows).axes
  n = np.array(gradients.SIZES)
  drawn = {
    "unpermuted": 3 * n**0.1,
    "permuted": 3 * n**-0.5,
    "labels drawn anew": 6 * n**-0.5,
  }
  fits = {}
  for line in left.get_lines():
    if line.get_linestyle() in ("-", ":") and len(line.get_xdata()) > 1:
      fits[line.get_color(), line.get_linestyle()] = line.get_ydata()
  for name, norms in drawn.items():
    color = color_of(left, f"{name}, centred")
    for labels, factor, line in (("centred", 1, "-"), ("raw", 3, ":")):
      label = f"{name}, {labels}"
      assert_curve(curve(left, label), n, factor * norms)
      assert color_of(left, label) == color
      fitted = factor * norms * (n / n[1]) ** 0.25  # n[1] is the middle.
      np.testing.assert_allclose(fits[color, line], fitted, rtol=1e-3)
  assert_curve(curve(left, "unpermuted, without noise"), n, 3 * n**0.1)
  # On the right, fc1 is the one layer; centred and raw have one slope.
  slopes = {
    (bars.lines[0].get_color(), bars.lines[0].get_ydata()[0])
    for bars in right.containers
  }
  assert slopes == {
    (color_of(left, "unpermuted, centred"), 0.1),
    (color_of(left, "permuted, centred"), -0.5),
    (color_of(left, "labels drawn anew, centred"), -0.5),
  }


def readout_rows():
  metrics = ("prediction_depth", "nc3", "nc4")
  empty = dict.fromkeys(runs.COLUMNS)
  return runs.Rows(
    empty
    | {"seed": seed, "epoch": epoch, "subset": subset, "metric": metric}
    | {"value": number_of(metric, seed, epoch, subset)}
    for seed in (0, 1)
    for epoch in EPOCHS.tolist()
    for subset in SUBSETS
    for metric in metrics
  )


def test_the_readout_has_a_panel_for_each_of_its_metrics():
  labels = {
    "prediction_depth": "prediction depth, layers",
    "nc3": "NC3, readout off the means",
    "nc4": "NC4, decides by nearest mean",
  }
  axes = plot_readout(readout_rows()).axes
  for ax, (metric, label) in zip(axes, labels.items(), strict=True):
    assert ax.get_ylabel() == label
    for subset in SUBSETS:
      assert_curve(curve(ax, subset), EPOCHS, means(metric, subset))
      assert color_of(ax, subset) == style.COLORS[subset]
  # What is unknown has no panel.
  alone = runs.Rows(
    row | {"value": None} if row["metric"] != "nc4" else row
    for row in readout_rows()
  )
  (ax,) = plot_readout(alone).axes
  assert ax.get_ylabel() == labels["nc4"]


def cka_of(kind, *place) -> float:
  """A number of each place: rows and columns of a map are not the same."""
  return number_of("cka", kind, *place)


def similarity_rows():
  layers, epochs = ("fc1", "fc2", "logits"), (0, 1, 2)
  rows, base = runs.Rows(), dict.fromkeys(runs.COLUMNS)
  for seed in (0, 1):
    for metric, value in (("best_epoch", 1), ("last_epoch", 2)):
      rows.append(base | {"seed": seed, "metric": metric, "value": value})
    at = base | {"seed": seed, "metric": "cka", "subset": "test"}

    def add(kind, epoch, i, seed=seed, at=at, **other):
      place = {"epoch": epoch, "layer": layers[i], "layer_index": i + 1}
      value = cka_of(kind, seed, epoch, layers[i], *other.values())
      rows.append(at | place | other | {"kind": kind, "value": value})

    for i in range(3):
      for epoch in epochs:
        for other in layers:
          add("layers", epoch, i, other_layer=other)
        for other in epochs:
          add("epochs", epoch, i, other_epoch=other)
      for other in ("conv", "dense"):
        add("runs", 2, i, other_layer=other)
  return rows


def test_similarity_has_its_maps_in_their_places():
  layers = ("fc1", "fc2", "logits")
  figure = plot_similarity(similarity_rows())
  panels = {
    ax.get_title(): ax
    for ax in figure.axes
    if ax.get_images() and ax.get_title()
  }

  def mean(kind, *place):
    return np.mean([cka_of(kind, seed, *place) for seed in (0, 1)])

  expected = {
    f"layers, {which} epoch": [
      [mean("layers", epoch, a, b) for b in layers] for a in layers
    ]
    for which, epoch in (("best", 1), ("last", 2))
  }
  expected["epochs, fc2"] = [
    [mean("epochs", a, "fc2", b) for b in range(3)] for a in range(3)
  ]
  expected["this run against the other"] = [
    [mean("runs", 2, a, b) for b in ("conv", "dense")] for a in layers
  ]
  assert list(panels) == list(expected)
  for title, values in expected.items():
    ax = panels[title]
    drawn = np.asarray(ax.get_images()[0].get_array(), float)
    np.testing.assert_allclose(drawn, values, rtol=1e-6, err_msg=title)
    assert ax.get_images()[0].get_clim() == (0, 1)
  names = [
    [text.get_text() for text in labels]
    for labels in (
      panels["this run against the other"].get_yticklabels(),
      panels["this run against the other"].get_xticklabels(),
    )
  ]
  assert names == [list(layers), ["conv", "dense"]]
