// Rows as arrays: the one way from results to charts, as `runs.Rows` has it.

// Records from columns, whose repeated values are written once.
function unpackRows({ count, columns }) {
  const names = Object.keys(columns);
  return Array.from({ length: count }, (_, i) => {
    const row = {};
    for (const name of names) {
      const { levels, codes } = columns[name];
      row[name] = levels ? levels[codes[i]] : codes[i];
    }
    return row;
  });
}

function select(rows, wanted) {
  const entries = Object.entries(wanted);
  return rows.filter((row) =>
    entries.every(([name, value]) => (row[name] ?? null) === value));
}

// A fact about each seed, such as `best_epoch`.
function fact(rows, metric) {
  return select(rows, { metric, subset: null })
    .filter((row) => row.seed !== null).map((row) => row.value);
}

// The best epochs of the seeds, each once, ascending.
function bestEpochs(rows) {
  return [...new Set(fact(rows, "best_epoch"))].sort((a, b) => a - b);
}

// The rows of each seed's own best or last epoch; none where that was not
// measured.
function at(which, rows, facts) {
  const epochs = new Map(select(facts, { metric: `${which}_epoch` })
    .map((row) => [row.seed, row.value]));
  return rows.filter((row) => row.epoch !== null
    && row.epoch === epochs.get(row.seed));
}

function levels(rows, column) {
  const found = [...new Set(rows.map((row) => row[column] ?? null))]
    .filter((value) => value !== null);
  return found.every((value) => typeof value === "number")
    ? found.sort((a, b) => a - b) : found;
}

function layersOf(rows) {
  const names = new Map();
  for (const row of rows) {
    if (row.layer !== null && row.layer_index !== null) {
      names.set(row.layer_index, row.layer);
    }
  }
  return new Map([...names].sort((a, b) => a[0] - b[0]));
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

// Mean and standard error over seeds along a column; the rows' own error
// where there is one seed. A mean of which a value is unknown (null) is NaN.
function series(rows, along) {
  const cells = new Map();
  for (const row of rows) {
    if (!cells.has(row[along])) cells.set(row[along], []);
    cells.get(row[along]).push(row);
  }
  const points = [...cells].map(([x, cell]) => {
    const values = cell.map((row) => row.value ?? NaN);
    const middle = mean(values);
    const n = values.length;
    const squares = mean(values.map((value) => (value - middle) ** 2));
    const error = n > 1 ? Math.sqrt(squares / (n - 1)) : cell[0].stderr ?? 0;
    return { x, mean: middle, error, n };
  });
  return points.sort((a, b) => a.x - b.x);
}

// The rows at values of a column that all of the seeds have: seeds may end at
// epochs of their own, and the mean of some of them would be another curve.
function ofAllSeeds(rows, along) {
  const count = levels(rows, "seed").length;
  const whole = new Set(levels(rows, along).filter((value) =>
    levels(select(rows, { [along]: value }), "seed").length === count));
  return rows.filter((row) => whole.has(row[along]));
}

// How many of a run's seeds rows are of, where these are not all.
function partOfSeeds(rows, all) {
  const [some, count] = [rows, all].map((of) => levels(of, "seed").length);
  return some < count ? `${some} of ${count} seeds` : "";
}

// The known means over seeds by epoch, each as a function turns it.
function byEpoch(rows, turn = (value) => value) {
  return new Map(series(rows, "epoch").map((p) => [p.x, turn(p.mean)])
    .filter(([, value]) => Number.isFinite(value)));
}

// The mean over seeds of rows that share all else; null if it is unknown.
function meanOf(rows, wanted = {}) {
  const [point] = series(select(rows, wanted), "metric");
  return Number.isFinite(point?.mean) ? point.mean : null;
}

// The deepest layer but the logits, or these where they are alone.
function lastHidden(rows) {
  const places = [...layersOf(rows)].filter(([, name]) => name !== "logits");
  const [place] = places.at(-1) ?? [...layersOf(rows)].at(-1) ?? [];
  return select(rows, { layer_index: place ?? null });
}

function short(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  return Number.isInteger(value) ? String(value)
    : String(Number(value.toPrecision(4)));
}
