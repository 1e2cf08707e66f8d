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

function write(svg, x, y, text, anchor = "middle") {
  svg.append(draw("text", { x, y, "text-anchor": anchor }, text));
}

// A metric's label, whose letters after _ are subscripts.
function writeLabel(svg, x, y, label) {
  const parts = label.split(/_([A-Z])/).map((part, i) => draw("tspan",
    i % 2 ? { dy: 3, "font-size": "75%" } : { dy: i ? -3 : 0 }, part));
  svg.append(draw("text", { x, y }, ...parts));
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

// Round values between the ends, about six of them; where logarithmic, powers of
// ten and as many between as make three.
function ticks(low, high, log) {
  for (const factors of log ? [[1], [1, 2, 5], [1, 1.5, 2, 3, 5, 7]] : []) {
    const found = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++) {
      found.push(...factors.map((m) => Number((m * 10 ** e).toPrecision(8))));
    }
    const within = found.filter((t) => t >= low && t <= high);
    // Of many decades, not each has room for a number.
    const every = Math.ceil(within.length / 10);
    if (within.length > 2) return within.filter((_, i) => i % every === 0);
  }
  const rough = (high - low) / 5;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 5, 10].find((m) => m * unit >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) {
    found.push(Number((i * step).toPrecision(8)));
  }
  return found;
}

// Ends beyond which a value is out of all proportion: one epoch's would leave
// the others no room. They are pinned to the edge of the chart.
function fence(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share) => sorted[Math.round(share * (sorted.length - 1))];
  const span = at(0.9) - at(0.1);
  return span > 0 ? [at(0.1) - 3 * span, at(0.9) + 3 * span]
    : [-Infinity, Infinity];
}

// The ends of an axis with room for errors, over all that it will ever show.
function domain(points, log, also = []) {
  const warp = log ? Math.log : (v) => v;
  const usable = (v) => Number.isFinite(v) && (!log || v > 0);
  const means = points.map((p) => p.mean).filter(usable);
  const [least, most] = fence(means.map(warp));
  const within = (v) => warp(v) >= least && warp(v) <= most;
  const ends = points.filter((p) => usable(p.mean) && within(p.mean))
    .flatMap((p) => [p.mean, p.mean - p.error, p.mean + p.error])
    .filter((v) => usable(v) && within(v)).concat(also.filter(usable));
  if (!ends.length) return [log ? 0.1 : 0, 1];
  const [low, high] = ends.reduce(
    ([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
  if (log) return [low / 1.12, high * 1.12];
  const room = (high - low || Math.abs(high) || 1) * 0.05;
  return [low - room, high + room];
}

// Numbers that are short enough for the room beside an axis.
function tick(value) {
  const small = value !== 0 && Math.abs(value) < 1e-3;
  return small ? Number(value.toPrecision(4)).toExponential() : short(value);
}

const EPOCH_TICKS = [10000, 5000, 2000, 1000, 500, 200, 100, 50, 20, 10, 5, 2,
  1, 0];

const SIZE = { width: 380, height: 262, left: 48, right: 16, top: 22 };

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
  // From the largest on, those that have room for their number.
  let room = Infinity;
  for (const t of EPOCH_TICKS.filter((epoch) => epoch <= axis.last)) {
    const [x, half] = [place(t), 3 * String(t).length];
    if (x + half > room) continue;
    write(svg, x, bottom + 14, String(t));
    room = x - half - 2;
  }
  write(svg, (SIZE.left + SIZE.width - SIZE.right) / 2, bottom + 30, "epoch");
}

function drawYAxis(svg, axis, height, bottom) {
  svg.append(draw("path", {
    class: "axis", d: `M${SIZE.left},${SIZE.top}V${bottom}` }));
  for (const t of ticks(...axis.domain, axis.log)) {
    write(svg, SIZE.left - 6, height(t) + 4, tick(t), "end");
    svg.append(draw("path", {
      class: "axis", d: `M${SIZE.left - 3},${height(t)}h3` }));
  }
  writeLabel(svg, 4, 12, axis.label);
}

// A line that is broken where a point is unknown.
function drawLine(svg, line, place, height, edges) {
  const pieces = [[]];
  for (const p of line.points) {
    if (Number.isFinite(height(p.mean))) pieces.at(-1).push(p);
    else pieces.push([]);
  }
  for (const points of pieces.filter((piece) => piece.length)) {
    drawPiece(svg, line, points, place, height, edges);
  }
}

function drawPiece(svg, line, points, place, height, edges) {
  const trace = (values) => values.map(([x, y]) => `${x},${y}`).join("L");
  const at = (p, y) => [place(p.x), height(y)];
  if (!line.faint) {
    // Below a logarithmic axis a band ends at the mean.
    const low = (p) => (Number.isFinite(height(p.mean - p.error))
      ? p.mean - p.error : p.mean);
    const band = points.map((p) => at(p, p.mean + p.error)).concat(
      points.map((p) => at(p, low(p))).reverse());
    // A band of one point has no width: it is drawn as a bar.
    const look = points.length > 1 ? { fill: line.color, opacity: 0.2 }
      : { stroke: line.color, "stroke-width": 1, opacity: 0.5, class: "bar" };
    svg.append(draw("path", { d: `M${trace(band)}z`, ...look }));
  }
  svg.append(draw("path", { d: `M${trace(points.map((p) => at(p, p.mean)))}`,
    fill: "none", stroke: line.color, "stroke-width": line.faint ? 1 : 1.7,
    opacity: line.faint ? 0.45 : 1 }));
  if (line.faint) return;
  for (const p of points) {
    const [x, y] = at(p, p.mean);
    const [top, bottom] = edges;
    const beyond = y < top ? 1 : y > bottom ? -1 : 0;
    const dot = beyond
      ? draw("path", { d: `M-5,${5 * beyond}L0,${-5 * beyond}L5,${5 * beyond}z`,
        fill: "none", stroke: line.color, "stroke-width": 1.5, class: "beyond",
        transform: `translate(${x},${beyond > 0 ? top + 6 : bottom - 6})` })
      : marker(line.marker, line.color, x, y);
    const name = line.names ? line.names[p.x] : `epoch ${p.x}`;
    const error = p.error ? ` ± ${short(p.error)}` : "";
    dot.append(draw("title", {},
      `${line.name}, ${name}: ${short(p.mean)}${error}`
      + (beyond ? ", beyond the axis" : "")));
    svg.append(dot);
  }
}

let inside = 0;

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
    const end = place(mark.x) > 0.7 * right;
    // A level is named beside the chart, where no line is.
    const at = level ? { "text-anchor": "middle",
      transform: `translate(${right + 11},${height(mark.y)}) rotate(-90)` }
      : { x: place(mark.x) + (end ? -4 : 4), y: SIZE.top + 8,
        "text-anchor": end ? "end" : "start" };
    svg.append(draw("path", { class: "mark", d }),
      draw("text", { ...at, opacity: 0.75 }, mark.label));
  }
  const id = `inside${inside += 1}`;
  svg.append(draw("clipPath", { id }, draw("rect", { x: 0, y: SIZE.top - 4,
    width: SIZE.width, height: bottom - SIZE.top + 8 })));
  const data = draw("g", { class: "data", "clip-path": `url(#${id})` });
  for (const line of lines) {
    drawLine(data, line, place, height, [SIZE.top - 1, bottom + 1]);
  }
  svg.append(data);
  return make("figure", {}, svg);
}
