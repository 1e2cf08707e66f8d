"""Figures show the numbers of the rows: read back from their axes."""

import itertools
import pathlib

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection

from benchmarks import demo
from geomem import plots, runs, studies
from geomem.plots import figures, style
from geomem.plots.gradients import _by_seed as by_seed
from tests.fakes import assert_distinct, shown

SUBSETS = ("unpermuted", "permuted", "restored", "test")
LAYERS = ("input", "fc1", "fc2", "logits")
METRICS = ("capacity", "radius", "dimension")
# Seed 0 is best at epoch 1 and seed 1 at epoch 2; both end at 3.
FACTS = {
  "best_epoch": (1, 2),
  "last_epoch": (3, 3),
  "manifold_points": (20, 20),
  "chance_accuracy": (0.25, 0.25),
}


def number(*place) -> float:
  """A number between .1 and .9 that says where it belongs."""
  rng = np.random.default_rng([hash_of(x) for x in place])
  return float(rng.uniform(0.1, 0.9))


def hash_of(x) -> int:
  return sum(ord(c) * 31**i for i, c in enumerate(str(x))) % 2**32


def rows_of(**columns) -> runs.Rows:
  rows = []
  for seed in (0, 1):
    for metric, values in FACTS.items():
      rows.append({"seed": seed, "metric": metric, "value": values[seed]})
    for epoch, subset in itertools.product(range(4), SUBSETS):
      at = {"seed": seed, "epoch": epoch, "subset": subset}
      place = (seed, epoch, subset, *columns.values())
      value = number("accuracy", *place)
      rows.append(at | {"metric": "accuracy", "value": value})
      for index, layer in enumerate(LAYERS):
        of_layer = at | {"layer": layer, "layer_index": index}
        for metric in METRICS:
          value = number(metric, layer, *place)
          rows.append(of_layer | {"metric": metric, "value": value})
  empty = dict.fromkeys(runs.COLUMNS)
  return runs.Rows(empty | columns | row for row in rows)


def rounded(value: float) -> float:
  return float(f"{value:.4g}")


def mean_of(metric, subset, epochs, layer=None, *more) -> float:
  """Averages over seeds, by hand; `epochs` are those of the two seeds."""
  head = (metric,) if layer is None else (metric, layer)
  values = [number(*head, s, e, subset, *more) for s, e in enumerate(epochs)]
  return rounded(sum(values) / 2)


BEST, LAST = FACTS["best_epoch"], FACTS["last_epoch"]


def test_accuracy_is_the_mean_over_seeds():
  figure = plots.plot_accuracy(rows_of())
  for subset, epoch in itertools.product(SUBSETS, range(4)):
    assert mean_of("accuracy", subset, (epoch, epoch)) in shown(figure)


def test_epochs_of_some_seeds_only_are_not_in_the_mean():
  """Seed 1 ends at epoch 2: what is left of seed 0 is a point of its own."""
  rows = runs.Rows(r for r in rows_of() if (r["seed"], r["epoch"]) != (1, 3))
  ax = plots.plot_accuracy(rows).axes[0]
  (curve,) = named(ax, "test")
  np.testing.assert_array_equal(curve.get_xdata(), [0, 1, 2])
  points = [line for line in ax.lines if line.get_linestyle() == "None"]
  drawn = [(line.get_xdata()[0], line.get_ydata()[0]) for line in points]
  assert sorted(drawn) == sorted(
    (3, number("accuracy", 0, 3, subset)) for subset in SUBSETS
  )


def test_curves_without_markers_show_epochs_of_some_seeds():
  ax = style.new_figure(1, 1).subplots()
  rows = rows_of().where("accuracy", subset="test")
  rows = runs.Rows(r for r in rows if (r["seed"], r["epoch"]) != (1, 3))
  style.draw_series(ax, rows, "epoch", color="k", ls="--")
  curve, points = ax.lines
  assert points.get_marker() == "."
  assert list(points.get_xdata()) == [3]
  assert list(curve.get_xdata()) == [0, 1, 2]


def test_titles_say_of_how_many_seeds_they_are():
  rows = runs.Rows(
    row
    for row in rows_of()
    if row["layer"] is None or (row["seed"], row["epoch"]) != (0, 1)
  )
  titles = [ax.get_title() for ax in plots.plot_geometry_by_layer(rows).axes]
  assert list(filter(None, titles)) == [
    "best epoch: 2 (1 of 2 seeds)",
    "last epoch: 3",
  ]


def test_figures_leave_the_style_of_others_alone():
  before = dict(matplotlib.rcParams)
  assert not plots.plot_accuracy(rows_of()).axes[0].spines["top"].get_visible()
  assert dict(matplotlib.rcParams) == before


