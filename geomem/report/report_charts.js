// Charts as inline SVG, and tables. Text enters the page as text alone.

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function draw(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const SHAPES = {
  o: (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
  s: (r) => `M${-r},${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  "^": (r) => `M0,${-1.2 * r}L${1.2 * r},${r}H${-1.2 * r}z`,
  D: (r) => `M0,${-1.35 * r}L${1.35 * r},0L0,${1.35 * r}L${-1.35 * r},0z`,
};

function marker(shape, color, x, y, r = 3) {
  const d = (SHAPES[shape] ?? SHAPES.o)(r);
  return draw("path", { d, fill: color, transform: `translate(${x},${y})` });
}

// Round values between the ends, about six of them; 1, 2, 5 where logarithmic.
function ticks(low, high, log) {
  const found = [];
  if (log) {
    for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++) {
      for (const m of [1, 2, 5]) found.push(m * 10 ** e);
    }
  } else {
    const rough = (high - low) / 5;
    const unit = 10 ** Math.floor(Math.log10(rough));
    const step = unit * [1, 2, 5, 10].find((m) => m * unit >= rough);
    for (let i = Math.ceil(low / step); i * step <= high; i++) {
      found.push(Number((i * step).toPrecision(8)));
    }
  }
  return found.filter((t) => t >= low * (1 - 1e-9) && t <= high * (1 + 1e-9));
}

// The ends of an axis with room for errors, over all that it will ever show.
function domain(points, log, also = []) {
  const ends = points.flatMap((p) => [p.mean - p.error, p.mean + p.error])
    .concat(also).filter((v) => Number.isFinite(v) && (!log || v > 0));
  if (!ends.length) return [log ? 0.1 : 0, 1];
  const [low, high] = ends.reduce(
    ([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
  if (log) return [low / 1.12, high * 1.12];
  const room = (high - low || Math.abs(high) || 1) * 0.05;
  return [low - room, high + room];
}

const SIZE = { width: 380, height: 262, left: 48, right: 10, top: 22 };

// Epochs are evenly spread in the logarithm, from 0 on; layers one by one.
function placeOf(axis) {
  const warp = axis.layers ? (x) => x
    : (x) => (x <= 1 ? 0.4 * x : 0.4 + Math.log10(x));
  const ends = axis.layers ? [-0.4, axis.layers.length - 0.6]
    : [-0.05, warp(axis.last) + 0.05];
  const span = SIZE.width - SIZE.left - SIZE.right;
  const unit = span / (ends[1] - ends[0]);
  return (x) => SIZE.left + (warp(x) - ends[0]) * unit;
}

function drawXAxis(svg, axis, place, bottom) {
  const middle = (SIZE.left + SIZE.width - SIZE.right) / 2;
  svg.append(draw("path", {
    class: "axis", d: `M${SIZE.left},${bottom}H${SIZE.width - SIZE.right}` }));
  if (axis.layers) {
    const every = Math.ceil(axis.layers.length / 26);
    axis.layers.forEach((name, i) => {
      if (i % every) return;
      svg.append(draw("text", { "text-anchor": "end",
        transform: `translate(${place(i) + 3},${bottom + 6}) rotate(-90)` },
      name));
    });
    return;
  }
  for (const t of [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]) {
    if (t <= axis.last) {
      svg.append(draw("text", { x: place(t), y: bottom + 14,
        "text-anchor": "middle" }, String(t)));
    }
  }
  svg.append(draw("text", { x: middle, y: bottom + 30,
    "text-anchor": "middle" }, "epoch"));
}

function drawYAxis(svg, axis, height, bottom) {
  svg.append(draw("path", {
    class: "axis", d: `M${SIZE.left},${SIZE.top}V${bottom}` }));
  for (const t of ticks(...axis.domain, axis.log)) {
    svg.append(draw("text", { x: SIZE.left - 6, y: height(t) + 4,
      "text-anchor": "end" }, short(t)));
    svg.append(draw("path", {
      class: "axis", d: `M${SIZE.left - 3},${height(t)}h3` }));
  }
  svg.append(draw("text", { x: 4, y: 12 }, axis.label));
}

function drawLine(svg, line, place, height) {
  const points = line.points.filter((p) => Number.isFinite(height(p.mean)));
  if (!points.length) return;
  const trace = (values) => values.map(([x, y]) => `${x},${y}`).join("L");
  const at = (p, y) => [place(p.x), height(y)];
  if (!line.faint) {
    // Below a logarithmic axis a band ends at the mean.
    const low = (p) => (Number.isFinite(height(p.mean - p.error))
      ? p.mean - p.error : p.mean);
    const band = points.map((p) => at(p, p.mean + p.error)).concat(
      points.map((p) => at(p, low(p))).reverse());
    svg.append(draw("path", { d: `M${trace(band)}z`, fill: line.color,
      opacity: 0.2 }));
  }
  svg.append(draw("path", { d: `M${trace(points.map((p) => at(p, p.mean)))}`,
    fill: "none", stroke: line.color, "stroke-width": line.faint ? 1 : 1.7,
    opacity: line.faint ? 0.4 : 1 }));
  if (line.faint) return;
  for (const p of points) {
    const dot = marker(line.marker, line.color, ...at(p, p.mean));
    const name = line.names ? line.names[p.x] : `epoch ${p.x}`;
    const error = p.error ? ` ± ${short(p.error)}` : "";
    dot.append(draw("title", {},
      `${line.name}, ${name}: ${short(p.mean)}${error}`));
    svg.append(dot);
  }
}

// Lines in bands of one standard error; `marks` are levels of x or of y.
function lineChart({ lines, x, y, marks = [] }) {
  const longest = x.layers ? Math.max(...x.layers.map((n) => n.length)) : 0;
  const foot = x.layers ? 12 + 6 * longest : 36;
  const bottom = SIZE.height - 36;
  const place = placeOf(x);
  const warp = y.log ? Math.log : (v) => v;
  const [low, high] = y.domain.map(warp);
  const height = (v) =>
    bottom - ((warp(v) - low) / (high - low)) * (bottom - SIZE.top);
  const svg = draw("svg", { role: "img", "aria-label": y.label,
    viewBox: `0 0 ${SIZE.width} ${bottom + foot}` });
  drawXAxis(svg, x, place, bottom);
  drawYAxis(svg, y, height, bottom);
  const right = SIZE.width - SIZE.right;
  for (const mark of marks) {
    const level = mark.x === undefined;
    const d = level ? `M${SIZE.left},${height(mark.y)}H${right}`
      : `M${place(mark.x)},${SIZE.top}V${bottom}`;
    const end = level || place(mark.x) > 0.7 * right;
    const [tx, ty] = level ? [right, height(mark.y) - 4]
      : [place(mark.x) + (end ? -4 : 4), SIZE.top + 8];
    svg.append(draw("path", { class: "mark", d }), draw("text", { x: tx, y: ty,
      "text-anchor": end ? "end" : "start", opacity: 0.75 }, mark.label));
  }
  for (const line of lines) drawLine(svg, line, place, height);
  return make("figure", {}, svg);
}

const VIRIDIS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c",
  "#28ae80", "#5ec962", "#addc30", "#fde725"];

function heatColor(t) {
  const place = Math.min(Math.max(t, 0), 1) * (VIRIDIS.length - 1);
  const i = Math.min(Math.floor(place), VIRIDIS.length - 2);
  const parts = [1, 3, 5].map((k) => {
    const [a, b] = [VIRIDIS[i], VIRIDIS[i + 1]].map((c) =>
      parseInt(c.slice(k, k + 2), 16));
    return Math.round(a + (b - a) * (place - i));
  });
  return `rgb(${parts})`;
}

// A map of rows by epochs; `mark` is an epoch to draw a dashed line at.
function heatmap({ title, names, epochs, value, scale, log, mark }) {
  const longest = Math.max(...names.map((name) => name.length));
  const [left, top, cell] = [Math.max(64, 10 + 7 * longest), 20, 15];
  const wide = (SIZE.width - left - 8) / epochs.length;
  const bottom = top + names.length * cell;
  const warp = log ? Math.log : (v) => v;
  const [low, high] = scale.map(warp);
  const svg = draw("svg", { viewBox: `0 0 ${SIZE.width} ${bottom + 32}`,
    role: "img", "aria-label": title });
  svg.append(draw("text", { x: left, y: 13 }, title));
  names.forEach((name, i) => {
    svg.append(draw("text", { x: left - 5, y: top + i * cell + 11,
      "text-anchor": "end" }, name));
    epochs.forEach((epoch, j) => {
      const found = value(i, epoch);
      if (found === undefined) return;
      const fill = heatColor((warp(found) - low) / (high - low));
      svg.append(draw("rect", { x: left + j * wide, y: top + i * cell, fill,
        width: wide + 0.4, height: cell + 0.4 },
      draw("title", {}, `${name}, epoch ${epoch}: ${short(found)}`)));
    });
  });
  const every = Math.ceil(epochs.length / 12);
  epochs.forEach((epoch, j) => {
    if (j % every) return;
    svg.append(draw("text", { x: left + (j + 0.5) * wide, y: bottom + 14,
      "text-anchor": "middle" }, String(epoch)));
  });
  svg.append(draw("text", { x: (left + SIZE.width) / 2, y: bottom + 28,
    "text-anchor": "middle" }, "epoch"));
  if (mark !== undefined) {
    const x = left + (epochs.indexOf(mark) + 0.5) * wide;
    svg.append(draw("path", { d: `M${x},${top}V${bottom}`, stroke: "#ffffff",
      "stroke-dasharray": "4 3" }));
  }
  return make("figure", {}, svg);
}

// The colours of a heatmap, with the ends of its scale.
function colorBar(label, scale, log) {
  const svg = draw("svg", { viewBox: `0 0 ${SIZE.width} 34` });
  const wide = SIZE.width - 72;
  for (let i = 0; i < 60; i++) {
    svg.append(draw("rect", { x: 64 + (i * wide) / 60, y: 14, height: 8,
      width: wide / 60 + 0.4, fill: heatColor(i / 59) }));
  }
  const warp = log ? Math.log : (v) => v;
  const [low, high] = scale.map(warp);
  for (const t of ticks(...scale, log)) {
    const x = 64 + ((warp(t) - low) / (high - low)) * wide;
    svg.append(draw("text", { x, y: 33, "text-anchor": "middle" }, short(t)));
  }
  svg.append(draw("text", { x: 64, y: 10 }, label));
  return svg;
}
