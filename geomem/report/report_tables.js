// Tables that sort by a click on a column's head, and can be copied.

function asText(headers, rows) {
  return [headers, ...rows].map((row) =>
    row.map((cell) => (cell ?? "")).join("\t")).join("\n") + "\n";
}

async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "copied";
  } catch {
    button.textContent = "the browser does not allow it";
  }
  setTimeout(() => { button.textContent = "copy"; }, 1500);
}

// Ascending, or descending; what is unknown comes last in both.
function compare(a, b, up) {
  const [x, y] = [a ?? null, b ?? null];
  if (x === y) return 0;
  if (x === null) return 1;
  if (y === null) return -1;
  return (x < y) === up ? -1 : 1;
}

// At most `limit` rows are shown; all of them are sorted and copied.
function table(headers, rows, { caption = "", limit = 400 } = {}) {
  const body = make("tbody");
  const kindOf = (cell) => (typeof cell === "number" ? "number" : "");
  const heads = headers.map((name, i) => make("th", { "aria-sort": "none",
    scope: "col", title: "sort",
    class: rows.some((row) => kindOf(row[i])) ? "number" : "" }, name));
  const fill = () => body.replaceChildren(...rows.slice(0, limit).map((row) =>
    make("tr", {}, ...row.map((cell) =>
      make("td", { class: kindOf(cell) }, short(cell))))));
  heads.forEach((head, i) => head.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach((h) => h.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    rows.sort((a, b) => compare(a[i], b[i], up));
    fill();
  }));
  fill();
  const button = make("button", {
    click: () => copyText(asText(headers, rows), button) }, "copy");
  const more = rows.length > limit
    ? ` The first ${limit} of ${rows.length} rows; copying takes all.` : "";
  return make("div", {}, make("p", { class: "soft" }, caption + more + " ",
    button), make("div", { class: "scroll" },
    make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body)));
}

function choice(label, options, change, chosen = options[0]) {
  const list = make("select", {
    change: () => change(options[list.selectedIndex]) },
  ...options.map((option) => make("option", {}, short(option))));
  list.selectedIndex = options.indexOf(chosen);
  return make("label", {}, label, " ", list);
}

// A choice, and below it what is drawn of it.
function chooser(label, options, kind, drawn, first = options[0], beside = []) {
  const place = make("div", { class: kind });
  const show = (chosen) => place.replaceChildren(...drawn(chosen));
  show(first);
  return [make("div", { class: "controls" },
    choice(label, options, show, first), ...beside), place];
}

// All rows, by choices of what the columns hold.
function explorer(rows) {
  const known = Object.keys(rows[0]);
  const names = known.filter((name) => levels(rows, name).length);
  const wanted = {};
  const place = make("div");
  const fill = () => {
    const found = select(rows, wanted);
    place.replaceChildren(table(names,
      found.map((row) => names.map((name) => row[name] ?? null)),
      { caption: `${found.length} rows.` }));
  };
  const all = "all";
  const filters = names.filter((name) => {
    const count = levels(rows, name).length;
    return !["value", "stderr", "layer_index"].includes(name)
      && count > 1 && count <= 400;
  }).map((name) => choice(name, [all, ...levels(rows, name)], (value) => {
    if (value === all) delete wanted[name];
    else wanted[name] = value;
    fill();
  }));
  // Built when it is opened: rows may be many.
  const details = make("details", { toggle: () => {
    if (details.open && !place.firstChild) fill();
  } }, make("summary", {}, `All ${rows.length} rows`),
  make("div", { class: "controls" }, ...filters), place);
  return details;
}