def test_losses_are_those_of_subsets_and_of_every_epoch_of_training():
  rows = rows_of()
  base = dict.fromkeys(runs.COLUMNS) | {"metric": "training_loss"}
  for row in rows_of().where("accuracy"):
    rows.append(row | {"metric": "loss"})
  for seed, epoch in itertools.product((0, 1), (1, 2, 3)):
    value = 2.0 / epoch + seed
    rows.append(base | {"seed": seed, "epoch": epoch, "value": value})
  figure = plots.plot_loss(rows)
  for subset, epoch in itertools.product(SUBSETS, range(4)):
    assert mean_of("accuracy", subset, (epoch, epoch)) in shown(figure)
  (line,) = named(figure.axes[0], "in training")
  np.testing.assert_allclose(line.get_ydata(), [2.5, 1.5, 2 / 3 + 0.5])


def test_bands_are_one_standard_error():
  rows = rows_of().where("accuracy", subset="test", epoch=2)
  values = [number("accuracy", seed, 2, "test") for seed in (0, 1)]
  mean, error = rows.mean()
  assert mean == pytest.approx(np.mean(values))
  assert error == pytest.approx(abs(values[0] - values[1]) / 2)
  # A single row has its own error, which may be unknown.
  assert runs.Rows([{"value": 2, "stderr": 0.1}]).mean() == (2, 0.1)
  assert np.isnan(runs.Rows([{"value": 2, "stderr": None}]).mean()[1])
  ax = style.new_figure(1, 1).subplots()
  style.draw_band(ax, [0, 1], [3.0, 5.0], [0.5, 1.0], color="k")
  (band,) = (x for x in ax.collections if isinstance(x, PolyCollection))
  drawn = {tuple(vertex) for vertex in band.get_paths()[0].vertices}
  assert drawn >= {(0, 2.5), (0, 3.5), (1, 4.0), (1, 6.0)}
  # The band of a single point is nowhere: it has a bar.
  ax = style.new_figure(1, 1).subplots()
  style.draw_band(ax, [1], [3.0], [0.5], color="k")
  (bars,) = (x for x in ax.collections if isinstance(x, LineCollection))
  np.testing.assert_array_equal(bars.get_segments(), [[[1, 2.5], [1, 3.5]]])


def test_geometry_is_at_each_seeds_own_best_and_last_epoch():
  numbers = shown(plots.plot_geometry_by_layer(rows_of()))
  places = itertools.product(METRICS, SUBSETS, (BEST, LAST), LAYERS)
  for metric, subset, epochs, layer in places:
    assert mean_of(metric, subset, epochs, layer) in numbers
  assert 0.1 in numbers  # Chance, 2/M.


def named(ax, label: str) -> list:
  """Returns the lines of axes that the legend calls so."""
  return [line for line in ax.get_lines() if line.get_label() == label]


def legend_of(figure) -> list[str]:
  return [text.get_text() for text in figure.legends[0].get_texts()]


def images(figure) -> dict:
  """Returns the maps of a figure, and where they mark an epoch, by title."""
  return {
    ax.get_title(): (
      ax.get_images()[0],
      [line.get_xdata()[0] for line in ax.get_lines()],
    )
    for ax in figure.axes
    if ax.get_images() and ax.get_title()
  }


CHANCE = 2 / FACTS["manifold_points"][0]
NAMED = "chance = 2/M = 0.1 (M = 20)\nwith 2M features or more"


def test_the_map_has_every_layer_and_epoch_about_chance():
  drawn = images(plots.plot_capacity_heatmaps(rows_of()))
  assert tuple(drawn) == SUBSETS
  for subset, (image, _) in drawn.items():
    # Chance is the middle of the colours.
    assert image.norm(1) == pytest.approx(0.5)
    for (i, layer), epoch in itertools.product(enumerate(LAYERS), range(4)):
      mean = mean_of("capacity", subset, (epoch, epoch), layer)
      value = image.get_array()[i, epoch]
      assert value == pytest.approx(mean / CHANCE, rel=1e-3)
      assert 0 <= image.norm(value) <= 1


@pytest.mark.parametrize("factor", [0.01, 1, 100], ids=["below", "at", "above"])
def test_the_scale_of_the_map_holds_chance_and_all_values(factor):
  rows = rows_of()
  for row in rows.where("capacity"):
    row["value"] *= factor
  figure = plots.plot_capacity_heatmaps(rows.where(layer=(None, "fc2")))
  (bar,) = (ax for ax in figure.axes if "chance" in ax.get_ylabel())
  low, high = bar.get_ylim()
  assert low < 1 < high
  (level,) = bar.get_lines()
  assert set(level.get_ydata()) == {1}
  assert NAMED in legend_of(figure)
  for image, _ in images(figure).values():
    assert image.get_array().shape == (1, 4)
    assert (image.get_array() >= low * 0.999).all()
    assert (image.get_array() <= high * 1.001).all()


