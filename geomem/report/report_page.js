// The page: a part for the run, and for each directory below it.

const DATA = JSON.parse(document.getElementById("data").textContent);
const METRICS = DATA.metrics.map((metric) => metric.name);
const LABELS = { accuracy: "accuracy", loss: "loss (nats)",
  ...Object.fromEntries(DATA.metrics.map((m) => [m.name, m.label])) };
const LOG = DATA.metrics.filter((m) => m.log).map((m) => m.name);
const withChance = (fact) =>
  DATA.metrics.filter((m) => m.chance === fact).map((m) => m.name);
const CHANCE = withChance("chance_capacity");
const ACCURACIES = ["accuracy", ...withChance("chance_accuracy")];
const KINDS = { single: "one layer alone", suffix: "from a layer on",
  prefix: "up to a layer", custom: "chosen layers" };
const SUBSETS = Object.keys(DATA.looks);

function subsetsOf(rows, metric) {
  const present = levels(select(rows, { metric }), "subset");
  return SUBSETS.filter((subset) => present.includes(subset));
}

// Boxes by which subsets are shown and hidden; they are the legend, too.
function legend(subsets, hidden, change) {
  return subsets.map((subset) => {
    const { color, marker: shape } = DATA.looks[subset];
    const box = make("input", { type: "checkbox", checked: true, change: () => {
      if (box.checked) hidden.delete(subset);
      else hidden.add(subset);
      change();
    } });
    return make("label", {}, box, sampleOf(color, shape), " ", subset);
  });
}

// A line as the legend shows it.
function sampleOf(color, shape) {
  return draw("svg", { viewBox: "0 0 26 12" }, draw("g", { class: "data" },
    draw("path", { d: "M0,6H26", stroke: color, "stroke-width": 1.7 }),
    marker(shape, color, 13, 6, 3.5)));
}

function lineOf(rows, subset, along, rest = {}) {
  return { name: subset, ...DATA.looks[subset],
    points: series(ofAllSeeds(rows, along), along), ...rest };
}

// Upright marks at the best epochs of the seeds, named once.
function bestMarks(rows) {
  return bestEpochs(rows).map((x, i) => ({ x, label: i ? "" : "best epoch" }));
}

// The mean over the steps of every epoch; older runs have none.
function trainingLoss(rows) {
  const steps = select(rows, { metric: "training_loss" });
  return { name: "in training", color: "currentColor", faint: true,
    points: series(ofAllSeeds(steps, "epoch"), "epoch") };
}

function accuracyCharts(rows, hidden) {
  const last = Math.max(...levels(rows, "epoch"));
  const known = ["accuracy", "loss"].filter((m) => subsetsOf(rows, m).length);
  return known.map((metric) => {
    const lines = subsetsOf(rows, metric).map((subset) =>
      lineOf(select(rows, { metric, subset, layer: null }), subset, "epoch"));
    if (metric === "loss") lines.push(trainingLoss(rows));
    const points = lines.flatMap((line) => line.points);
    return lineChart({ lines: lines.filter((l) => !hidden.has(l.name)),
      x: { last }, y: yAxis(metric, points),
      marks: [...bestMarks(rows), ...chanceMarks(rows, metric)] });
  });
}

// Says that curves leave out epochs that only some of the seeds have.
function partlyScored(rows) {
  const scores = select(rows, { metric: "accuracy", layer: null });
  return ofAllSeeds(scores, "epoch").length < scores.length
    ? " Epochs of some of the seeds are in the table only." : "";
}

// The axis of a metric, with room for all points and marks.
function yAxis(metric, points, marks = []) {
  const log = LOG.includes(metric);
  return { label: LABELS[metric], log, domain: metric === "accuracy"
    ? [-0.02, 1.02] : domain(points, log, marks.map((mark) => mark.y)) };
}

// Chance: what points without structure have, 2/M without a margin.
function chanceOf(rows, metric) {
  const [points] = fact(rows, "manifold_points");
  const [chance] = fact(rows, "chance_capacity");
  return CHANCE.includes(metric) ? chance ?? 2 / points : undefined;
}

function chanceMarks(rows, metric) {
  const [majority] = metric === "accuracy" ? fact(rows, "majority_accuracy") : [];
  const y = ACCURACIES.includes(metric)
    ? majority ?? fact(rows, "chance_accuracy")[0] : chanceOf(rows, metric);
  return Number.isFinite(y) ? [{ y, label: "chance" }] : [];
}

function chanceSentence(rows) {
  const [y] = CHANCE.filter((metric) => subsetsOf(rows, metric).length)
    .map((metric) => chanceOf(rows, metric));
  const [points] = fact(rows, "manifold_points");
  if (!Number.isFinite(y) || !points) return "";
  const law = Math.abs(y * points / 2 - 1) < 1e-3 ? " = 2/M" : "";
  return ` The capacity of chance is ${short(y)}${law}, M = ${points}, in layers`
    + " of 2M features or more; in others, such as the logits, it is higher.";
}

