// Several runs beside each other: what they were asked for, and what came out.

const SHAPE_NAMES = Object.keys(SHAPES);

function lookOfRun(index) {
  return { color: DATA.colors[index % DATA.colors.length],
    marker: SHAPE_NAMES[index % SHAPE_NAMES.length] };
}

function textOf(value) {
  return [value ?? ""].flat().join(", ");
}

// The settings that are not the same in all runs.
function differences(runs) {
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.config)))];
  return names.map((name) =>
    [name, ...runs.map((run) => textOf(run.config[name]))])
    .filter(([, first, ...others]) => others.some((value) => value !== first));
}

// A metric of a run: of the network, or of its last hidden layer.
function metricOf(rows, metric, subset) {
  const found = select(rows, { metric, subset });
  return found.some((row) => row.layer !== null) ? lastHidden(found) : found;
}

// Rows as they are, or none if some of the run's seeds have none.
function ofAllSeedsOf(run, rows) {
  return partOfSeeds(rows, run.rows) ? [] : rows;
}

function numbersOf(run, metrics) {
  return ["best", "last"].flatMap((which) =>
    subsetsOf(run.rows, "accuracy").map((subset) => [run.name, which, subset,
      ...metrics.map((metric) =>
        meanOf(ofAllSeedsOf(run, at(which,
          metricOf(run.rows, metric, subset), run.rows))))]));
}

function runCharts(runs, metrics, subset) {
  return metrics.map((metric) => {
    const lines = runs.map((run, i) => ({ name: run.name, ...lookOfRun(i),
      points: series(ofAllSeeds(metricOf(run.rows, metric, subset), "epoch"),
        "epoch") }));
    const points = lines.flatMap((line) => line.points);
    const last = Math.max(...points.map((p) => p.x));
    const levels = new Map(runs.flatMap((run) => chanceMarks(run.rows, metric))
      .map((mark) => [mark.y, mark]));
    // Runs of another M, or of other classes, have another chance.
    const marks = levels.size === 1 ? [...levels.values()] : [];
    const y = yAxis(metric, points, marks);
    return points.length ? lineChart({ lines, x: { last }, marks,
      y: { ...y, label: `${subset} ${y.label}` } }) : "";
  });
}

// Kinds whose accuracies are all the network's own; rewinds and truncations have
// those of changed networks, too.
const OF_NETWORKS = ["memorization", "measure", "task_capacity"];

// One chart a metric with a line for each run, on the same axes.
function comparison(all) {
  const runs = all.filter((run) => run.rows.length && !run.config.axes
    && OF_NETWORKS.includes(run.kind)
    && subsetsOf(run.rows, "accuracy").length);
  if (runs.length < 2) return "";
  const metrics = ["accuracy", ...METRICS.filter((metric) =>
    ["capacity", "radius", "dimension"].includes(metric)
    && runs.some((run) => subsetsOf(run.rows, metric).length))];
  const subsets = SUBSETS.filter((subset) => runs.some((run) =>
    subsetsOf(run.rows, "accuracy").includes(subset)));
  const first = subsets.includes("permuted") ? "permuted" : subsets[0];
  const names = runs.map((run, i) => {
    const { color, marker: shape } = lookOfRun(i);
    return make("span", {}, sampleOf(color, shape), " ", run.name);
  });
  return make("section", {}, make("h2", {}, "Side by side"),
    make("p", { class: "soft" }, "Accuracy is the network's, geometry that of"
      + " the deepest hidden layer measured; means over all seeds, bands of one"
      + " standard error."),
    ...chooser("subset", subsets, "grid",
      (subset) => runCharts(runs, metrics, subset), first, names),
    table(["run", "epoch", "subset", ...metrics],
      runs.flatMap((run) => numbersOf(run, metrics)),
      { caption: "At each seed's own best and last epoch." }),
    make("details", {}, make("summary", {}, "Settings that differ"),
      table(["setting", ...runs.map((run) => run.name)], differences(runs))));
}