def test_what_a_map_does_not_know_is_not_white():
  rows = rows_of()
  assert "unknown" not in legend_of(plots.plot_capacity_heatmaps(rows))
  at = {"seed": 1, "epoch": 2, "layer": "fc1", "subset": "test"}
  (row,) = rows.where("capacity", **at)
  row["value"] = None
  figure = plots.plot_capacity_heatmaps(rows)
  assert "unknown" in legend_of(figure)
  (ax,) = (ax for ax in figure.axes if ax.get_title() == "test")
  assert (
    np.isnan(np.ma.filled(ax.get_images()[0].get_array(), np.nan)).sum() == 1
  )
  assert max(ax.get_facecolor()[:3]) < 0.7


@pytest.mark.parametrize(("classes", "hatched"), [(4, True), (40, False)])
def test_the_map_hatches_logits_of_fewer_than_2m_classes(classes, hatched):
  rows = rows_of()
  for row in rows.where("chance_accuracy"):
    row["value"] = 1 / classes
  figure = plots.plot_capacity_heatmaps(rows)
  for ax in (ax for ax in figure.axes if ax.get_title() in SUBSETS):
    spans = [(p.get_y(), p.get_height()) for p in ax.patches if p.get_hatch()]
    assert spans == [(LAYERS.index("logits") - 0.5, 1)] * hatched
  said = any("chance is higher" in label for label in legend_of(figure))
  assert said == hatched


def test_the_map_hatches_all_layers_that_are_known_to_be_narrow():
  rows = rows_of()
  points = next(iter(rows.fact("manifold_points").values()))
  for index, layer in enumerate(LAYERS):
    size = 2 * points - (index == 1)
    at = dict.fromkeys(runs.COLUMNS) | {"seed": 0, "metric": "num_features"}
    rows.append(at | {"layer": layer, "layer_index": index, "value": size})
  figure = plots.plot_capacity_heatmaps(rows)
  for ax in (ax for ax in figure.axes if ax.get_title() in SUBSETS):
    places = [p.get_y() + 0.5 for p in ax.patches if p.get_hatch()]
    assert 1 in places
    assert set(places) <= {1, LAYERS.index("logits")}


def test_the_best_epoch_is_marked_where_it_was_measured():
  figure = plots.plot_capacity_heatmaps(rows_of())
  assert "best epoch" in legend_of(figure)
  assert all(marks == list(BEST) for _, marks in images(figure).values())
  # Without epoch 1 the first seed's best one has no column.
  figure = plots.plot_capacity_heatmaps(rows_of().where(epoch=(None, 0, 2, 3)))
  assert all(marks == [1] for _, marks in images(figure).values())
  figure = plots.plot_capacity_heatmaps(rows_of().where(epoch=(None, 0, 3)))
  assert not any(marks for _, marks in images(figure).values())
  assert "best epoch" not in legend_of(figure)


def test_chance_is_named_with_its_m_and_drawn():
  (ax, *_) = plots.plot_geometry_by_layer(rows_of()).axes
  (line,) = named(ax, NAMED)
  assert set(line.get_ydata()) == {CHANCE}
  rows = rows_of()
  fact = {"seed": 0, "metric": "chance_capacity", "value": 0.06}
  rows.append(dict.fromkeys(runs.COLUMNS) | fact)
  # With a margin it is no longer 2/M.
  assert style.chance_label(rows).startswith("chance = 0.06 (M = 20)\n")
  (ax,) = plots.plot_accuracy(rows_of()).axes
  (line,) = named(ax, "chance accuracy 0.25")
  assert set(line.get_ydata()) == {0.25}


def test_titles_name_the_epochs_and_the_legend_the_faint_lines():
  figure = plots.plot_geometry_by_layer(rows_of())
  titles = {ax.get_title() for ax in figure.axes}
  assert titles >= {"best epochs: 1, 2", "last epoch: 3"}
  assert "best epoch again" in legend_of(figure)


def test_no_colour_of_a_subset_means_something_else():
  assert not set(style.CYCLE) & set(style.COLORS.values())


@pytest.mark.parametrize(
  ("low", "high"), [(0.19, 0.27), (0.06, 0.7), (1e-3, 1e2), (2.0, 2.1)]
)
def test_logarithmic_axes_have_ticks_however_short(low, high):
  ax = style.new_figure(2, 2).subplots()
  ax.plot([0, 1], [low, high])
  style.log_axis(ax.yaxis)
  ax.set_ylim(low, high)
  assert ((ax.get_yticks() >= low) & (ax.get_yticks() <= high)).sum() >= 3


def test_ticks_of_many_decades_do_not_overlap():
  ax = style.new_figure(3, 3).subplots()
  ax.plot([0, 1], [1e-2, 1e30])
  style.log_axis(ax.yaxis)
  named = boxes(ax.yaxis)
  assert len(named) > 4
  assert not any(a.overlaps(b) for a, b in itertools.pairwise(named))