// A metric by layer at an epoch, faintly that of each seed's best; by epoch
// where one layer was measured.
function geometryChart(rows, metric, epoch, hidden) {
  const layers = layersOf(rows);
  const places = [...layers.keys()];
  const marks = chanceMarks(rows, metric);
  const names = Object.fromEntries(layers);
  const many = layers.size > 1;
  const points = [];
  const lines = subsetsOf(rows, metric).flatMap((subset) => {
    const here = select(rows, { metric, subset });
    const byLayer = (found) => series(found, "layer_index")
      .map((p) => ({ ...p, x: places.indexOf(p.x) }));
    const atEpoch = (e) => byLayer(select(here, { epoch: e }));
    for (const e of levels(here, "epoch")) points.push(...atEpoch(e));
    if (hidden.has(subset)) return [];
    if (!many) return [lineOf(here, subset, "epoch")];
    const look = { name: subset, ...DATA.looks[subset],
      names: places.map((i) => names[i]) };
    return [{ ...look, points: byLayer(at("best", here, rows)), faint: true },
      { ...look, points: atEpoch(epoch) }];
  });
  const x = many ? { layers: [...layers.values()] }
    : { last: Math.max(...levels(rows, "epoch")) };
  return lineChart({ lines, x, y: yAxis(metric, points, marks), marks });
}

// A map for each subset, by layer and epoch, relative to chance where that is
// known.
function layerMaps(rows, metric) {
  const layers = layersOf(rows);
  const epochs = levels(select(rows, { metric }), "epoch");
  const chance = chanceOf(rows, metric);
  const about = Number.isFinite(chance) ? 1 : undefined;
  const names = [...layers.values()];
  const turn = (mean) => (about ? mean / chance : mean);
  const grids = subsetsOf(rows, metric).map((subset) => ({ title: subset, names,
    epochs, cells: [...layers.keys()].map((place) =>
      byEpoch(select(rows, { metric, subset, layer_index: place }), turn)) }));
  const label = about ? `${LABELS[metric]} / chance` : LABELS[metric];
  return heatmaps(grids, label, bestEpochs(rows),
    { log: LOG.includes(metric), about });
}

// Every layer and subset at an epoch, a column for each metric.
function geometryTable(rows, epoch) {
  const layers = layersOf(rows);
  const now = select(rows, { epoch });
  const metrics = METRICS.filter((metric) => subsetsOf(now, metric).length);
  const cells = [...layers].flatMap(([index, layer]) => {
    const here = select(now, { layer_index: index });
    return levels(here, "subset").map((subset) => [layer, subset,
      ...metrics.map((metric) => meanOf(here, { metric, subset }))]);
  });
  return table(["layer", "subset", ...metrics], cells,
    { caption: `Geometry at epoch ${epoch}, mean over `
      + `${partOfSeeds(now, rows) || "seeds"}.` });
}

function accuracyTable(rows) {
  const whole = select(rows, { layer: null });
  const metrics = ["accuracy", "loss"];
  const cells = levels(select(whole, { metric: "accuracy" }), "epoch").flatMap(
    (epoch) => subsetsOf(whole, "accuracy").map((subset) => [epoch, subset,
      ...metrics.map((metric) => meanOf(whole, { metric, subset, epoch }))]));
  return table(["epoch", "subset", ...metrics], cells,
    { caption: "Mean over seeds; at epochs of some only, over these." });
}

function slider(epochs, change, note) {
  let timer;
  const label = make("span");
  const range = make("input", { type: "range", min: 0, step: 1,
    max: epochs.length - 1, "aria-label": "epoch", input: () => show() });
  const show = () => {
    const epoch = epochs[range.value];
    label.textContent = ` epoch ${epoch}${note(epoch)}`;
    change(epoch);
  };
  const play = make("button", { click: () => {
    if (timer) { clearInterval(timer); timer = 0; } else {
      timer = setInterval(() => {
        range.value = (Number(range.value) + 1) % epochs.length;
        show();
      }, 700);
    }
    play.textContent = timer ? "stop" : "play";
  } }, "play");
  const go = (epoch) => { range.value = epochs.indexOf(epoch); show(); };
  return { node: make("span", {}, range, label, " ", play), go };
}

