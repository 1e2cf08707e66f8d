// Maps of layers by epochs, and the bar of their colours.

const VIRIDIS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c",
  "#28ae80", "#5ec962", "#addc30", "#fde725"];
// White is what is expected, as in the figures.
const DIVERGING = ["#053061", "#2166ac", "#4393c3", "#92c5de", "#d1e5f0",
  "#f7f7f7", "#fddbc7", "#f4a582", "#d6604d", "#b2182b", "#67001f"];

function heatColor(t, colors) {
  const place = Math.min(Math.max(t, 0), 1) * (colors.length - 1);
  const i = Math.min(Math.floor(place), colors.length - 2);
  const parts = [1, 3, 5].map((k) => {
    const [a, b] = [colors[i], colors[i + 1]].map((c) =>
      parseInt(c.slice(k, k + 2), 16));
    return Math.round(a + (b - a) * (place - i));
  });
  return `rgb(${parts})`;
}

// The scale of some values: over what they are, or about what is expected.
function scaleOf(values, { log = false, about } = {}) {
  const ends = domain(values.map((mean) => ({ mean, error: 0 })), log);
  if (about === undefined) return { ends, shown: ends, log, colors: VIRIDIS };
  const warp = log ? Math.log : (v) => v;
  const far = Math.max(...ends.map((v) => Math.abs(warp(v) - warp(about))),
    log ? 0.2 : 0.05);
  const at = (t) => (log ? about * Math.exp(t) : about + t);
  const shown = [Math.min(ends[0], at(-0.2 * far)),
    Math.max(ends[1], at(0.2 * far))];
  return { ends: [at(-far), at(far)], shown, log, about, colors: DIVERGING };
}

function colorOf(value, { ends, log, colors }) {
  const [low, high, v] = [...ends, value].map(log ? Math.log : (x) => x);
  return heatColor((v - low) / (high - low), colors);
}

const LONGEST = 25;

// A name that leaves room for a map: a long one loses its middle.
function shorten(name) {
  const half = (LONGEST - 1) / 2;
  return name.length <= LONGEST ? name
    : `${name.slice(0, half)}…${name.slice(-half)}`;
}

// A map of rows by epochs; `cells` has for each row a Map from epoch to value,
// and at `marks`, which are epochs, there are dashed lines. What is unknown is
// grey: white has a meaning.
function heatmap({ title, names, epochs, cells }, scale, marks) {
  const longest = Math.max(...names.map((name) => shorten(name).length));
  const [left, top, cell] = [Math.max(64, 10 + 7 * longest), 20, 15];
  const wide = (SIZE.width - left - 8) / epochs.length;
  const bottom = top + names.length * cell;
  const svg = draw("svg", { viewBox: `0 0 ${SIZE.width} ${bottom + 32}`,
    role: "img", "aria-label": title });
  svg.append(draw("text", { x: left, y: 13 }, title));
  names.forEach((name, i) => {
    write(svg, left - 5, top + i * cell + 11, shorten(name), "end");
    epochs.forEach((epoch, j) => {
      const found = cells[i].get(epoch);
      const [fill, said] = found === undefined ? ["#999", "unknown"]
        : [colorOf(found, scale), short(found)];
      svg.append(draw("rect", { x: left + j * wide, y: top + i * cell, fill,
        width: wide + 0.4, height: cell + 0.4 },
      draw("title", {}, `${name}, epoch ${epoch}: ${said}`)));
    });
  });
  const every = Math.ceil(epochs.length / 12);
  epochs.forEach((epoch, j) => {
    // The last one always.
    if ((epochs.length - 1 - j) % every) return;
    write(svg, left + (j + 0.5) * wide, bottom + 14, String(epoch));
  });
  write(svg, (left + SIZE.width) / 2, bottom + 28, "epoch");
  for (const mark of marks.filter((epoch) => epochs.includes(epoch))) {
    const d = `M${left + (epochs.indexOf(mark) + 0.5) * wide},${top}V${bottom}`;
    // Dark about light is seen on every colour.
    svg.append(draw("path", { d, stroke: "#ffffff", "stroke-width": 3,
      opacity: 0.7 }), draw("path", { d, stroke: "#000000",
      "stroke-width": 1.3, "stroke-dasharray": "4 3" },
    draw("title", {}, `best epoch ${mark}`)));
  }
  return make("figure", {}, svg);
}

// Maps on one scale, and the bar of their colours.
function heatmaps(grids, label, marks, options) {
  const all = grids.flatMap(({ cells }) =>
    cells.flatMap((row) => [...row.values()]));
  const scale = scaleOf(all, options);
  return [...grids.map((grid) => heatmap(grid, scale, marks)),
    make("figure", {}, colorBar(`${label}; grey: unknown`, scale))];
}

// The colours of a map, with the values that they stand for.
function colorBar(label, scale) {
  const { shown, log } = scale;
  const svg = draw("svg", { viewBox: `0 0 ${SIZE.width} 34` });
  const wide = SIZE.width - 72;
  const warp = log ? Math.log : (v) => v;
  const [low, high] = shown.map(warp);
  for (let i = 0; i < 60; i++) {
    const v = low + ((i + 0.5) / 60) * (high - low);
    svg.append(draw("rect", { x: 64 + (i * wide) / 60, y: 14, height: 8,
      width: wide / 60 + 0.4, fill: colorOf(log ? Math.exp(v) : v, scale) }));
  }
  for (const t of ticks(...shown, log)) {
    const x = 64 + ((warp(t) - low) / (high - low)) * wide;
    write(svg, x, 33, tick(t));
  }
  writeLabel(svg, 64, 10, label);
  return svg;
}