def test_measures_are_all_drawn():
  rows = rows_of()
  figure = plots.plot_measures(rows.where(layer=(*LAYERS, None)))
  for metric, layer in itertools.product(METRICS, LAYERS):
    assert mean_of(metric, "test", LAST, layer) in shown(figure)


@pytest.mark.parametrize("count", [1, 3, 5, 8])
def test_many_measures_go_on_in_further_rows(count):
  rows = rows_of()
  names = [f"metric{i}" for i in range(count)]
  for name in names:
    rows += [row | {"metric": name} for row in rows_of().where("radius")]
  figure = plots.plot_by_layer(rows, names)
  drawn = [ax.get_ylabel() for ax in figure.axes]
  assert sorted(drawn) == sorted(2 * names)
  assert figure.get_figwidth() < 14
  for name in names:
    best, last = (ax for ax in figure.axes if ax.get_ylabel() == name)
    assert best.get_ylim() == last.get_ylim()
    for ax in (best, last):
      low, high = ax.get_ylim()
      heights = np.concatenate([line.get_ydata() for line in ax.get_lines()])
      assert low <= heights.min() <= heights.max() <= high


@pytest.mark.parametrize("count", [1, 2, 3])
def test_legends_are_as_wide_as_the_figure(count):
  figure = plots.plot_by_layer(rows_of(), METRICS[:count])
  box = figure.legends[0].get_window_extent(figure.canvas.get_renderer())
  assert 0 <= box.width <= figure.bbox.width


def boxes(axis) -> list:
  """Returns the boxes of the names along an axis that has been drawn."""
  axis.axes.figure.draw_without_rendering()
  texts = [text for text in axis.get_ticklabels() if text.get_text()]
  return [text.get_window_extent() for text in texts]


def test_names_of_forty_layers_do_not_overlap():
  rows = rows_of()
  for row in rows_of().where("capacity", layer="fc1"):
    for place in range(4, 40):
      layer = {"layer": f"attention{place}", "layer_index": place}
      rows.append(row | layer)
  for ax in plots.plot_geometry_by_layer(rows).axes[3:]:
    named = boxes(ax.xaxis)
    assert len(named) == 20
    centers = [(box.x0 + box.x1) / 2 for box in named]
    assert np.diff(centers).min() > 0.8 * named[0].width


@pytest.mark.parametrize("last", [1, 8, 100, 610, 1000, 20000])
@pytest.mark.parametrize("panels", [1, 4])
def test_numbers_of_epochs_do_not_overlap(last, panels):
  figure = style.new_figure(2.75 * panels if panels > 1 else 5.4, 3)
  ax, *_ = np.atleast_1d(figure.subplots(1, panels))
  figures.epoch_axis(ax, last)
  named = boxes(ax.xaxis)
  assert len(named) > 1
  assert not any(a.overlaps(b) for a, b in itertools.pairwise(named))


@pytest.mark.parametrize("last", [8, 150, 240, 1000])
def test_epochs_of_a_map_do_not_overlap(last):
  saved = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987)
  epochs = sorted({*(epoch for epoch in saved if epoch < last), last})
  ax = style.new_figure(2.6, 2).subplots()
  style.draw_heatmap(ax, np.zeros((2, len(epochs))), epochs, rows_of())
  named = boxes(ax.xaxis)
  assert not any(a.overlaps(b) for a, b in itertools.pairwise(named))


def test_accuracies_of_layers_have_their_chance():
  rows = rows_of()
  names = ("probe_accuracy", "knn_accuracy", "ncm_accuracy", "radius")
  for row in rows_of().where("radius"):
    rows += [row | {"metric": name} for name in names[:-1]]
  figure = plots.plot_by_layer(rows, names)
  for ax in figure.axes:
    is_accuracy = "accuracy" in ax.get_ylabel()
    assert bool(named(ax, "chance accuracy 0.25")) == is_accuracy
  assert legend_of(figure).count("chance accuracy 0.25") == 1


def test_legends_explain_lines_of_all_panels_and_both_chances():
  rows = rows_of()
  names = [f"metric{i}" for i in range(4)]
  for row in rows_of().where("radius"):
    rows += [row | {"metric": name} for name in (*names, "probe_accuracy")]
  figure = plots.plot_by_layer(rows, [*names, "probe_accuracy", "capacity"])
  assert {"chance accuracy 0.25", NAMED} <= set(legend_of(figure))
  lines = [line for ax in figure.axes for line in ax.get_lines()]
  dots = {
    line.get_label(): line.get_linestyle()
    for line in lines
    if line.get_label().startswith("chance")
  }
  assert len(dots) == len(set(dots.values())) == 2