// The charts of a chosen epoch; `redraw` when subsets change, and `controls`
// for the bar that the legend is in, too: two bars would cover each other.
function geometrySection(rows, hidden) {
  const epochs = levels(rows.filter((row) => row.layer !== null), "epoch");
  const best = bestEpochs(rows).filter((epoch) => epochs.includes(epoch));
  const metrics = METRICS.filter((metric) => subsetsOf(rows, metric).length);
  const layers = [...layersOf(rows).values()];
  const many = layers.length > 1;
  const [charts, tables] = [make("div", { class: "grid" }), make("div")];
  let epoch = epochs.at(-1);
  const redraw = () => {
    charts.replaceChildren(...metrics.map((metric) =>
      geometryChart(rows, metric, epoch, hidden)));
    tables.replaceChildren(geometryTable(rows, epoch));
  };
  const measured = rows.filter((row) => row.layer !== null);
  const part = (value) => partOfSeeds(select(measured, { epoch: value }), rows);
  const bar = slider(epochs, (chosen) => { epoch = chosen; redraw(); },
    (value) => (part(value) ? ` (${part(value)})` : ""));
  const stops = best.map((value) =>
    [best.length > 1 ? `best epoch ${value}` : "best epoch", value]);
  // The last that was measured may be another.
  const end = fact(rows, "last_epoch").includes(epoch) ? "last epoch"
    : `epoch ${epoch}`;
  const buttons = [...stops, [end, epoch]].map(([name, value]) =>
    make("button", { click: () => bar.go(value) }, name));
  const controls = [bar.node, make("span", { class: "boxes" }, ...buttons)];
  bar.go(epoch);
  const some = partOfSeeds(at("best", measured, rows), rows);
  const faint = best.length ? `Faint: epoch ${best.join(", ")}, the best of `
    + `${some || "each seed"} by test accuracy. ` : "The best epoch was not"
    + " measured. ";
  const node = make("div", {},
    make("h3", {}, many ? "Geometry by layer" : `Geometry of ${layers[0]}`),
    make("p", { class: "soft" }, (many ? faint : "")
      + "Bands: one standard error over seeds, over the probes where there is"
      + " one seed. Open triangles: beyond the axis." + chanceSentence(rows)),
    charts, make("details", {}, make("summary", {}, "As a table"),
      many ? "" : make("div", { class: "controls" }, ...controls), tables));
  if (many) {
    node.append(make("h3", {}, "By layer and epoch"),
      make("p", { class: "soft" }, "A column averages the seeds measured there."),
      ...chooser("metric",
      metrics, "grid maps", (metric) => layerMaps(rows, metric)));
  }
  return { node, redraw, controls: many ? controls : [] };
}

// Training and geometry of a run, or of one cell of a sweep.
function memorization(rows) {
  const hidden = new Set();
  const accuracy = make("div", { class: "grid" });
  const drawAccuracy = () =>
    accuracy.replaceChildren(...accuracyCharts(rows, hidden));
  drawAccuracy();
  const measured = rows.filter((row) => row.epoch === null
    || (row.layer !== null && METRICS.includes(row.metric)));
  const geometry = measured.some((row) => row.layer !== null)
    ? geometrySection(measured, hidden)
    : { node: "", redraw: () => {}, controls: [] };
  const present = levels(rows, "subset");
  const subsets = SUBSETS.filter((subset) => present.includes(subset));
  const boxes = legend(subsets, hidden, () => {
    drawAccuracy();
    geometry.redraw();
  });
  const faint = trainingLoss(rows).points.length
    ? "Faint: the loss in training, a mean over the steps of each epoch." : "";
  const notes = `${faint}${partlyScored(rows)}`.trim();
  return make("div", {}, make("div", { class: "controls sticky" },
    make("span", { class: "boxes" }, ...boxes), ...geometry.controls), accuracy,
    notes ? make("p", { class: "soft" }, notes) : "",
    accuracy.firstChild ? make("details", {},
      make("summary", {}, "As a table"), accuracyTable(rows)) : "",
    geometry.node);
}

// A sweep is looked at cell by cell.
function sweep(rows, axes) {
  const place = make("div");
  const wanted = Object.fromEntries(axes.map((axis) =>
    [axis, levels(rows, axis)[0]]));
  const show = () => {
    const found = select(rows, wanted);
    place.replaceChildren(found.length ? memorization(found)
      : make("p", {}, "There is no such cell."));
  };
  const lists = axes.map((axis) => choice(axis, levels(rows, axis), (value) => {
    wanted[axis] = value;
    show();
  }));
  show();
  return make("div", {}, make("h3", {}, "One cell of the sweep"),
    make("div", { class: "controls" }, ...lists), place);
}