SETS = {
  "single": ("fc1", "fc2"),
  "suffix": ("fc2", "fc1+fc2"),
  "prefix": ("fc1", "fc1+fc2"),
}


def rewind_rows() -> runs.Rows:
  rows = rows_of().where(layer=None)
  for kind, sets in SETS.items():
    for seed, epoch, rewound in itertools.product((0, 1), range(4), sets):
      at = {"seed": seed, "epoch": epoch, "kind": kind, "rewound": rewound}
      for subset in SUBSETS:
        value = number("accuracy", seed, epoch, subset, kind, rewound)
        scored = {"subset": subset, "metric": "accuracy", "value": value}
        rows.append(dict.fromkeys(runs.COLUMNS) | at | scored)
      value = number("recovered", seed, epoch, "test", kind, rewound)
      back = {"subset": "test", "metric": "recovered", "value": value}
      rows.append(dict.fromkeys(runs.COLUMNS) | at | back)
  return rows


def test_rewinds_are_drawn_by_epoch():
  numbers = shown(plots.plot_rewind_accuracy(rewind_rows()))
  for kind, sets in SETS.items():
    for rewound, epoch in itertools.product(sets, range(4)):
      for subset in ("test", "permuted"):
        epochs = (epoch, epoch)
        more = (None, kind, rewound)
        assert mean_of("accuracy", subset, epochs, *more) in numbers


def test_maps_of_rewinds_show_what_changes_against_the_last_epoch():
  drawn = images(plots.plot_rewind_heatmaps(rewind_rows()))
  titles = {"single": "one layer alone", "prefix": "up to a layer"}
  for (kind, title), subset in itertools.product(
    titles.items(), ("test", "permuted")
  ):
    image, marks = drawn[f"{subset}, {title}"]
    assert image.norm(0) == 0.5
    assert marks == list(BEST)
    last = mean_of("accuracy", subset, LAST)
    for (i, rewound), epoch in itertools.product(
      enumerate(SETS[kind]), range(4)
    ):
      mean = mean_of("accuracy", subset, (epoch, epoch), None, kind, rewound)
      value = image.get_array()[i, epoch]
      assert value == pytest.approx(mean - last, abs=1e-3)


def test_the_figures_of_the_pages_have_a_command(tmp_path):
  demo.write_figures(rows_of(), rewind_rows(), tmp_path)
  docs = pathlib.Path(demo.__file__).parent.parent / "docs"
  drawn = {path.name for path in tmp_path.iterdir()}
  assert drawn >= {path.name for path in docs.glob("demo_*")}
  assert "capacity_by_epoch.png" in drawn


def test_what_comes_back_is_at_the_best_epochs():
  numbers = shown(plots.plot_recovered(rewind_rows()))
  for kind, sets in SETS.items():
    for rewound in sets:
      more = (BEST, None, kind, rewound)
      assert mean_of("recovered", "test", *more) in numbers
      assert mean_of("accuracy", "permuted", *more) in numbers


def test_what_comes_back_names_the_epochs_that_are_not_the_best():
  def labels(rows):
    return {ax.get_xlabel() for ax in plots.plot_recovered(rows).axes}

  rows = rewind_rows()
  assert labels(rows) == {"layer, put back to the best epoch"}
  early = runs.Rows(r for r in rows if "kind" not in r or r["epoch"] == 0)
  assert labels(early) == {"layer, put back to epoch 0, not the best"}


def test_what_comes_back_is_of_the_seeds_that_lost_something():
  rows = runs.Rows(
    row
    for row in rewind_rows()
    if (row["metric"], row["seed"]) != ("recovered", 1)
  )
  figure = plots.plot_recovered(rows)
  assert "(seeds that lost accuracy: 0)" in figure.axes[1].get_xlabel()
  alone = plots.plot_recovered(rows.where(seed=0))
  # Errors of one seed are unknown: NaN, which is not equal to itself.
  assert {x for x in shown(figure) if x == x} == {
    x for x in shown(alone) if x == x
  }


def test_a_kind_of_rewind_has_its_colour_also_alone():
  rows = rewind_rows()
  alone = runs.Rows(r for r in rows if r.get("kind") in (None, "suffix"))
  looks = []
  for drawn in (rows, alone):
    ax, _ = plots.plot_recovered(drawn).axes
    (bars,) = (c for c in ax.containers if c.get_label() == "from a layer on")
    looks.append((bars.lines[0].get_color(), bars.lines[0].get_marker()))
  assert looks[0] == looks[1]


def test_what_did_not_come_back_is_said():
  rows = rewind_rows()
  rows = runs.Rows(r for r in rows if r["metric"] != "recovered")
  lost, permuted = plots.plot_recovered(rows).axes
  (text,) = lost.texts
  assert text.get_text() == "no test accuracy was lost"
  assert not permuted.texts
  names = [text.get_text() for text in lost.get_xticklabels()]
  assert names == ["fc1", "fc2"]


def test_what_is_null_on_disk_is_not_drawn():
  rows = rewind_rows()
  for row in rows.where("accuracy", seed=0, epoch=1):
    row["value"] = None
  for image, *_ in images(plots.plot_rewind_heatmaps(rows)).values():
    assert np.isnan(np.ma.filled(image.get_array(), np.nan)).any()
  # Nothing is known of the best epoch: the scale is that of the last.
  rows = rows_of()
  for row in rows.where("radius", epoch=tuple(BEST), seed=0):
    row["value"] = None
  axes = plots.plot_geometry_by_layer(rows).axes
  assert [axes[i].get_yscale() for i in (1, 4)] == ["log", "log"]
  assert axes[1].get_ylim() == axes[4].get_ylim()


def test_maps_of_rewinds_compare_each_seed_with_itself():
  """With rewinds to the best epochs alone, each column is of one seed."""
  rows = runs.Rows(
    row
    for row in rewind_rows()
    if "kind" not in row or row["epoch"] == BEST[row["seed"]]
  )
  image, _ = images(plots.plot_rewind_heatmaps(rows))["test, one layer alone"]
  for seed, epoch in enumerate(BEST):
    column = sorted(set(BEST)).index(epoch)
    for i, rewound in enumerate(SETS["single"]):
      after = number("accuracy", seed, epoch, "test", "single", rewound)
      last = number("accuracy", seed, LAST[seed], "test")
      assert image.get_array()[i, column] == pytest.approx(after - last)


def test_rewinds_without_permuted_labels_have_one_panel():
  rows = runs.Rows(r for r in rewind_rows() if r["subset"] != "permuted")
  for draw in (plots.plot_rewind_accuracy, plots.plot_rewind_heatmaps):
    titles = {ax.get_title() for ax in draw(rows).axes} - {""}
    assert {title.partition(",")[0] for title in titles} == {"test"}


def capacity_rows(layers=(None,), radii=(0.1, 0.3, 1.0)) -> runs.Rows:
  empty = dict.fromkeys((*runs.COLUMNS, "manifold_radius"))
  rows = runs.Rows()
  for index, layer in enumerate(layers):
    for radius in radii:
      for metric in ("capacity", "simulated_capacity", "null_capacity"):
        at = {"seed": 0, "subset": "clouds", "centers": "low_rank"}
        at |= {"layer": layer, "layer_index": index if layer else None}
        at |= {"epoch": 1 if layer else None, "manifold_radius": radius}
        value = number(metric, layer, radius)
        rows.append(empty | at | {"metric": metric, "value": value})
  return rows


def test_theory_and_simulation_are_drawn_against_each_other():
  rows = capacity_rows()
  (ax, *_) = plots.plot_capacity(rows).axes
  points = {
    (rounded(x), rounded(y))
    for line in ax.get_lines()
    for x, y in zip(*line.get_data(), strict=True)
  }
  for radius in (0.1, 0.3, 1.0):
    pair = ("capacity", "simulated_capacity")
    assert tuple(rounded(number(m, None, radius)) for m in pair) in points


def test_a_legend_of_many_leaves_room_for_the_axes():
  rows = capacity_rows()
  for group in (*SUBSETS, "points", "segments"):
    rows += [row | {"subset": group} for row in capacity_rows()]
  rows.append(rows[0] | {"metric": "manifold_points", "value": 10})
  figure = plots.plot_capacity(rows)
  figure.draw_without_rendering()
  assert figure.axes[0].xaxis.label.get_window_extent().y0 >= 0


def test_both_panels_have_the_same_limits_and_chance():
  rows = capacity_rows()
  for row in capacity_rows():
    rows.append(row | {"centers": "none", "value": 3 * row["value"]})
  points = {"metric": "manifold_points", "subset": "clouds", "value": 20}
  for centers in ("none", "low_rank"):
    rows.append(rows[0] | points | {"centers": centers})
  figure = plots.plot_capacity(rows)
  first, second = figure.axes
  assert first.get_xlim() == second.get_xlim() == first.get_ylim()
  for ax in (first, second):
    (level,) = named(ax, "chance = 2/M\nwith 2M features or more")
    assert set(level.get_ydata()) == {CHANCE}
  assert "within 10%" in legend_of(figure)
  (ax,) = plots.plot_capacity_along(rows).axes
  (level,) = named(ax, "chance = 2/M\nwith 2M features or more")
  assert set(level.get_ydata()) == {CHANCE}


@pytest.mark.parametrize(
  "sets", [{}, {"layers": LAYERS, "radii": (None,)}], ids=["radius", "layer"]
)
def test_capacity_is_drawn_along_its_column(sets):
  rows = capacity_rows(**sets)
  numbers = shown(plots.plot_capacity_along(rows))
  assert {rounded(row["value"]) for row in rows} <= numbers