// Accuracy after rewinds by layer and epoch, a map for each kind and subset.
function rewinds(rows) {
  const whole = rows.filter((row) => row.layer === null && row.subset !== null);
  // Accuracies are shown against those of each seed's own last network.
  const keyOf = (row) => `${row.seed} ${row.subset}`;
  const own = new Map(at("last", select(whole, { metric: "accuracy",
    kind: null }), rows).map((row) => [keyOf(row), row.value]));
  const change = (row) => ({ ...row,
    value: (row.value ?? NaN) - (own.get(keyOf(row)) ?? NaN) });
  const drawn = (metric) => {
    const found = select(whole, { metric });
    const scored = metric === "accuracy" ? found.map(change) : found;
    const kinds = levels(scored, "kind");
    const grids = kinds.flatMap((kind) => subsetsOf(scored, metric).map(
      (subset) => {
        const here = select(scored, { kind, subset });
        const sets = levels(here, "rewound");
        if (kind === "suffix") sets.reverse();
        const border = (set) => set.split("+").at(kind === "suffix" ? 0 : -1);
        return { title: `${subset}, ${KINDS[kind] ?? kind}`,
          names: kind === "custom" ? sets : sets.map(border),
          epochs: levels(here, "epoch"),
          cells: sets.map((rewound) => byEpoch(
            select(here, { rewound }))) };
      }));
    const label = metric === "accuracy"
      ? "accuracy, less that of the last epoch" : LABELS[metric] ?? metric;
    return heatmaps(grids, label, bestEpochs(rows),
      metric === "loss" ? {} : { about: 0 });
  };
  const known = ["accuracy", "recovered", "loss"].filter((metric) =>
    select(whole, { metric }).some((row) => row.kind));
  if (!known.length) return make("p", {}, "There are no rewinds yet.");
  return make("div", {},
    make("p", { class: "soft" }, "Rows: the layer at the border of what is put"
      + " back; columns: the epoch that it is put back to; dashed: the best."),
    ...chooser("metric", known, "grid maps", drawn));
}

function charts(part) {
  const { kind, rows, config } = part;
  if (!rows.length) return make("p", {}, "There are no rows yet.");
  if (kind.startsWith("rewind")) return rewinds(rows);
  if (config.axes) return sweep(rows, config.axes);
  return ["memorization", "measure"].includes(kind) ? memorization(rows)
    : make("div");
}

function settings(part) {
  const rowsOf = (fields) => Object.entries(fields)
    .filter(([, value]) => value !== null)
    .map(([name, value]) => [name,
      typeof value === "number" ? value : textOf(value)]);
  return make("details", {}, make("summary", {}, "Config and versions"),
    make("div", { class: "grid" },
      table(["setting", "value"], rowsOf(part.config)),
      table(["version", "value"], rowsOf(part.environment))));
}

// A time in ISO format, to the minute.
function minute(time) {
  return time ? time.replace("T", " ").replace(/:\d\d\+00:00$/, " UTC")
    : "at an unknown time";
}

function show(part, index) {
  part.rows = unpackRows(part.rows);
  const state = part.done ? "complete" : "not complete";
  // A run alone is what the page is called by.
  const section = make("section", { id: `part${index}` },
    ...part.name === DATA.title ? [] : [make("h2", {}, part.name)],
    make("p", { class: "soft" }, `${part.kind.replaceAll("_", " ")}, ${state},`
      + ` started ${minute(part.environment.started)}`));
  if (part.sentences.length) {
    section.append(make("ul", {}, ...part.sentences.map((sentence) =>
      make("li", {}, sentence))));
    if (part.sentences.some((sentence) => /^[FG]\d/.test(sentence))) {
      section.append(make("p", { class: "soft" }, "The claims by their names,"
        + " and how they are judged: docs/reproduction.md."));
    }
  }
  section.append(settings(part), charts(part));
  if (part.figures.length) {
    section.append(make("h3", {}, "Figures"), ...part.figures.map((figure) =>
      make("figure", { class: "drawn" },
        make("img", { src: figure.source, alt: figure.caption }),
        make("figcaption", {}, figure.caption))));
  }
  if (part.rows.length) section.append(explorer(part.rows));
  return section;
}

// Several runs are compared first, then side by side, each with the directories
// below it.
const page = document.getElementById("page");
const parts = DATA.runs.flat();
page.append(make("h1", {}, DATA.title),
  make("p", { class: "soft" }, `Written ${minute(DATA.written)} by geomem`
    + ` ${DATA.version} from the rows.`),
  // A run alone is at the top already.
  make("nav", {}, ...parts.slice(DATA.runs.length > 1 ? 0 : 1).map((part) =>
    make("a", { href: `#part${parts.indexOf(part)}` }, part.name))));
const sections = DATA.runs.map((run) => make("div", {},
  ...run.map((part) => show(part, parts.indexOf(part)))));
page.append(comparison(DATA.runs.map(([part]) => part)),
  make("div", { class: DATA.runs.length > 1 ? "beside" : "" },
    ...sections));