def test_capacity_by_layer_names_the_epochs_of_all_seeds():
  rows = runs.Rows()
  for seed, epochs in enumerate(((3, 6), (2, 6))):
    for epoch in epochs:
      rows += [
        row | {"seed": seed, "epoch": epoch}
        for row in capacity_rows(("fc1", "fc2"), (None,))
      ]
  titles = [
    ax.get_title() for ax in plots.CAPACITY["capacity_along"](rows).axes
  ]
  assert titles == ["clouds, epochs 2, 3", "clouds, epoch 6"]


def size_rows() -> runs.Rows:
  rows = runs.Rows()
  for width in (3, 5):
    rows += rows_of(width=width)
    for seed in (0, 1):
      fact = {"metric": "num_parameters", "value": 100 * width}
      empty = dict.fromkeys(runs.COLUMNS)
      rows.append(empty | {"width": width, "seed": seed} | fact)
  return rows


def test_sizes_show_the_last_hidden_layer():
  numbers = shown(plots.plot_model_size(size_rows()))
  for width, epochs in itertools.product((3, 5), (BEST, LAST)):
    assert mean_of("accuracy", "test", epochs, None, width) in numbers
    for metric in METRICS:
      assert mean_of(metric, "test", epochs, "fc2", width) in numbers
    changes = []
    for seed in (0, 1):
      first, last = (
        number("radius", "fc2", seed, epochs[seed], "test", width)
        for epochs in (BEST, LAST)
      )
      changes.append(last / first)
    assert rounded(sum(changes) / 2) in numbers
  numbers = shown(plots.plot_geometry_by_size(size_rows()))
  for metric, subset in itertools.product(METRICS, SUBSETS):
    drawn = mean_of(metric, subset, LAST, "fc2", 5) in numbers
    assert drawn == (subset != "test")  # That is in the first figure.
  numbers = shown(plots.plot_size_by_epoch(size_rows()))
  for epoch in range(4):
    epochs = (epoch, epoch)
    assert mean_of("accuracy", "test", epochs, None, 3) in numbers
    assert mean_of("dimension", "test", epochs, "fc2", 3) in numbers


def test_sizes_tell_epochs_subsets_and_levels_apart():
  rows = size_rows()
  for metric, value in (
    ("interpolation_threshold", 400),
    ("dip_parameters", 300),
  ):
    fact = {"metric": metric, "value": value}
    rows.append(dict.fromkeys(runs.COLUMNS) | fact)
  figure = plots.plot_model_size(rows)
  first = figure.axes[0]
  (fitted,) = named(first, "99% of labels fitted")
  (dip,) = named(first, "dip of test accuracy")
  assert (fitted.get_xdata()[0], dip.get_xdata()[0]) == (400, 300)
  assert fitted.get_color() != dip.get_color()
  colors = {
    line.get_color() for line in first.get_lines() if len(line.get_xdata()) > 1
  }
  assert style.COLORS["test"] in colors
  assert not {style.COLORS[s] for s in SUBSETS[:3]} & colors
  # No legend lies on the data.
  assert not any(ax.get_legend() for ax in figure.axes)


def test_sizes_without_geometry_show_accuracies_alone():
  rows = size_rows().where(layer=None)
  drawn = {
    name: draw and len(draw.axes)
    for name, draw in ((n, draw(rows)) for n, draw in plots.MODEL_SIZE.items())
  }
  one_each = {"model_size": 2, "size_by_epoch": 1}
  assert drawn == one_each | {"geometry_by_size": None}
  for row in size_rows().where("radius", layer="fc2"):
    rows.append(row | {"metric": "probe_accuracy"})
  axes = plots.MODEL_SIZE["geometry_by_size"](rows).axes
  assert [ax.get_ylabel().split()[0] for ax in axes] == list(SUBSETS)


def test_noise_without_geometry_has_no_figure():
  rows = runs.Rows()
  for width in (2, 64):
    rows += rows_of(width=width)
  for draw in plots.MEMORIZATION_SWEEP.values():
    assert draw(rows.where(layer=None)) is None
    for ax in draw(rows).axes:
      assert ax.get_xscale() == "log"


@pytest.mark.parametrize("count", [3, 40])
def test_values_of_a_sweep_do_not_overlap(count):
  rows = runs.Rows()
  for width in range(100, 100 + count):
    rows += rows_of(width=width).where(layer=(None, "fc2"))
  names = boxes(plots.plot_last_layer(rows).axes[0].xaxis)
  assert len(names) == count
  assert (names[0].width < names[0].height) == (count > 3)


@pytest.mark.parametrize(
  "draw", [plots.plot_model_size, plots.plot_size_by_epoch]
)
def test_accuracies_by_size_have_their_chance(draw):
  accuracies = [ax for ax in draw(size_rows()).axes if "acc" in ax.get_ylabel()]
  assert accuracies
  assert all(named(ax, "chance accuracy 0.25") for ax in accuracies)


def test_chance_is_no_size():
  sizes, others = plots.plot_size_by_epoch(size_rows()).legends
  assert "chance accuracy 0.25" not in {t.get_text() for t in sizes.texts}
  assert [t.get_text() for t in others.texts] == ["chance accuracy 0.25"]


def test_long_names_of_rewinds_lose_their_middle():
  layers = "+".join(f"block{i}_conv1" for i in range(9))
  rows = rewind_rows()
  for row in rows:
    if row.get("kind") == "single":
      row["kind"] = "custom"
      row["rewound"] = row["rewound"].replace("fc1", layers)
  for draw in (plots.plot_rewind_heatmaps, plots.plot_recovered):
    figure = draw(rows)
    figure.draw_without_rendering()  # Without room, this is a warning.
    ax = figure.axes[0]
    named = [*ax.get_xticklabels(), *figure.axes[-2].get_yticklabels()]
    assert "block0_conv1…block8_conv1" in {text.get_text() for text in named}


def test_noise_is_drawn_by_its_fraction():
  rows = runs.Rows()
  for fraction in (0.25, 0.5):
    rows += rows_of(permuted_fraction=fraction)
    for seed in (0, 1):
      value = number("departure", seed, fraction)
      found = {"metric": "departure_depth", "value": value}
      at = {"seed": seed, "subset": "permuted", "permuted_fraction": fraction}
      rows.append(dict.fromkeys(runs.COLUMNS) | at | found)
  numbers = shown(plots.plot_last_layer(rows))
  places = itertools.product(METRICS, SUBSETS, (BEST, LAST))
  for metric, subset, epochs in places:
    assert mean_of(metric, subset, epochs, "fc2", 0.5) in numbers
  figure = plots.plot_departure(rows)
  for ax in figure.axes:
    (drawn,) = ax.containers
    assert drawn.lines[0].get_color() == style.COLORS["permuted"]
  numbers = shown(figure)
  for fraction in (0.25, 0.5):
    depth = [number("departure", seed, fraction) for seed in (0, 1)]
    assert rounded(sum(depth) / 2) in numbers
    assert mean_of("capacity", "permuted", LAST, "fc2", fraction) in numbers


def test_a_sweep_over_three_fields_pools_none_of_them():
  fractions, widths, models = (0.25, 0.5), (8, 16), ("convnet", "mlp")
  rows = runs.Rows()
  for cell in itertools.product(fractions, widths, models):
    names = ("permuted_fraction", "width", "model")
    rows += rows_of(**dict(zip(names, cell, strict=True)))
  figure = plots.plot_last_layer(rows)
  titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
  assert titles == [f"width {w}, {m}" for w in widths for m in models]
  numbers = shown(figure)
  for cell in itertools.product(fractions, widths, models):
    for metric, subset in itertools.product(METRICS, SUBSETS):
      assert mean_of(metric, subset, LAST, "fc2", *cell) in numbers
  labels = legend_of(plots.plot_departure(rows))
  assert set(titles) <= set(labels)


def test_errors_of_the_law_are_those_over_seeds():
  """Many draws say nothing of other seeds."""
  rows = runs.Rows()
  for seed, draw in itertools.product((0, 1, 2), range(8)):
    value = 1.0 + 0.3 * seed + 1e-6 * draw
    at = {"seed": seed, "draw": draw, "num_examples": 64, "value": value}
    rows.append(at | {"metric": "law_norm", "stderr": None})
  _, mean, error = by_seed(rows).series("num_examples")
  assert mean[0] == pytest.approx(1.3, abs=1e-4)
  assert error[0] == pytest.approx(0.3 / 3**0.5, rel=1e-4)
  _, _, alone = by_seed(rows.where(seed=0)).series("num_examples")
  assert alone[0] == pytest.approx(np.std(range(8), ddof=1) * 1e-6 / 8**0.5)


@pytest.mark.parametrize("name", studies.STUDIES)
def test_what_is_not_measured_yet_is_not_drawn(name):
  facts = rows_of().where(layer=None, epoch=None)
  # The rows of a sweep are those of complete cells.
  for rows in (runs.Rows(), *(() if name == "model_size" else (facts,))):
    for draw in studies.STUDIES[name].figures.values():
      assert draw(rows) is None


@pytest.mark.parametrize(
  "draw",
  [
    lambda: plots.plot_recovered(rewind_rows()),
    lambda: plots.plot_model_size(size_rows()),
  ],
)
def test_entries_of_a_legend_differ_in_more_than_their_name(draw):
  assert_distinct(draw())
