"""The report of a run directory: whole, safe, and true to the rows."""

import base64
import html
import html.parser
import json
import pathlib
import re
import shutil
import subprocess

import pytest

from geomem import plots, report, runs, studies
from geomem.report import page
from geomem.report.page import pack_rows
from tests.binaries import execute
from tests.fakes import write_run

BROWSER = next(
  filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None
)
HOSTILE = "</script><img src=x onerror=alert(1)><b title=\"'&amp;$data"
SUBSETS = ("unpermuted", "permuted", "restored", "test")
LAYERS = ("input", "conv1", "fc1", "logits")


def rows_of(seed: int, **columns) -> list[dict]:
  """What a memorization run of four layers and three epochs would write."""
  facts = {"best_epoch": 1, "last_epoch": 2, "manifold_points": 10}
  rows = [{"metric": name, "value": value} for name, value in facts.items()]
  for epoch in range(3):
    for i, subset in enumerate(SUBSETS):
      at = {"epoch": epoch, "subset": subset}
      accuracy = 0.1 + 0.2 * epoch + 0.05 * i + 0.01 * seed
      for metric in ("accuracy", "loss"):
        rows.append({**at, "metric": metric, "value": accuracy})
      for index, layer in enumerate(LAYERS):
        place = {"layer": layer, "layer_index": index}
        for metric in ("capacity", "radius", "dimension"):
          value = (1 + i + seed) * (1 + epoch) / (3 + index)
          found = {"metric": metric, "value": value, "stderr": 0.01}
          rows.append({**at, **place, **found})
  return [{"seed": seed, **columns, **row} for row in rows]


def rewind_rows(seed: int) -> list[dict]:
  """What rewinds would write of two seeds whose last epochs differ."""
  rows = [{"seed": seed, "metric": "last_epoch", "value": 2 - seed}]
  for epoch in range(3):
    for subset in SUBSETS:
      own = {"seed": seed, "epoch": epoch, "subset": subset}
      rows.append({**own, "metric": "accuracy", "value": 0.1 * epoch})
    for layers in (("fc1",), ("conv1", "fc1")):
      for subset in SUBSETS:
        rows.append(
          {
            "seed": seed,
            "epoch": epoch,
            "subset": subset,
            "metric": "accuracy",
            "value": 0.3 * epoch + 0.1 * len(layers),
            "kind": "suffix",
            "rewound": "+".join(layers),
          }
        )
  return rows


@pytest.fixture
def finished(tmp_path):
  """A run, a rewind of it, and what the page knows nothing particular of."""
  path = tmp_path / "a <b>run"
  rows = rows_of(0) + rows_of(1)
  write_run(path, {"dataset": HOSTILE, "epochs": 2, "layers": None}, rows)
  (path / "figures").mkdir()
  for name in ("accuracy", "of_mine"):
    (path / "figures" / f"{name}.png").write_bytes(b"\x89PNG")
  kind = {"experiment": "rewind"}
  rewinds = rewind_rows(0) + rewind_rows(1)
  write_run(path / "rewind", kind, rewinds, done=False)
  other = [{"metric": "microseconds", "solver": "ours", "value": 3.25}]
  write_run(path / "speed", {"experiment": "benchmark"}, other)
  return path


class Elements(html.parser.HTMLParser):
  """Tags with their attributes, and the text of the embedded data."""

  def __init__(self, page: str):
    super().__init__()
    self.found, self.data, self._in_data = [], "", False
    self.feed(page)

  def handle_starttag(self, tag, attrs):
    self.found.append((tag, dict(attrs)))
    self._in_data = dict(attrs).get("id") == "data"

  def handle_data(self, data):
    if self._in_data:
      self.data += data


def dump(path: pathlib.Path, script: str = "") -> str:
  """The page as the browser has it after its script; fails by its errors."""
  page = path.read_text().replace(
    "</body>", f"<script>{script}</script></body>"
  )
  copy = path.with_name("copy.html")
  copy.write_text(page)
  flags = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
  more = ["--enable-logging=stderr", f"--user-data-dir={path.parent}/browser"]
  found = subprocess.run(
    [BROWSER, *flags, *more, copy.as_uri()],
    capture_output=True,
    text=True,
    timeout=120,
    check=True,
  )
  assert "CONSOLE" not in found.stderr, found.stderr
  return found.stdout


def test_packed_rows_are_the_rows():
  rows = [
    {"a": 1, "b": "x", "value": 0.123456789, "stderr": None},
    {"a": 1.0, "b": None, "value": None, "stderr": 1e-30},
    {"a": True, "b": "1", "value": 3, "stderr": None, "late": "z"},
  ]
  packed = pack_rows(rows)
  for i, row in enumerate(rows):
    for name, column in packed["columns"].items():
      code = column["codes"][i]
      found = column["levels"][code] if "levels" in column else code
      assert type(found) is type(row.get(name))
      given = row.get(name)
      is_real = isinstance(given, float)
      assert found == (pytest.approx(given, rel=1e-6) if is_real else given)


def test_the_page_needs_nothing_else_and_nothing_leaves_its_element(finished):
  page = Elements(report.write_report(finished).read_text())
  for tag, attributes in page.found:
    assert tag not in ("img", "b", "link")
    assert not {"src", "href"} & set(attributes)
  assert sum(tag == "script" for tag, _ in page.found) == 2
  data = json.loads(page.data)
  (parts,) = data["runs"]
  names = [part["name"] for part in parts]
  assert names == [
    finished.name,
    f"{finished.name}/rewind",
    f"{finished.name}/speed",
  ]
  assert [part["done"] for part in parts] == [True, False, True]
  assert parts[0]["config"]["dataset"] == HOSTILE
  assert parts[0]["rows"]["count"] == len(runs.read_rows(finished))
  assert any("F3.2" in said for said in parts[0]["sentences"])
  # The page draws the accuracy itself.
  (figure,) = parts[0]["figures"]
  assert figure["caption"] == "Of mine"
  _, _, encoded = figure["source"].partition("base64,")
  assert base64.b64decode(encoded).startswith(b"\x89PNG")


def test_figures_that_are_not_there_are_drawn(finished, monkeypatch):
  shutil.rmtree(finished / "figures")
  for own, wanted in (({}, set(plots.MEMORIZATION)), (None, set())):
    with monkeypatch.context() as patched:
      if own is not None:
        patched.setattr(page, "_PAGES_OWN", own)
      written = Elements(report.write_report(finished).read_text())
    (parts,) = json.loads(written.data)["runs"]
    assert {figure["name"] for figure in parts[0]["figures"]} == wanted
    captions = {figure["caption"] for figure in parts[0]["figures"]}
    said = "Capacity over chance by layer and epoch, one panel per subset."
    assert captions >= ({said} if wanted else set())


def test_the_page_says_how_long_a_run_took(finished):
  kept = json.dumps({"seconds": 83.4, "starts": 2})
  (finished / "duration.json").write_text(kept)
  written = Elements(report.write_report(finished).read_text())
  ((run, *others),) = json.loads(written.data)["runs"]
  assert run["environment"]["duration"] == "83 s"
  assert all("duration" not in other["environment"] for other in others)


def test_every_figure_that_the_page_draws_is_one_of_its_study():
  for kind, own in page._PAGES_OWN.items():
    assert own <= set(studies.STUDIES[kind].figures)


def test_a_run_without_rows_gets_a_warning(tmp_path, caplog):
  write_run(tmp_path / "run", {"dataset": "digits"}, rows_of(0))
  write_run(tmp_path / "new", {"dataset": "digits"}, [], done=False)
  report.write_report(tmp_path / "run", tmp_path / "new", out=tmp_path)
  (record,) = caplog.records
  assert record.getMessage().startswith("new has no rows yet")


def test_what_is_no_run_gets_a_sentence(tmp_path):
  with pytest.raises(runs.RunError, match="is not a run directory"):
    report.write_report(tmp_path)
  assert not list(tmp_path.iterdir())


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_draws_the_means_of_the_rows(finished):
  page = report.write_report(finished)
  click = (
    "[...document.querySelectorAll('button')]"
    ".find((b) => b.textContent === 'best epoch').click();"
  )
  dom = dump(page, click)
  rows = runs.read_rows(finished)
  at_best = rows.at("best").where("capacity", subset="permuted")
  _, mean, error = at_best.series("layer_index")
  drawn = re.findall(r"<title>permuted, (\w+): ([\d.]+) ± ([\d.]+)", dom)
  # Capacity is drawn first, then radius and dimension.
  names, *numbers = zip(*drawn[: len(LAYERS)], strict=True)
  assert names == LAYERS
  for found, expected in zip(numbers, (mean, error), strict=True):
    assert [float(x) for x in found] == pytest.approx(expected, rel=1e-3)
  # Maps are in multiples of chance.
  chance = 2 / 10
  at_last = rows.where("capacity", subset="test", layer="fc1", epoch=2)
  value = at_last.mean()[0] / chance
  assert f"<title>fc1, epoch 2: {value:.4g}</title>" in dom
  # Rewinds: what is put back is named by the layer at its border, and each
  # seed is compared with its own last network, .2 and .1.
  assert "<title>conv1, epoch 2: 0.65</title>" in dom
  assert "<title>fc1, epoch 2: 0.55</title>" in dom
  # The one bar that stays in sight has the legend and the slider.
  (bar,) = re.findall(r'<div class="controls sticky">(.*?)</div>', dom)
  assert bar.count('type="checkbox"') == len(SUBSETS)
  assert 'type="range"' in bar


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_leaves_an_outlier_beyond_the_axis(tmp_path):
  rows = rows_of(0)
  outlier = {"metric": "radius", "layer": "fc1", "subset": "test", "epoch": 2}
  (row,) = (r for r in rows if outlier.items() <= r.items())
  row["value"] = 1e6
  write_run(tmp_path / "run", {"dataset": "digits"}, rows)
  dom = dump(report.write_report(tmp_path / "run"))
  assert "test, fc1: 1000000 ± 0.01, beyond the axis" in dom
  assert dom.count("beyond the axis<") == 1
  assert ">100000<" not in dom  # A tick.


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_shows_no_mean_of_which_a_value_is_unknown(tmp_path):
  rows = [*rows_of(0), *rows_of(1)]
  unknown = {"metric": "capacity", "layer": "fc1", "subset": "test", "seed": 1}
  unknown["epoch"] = 2
  (row,) = (r for r in rows if unknown.items() <= r.items())
  row["value"] = None
  write_run(tmp_path / "run", {"dataset": "digits"}, rows)
  dom = dump(report.write_report(tmp_path / "run"))
  # Radius and dimension are known, as is the capacity of other subsets.
  assert dom.count("<title>test, fc1: ") == 2
  assert dom.count("<title>permuted, fc1: ") == 3
  assert dom.count("<title>fc1, epoch 2: ") == 4
  assert dom.count(": unknown</title>") == 1
  head, blank = '<td class="">fc1</td><td class="">', '<td class=""></td>'
  assert f"{head}test</td>{blank}" in dom
  assert f"{head}permuted</td>{blank}" not in dom
  assert "NaN" not in dom.partition("<main")[2].partition("</main>")[0]


@pytest.mark.parametrize(
  ("best", "said", "buttons"),
  [
    ((1, 1), "Faint: epoch 1, ", ["best epoch"]),
    ((0, 2), "Faint: epoch 0, 2, ", ["best epoch 0", "best epoch 2"]),
    ((7, 7), "The best epoch was not measured.", []),
  ],
)
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_shows_best_epochs_that_are_there(
  tmp_path, best, said, buttons
):
  rows = [*rows_of(0), *rows_of(1)]
  for row in rows:
    if row["metric"] == "best_epoch":
      row["value"] = best[row["seed"]]
  write_run(tmp_path / "run", {"dataset": "digits"}, rows, done=False)
  dom = dump(report.write_report(tmp_path / "run"))
  assert said in dom
  assert re.findall(r"<button>(best epoch[ \d]*)</button>", dom) == buttons


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_shows_sweeps_and_empty_runs_and_text_as_text(tmp_path):
  rows = [
    row
    for width in (3, 5)
    for row in rows_of(0, width=width)
    if row.get("layer") in (None, "fc1")
  ]
  config = {"experiment": "model_size", "axes": ["width"], "name": HOSTILE}
  path = tmp_path / "sweep"
  write_run(path, config, rows, done=False)
  write_run(path / "width=3", {"dataset": "digits"}, [])
  write_run(path / "rewind", {"experiment": "rewind"}, [], done=False)
  dom = dump(report.write_report(path), "document.title = 'drawn'")
  assert "<title>drawn</title>" in dom
  assert "Geometry of fc1" in dom
  assert "There are no rows yet." in dom
  assert "<option>3</option><option>5</option>" in dom
  body = dom.partition("<main")[2].partition("</main>")[0]
  assert "onerror" in body
  assert "<img" not in body
  assert "width=3" not in body


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_pools_no_accuracies_of_changed_networks(tmp_path):
  paths = [tmp_path / "a", tmp_path / "b"]
  for path in paths:
    write_run(path, {"experiment": "truncate"}, rows_of(0))
  dom = dump(report.write_report(*paths, out=tmp_path))
  assert "<h2>Side by side</h2>" not in dom


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_leaves_room_beside_long_names(tmp_path):
  name = "+".join(f"block{i}_conv1" for i in range(9))
  rows = [*rewind_rows(0), {"seed": 0, "metric": "best_epoch", "value": 1}]
  for row in rows:
    if row.get("kind"):
      row["kind"] = "custom"
      row["rewound"] = row["rewound"].replace("conv1+fc1", name)
  write_run(tmp_path / "rewind", {"experiment": "rewind"}, rows)
  dom = dump(report.write_report(tmp_path / "rewind"))
  assert not re.search(r'width="-', dom)
  shown = re.findall(r'text-anchor="end">([^<]*…[^<]*)<', dom)
  assert {*map(len, shown)} == {25}
  assert f"<title>{name}, epoch 2: " in dom


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_shows_the_error_of_a_single_point(tmp_path):
  rows = [row for row in rows_of(0) if row.get("layer") in (None, "fc1")]
  rows += [row for row in rows_of(1) if row.get("layer") in (None, "fc1")]
  wanted = {"layer": "fc1", "subset": "test", "metric": "radius", "epoch": 1}
  for row in rows:
    if row["seed"] and wanted.items() <= row.items():
      row["value"] = None  # It breaks the line into two points.
  write_run(tmp_path / "run", {"dataset": "digits"}, rows)
  dom = dump(report.write_report(tmp_path / "run"))
  assert dom.count('class="bar"') == 2


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_says_that_seeds_end_at_epochs_of_their_own(tmp_path):
  rows = [*rows_of(0), *(r for r in rows_of(1) if r.get("epoch") != 1)]
  write_run(tmp_path / "run", {"dataset": "digits"}, rows)
  dom = dump(report.write_report(tmp_path / "run"))
  # No loss in training was recorded.
  assert ">Faint: the loss in training" not in dom
  assert ">Epochs of some of the seeds are in the table only.<" in dom


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_sorts_unknown_cells_last_both_ways(tmp_path):
  write_run(tmp_path / "run", {"experiment": "speed"}, [])
  script = """
    const found = table(["x"], [[1], [null], [3], [2]]);
    const head = found.querySelector("th");
    const read = () => [...found.querySelectorAll("td")]
      .map((cell) => cell.textContent).join();
    head.click();
    const up = read();
    head.click();
    document.title = `${up} ${read()}`;
  """
  dom = dump(report.write_report(tmp_path / "run"), script)
  assert "<title>1,2,3, 3,2,1,</title>" in dom


@pytest.mark.parametrize(
  ("last", "named"),
  [
    (100, "0 1 2 5 10 20 50 100"),
    (1000, "0 1 2 5 10 20 50 100 200 500 1000"),
    (3000, "0 1 2 5 10 20 50 100 200 500 2000"),
    (10000, "0 1 2 5 10 20 50 100 200 500 2000 10000"),
  ],
)
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_names_epochs_that_have_room(tmp_path, last, named):
  write_run(tmp_path / "run", {"experiment": "speed"}, [])
  script = f"""
    const chart = lineChart({{ lines: [], x: {{ last: {last} }},
      y: {{ label: "y", domain: [0, 1] }} }});
    const named = [...chart.querySelectorAll("text")]
      .filter((node) => node.getAttribute("y") === String(SIZE.height - 22))
      .map((node) => Number(node.textContent)).sort((a, b) => a - b);
    document.title = named.join(" ");
  """
  dom = dump(report.write_report(tmp_path / "run"), script)
  assert f"<title>{named}</title>" in dom


def test_the_binary_writes_the_page(finished):
  found = execute("report", run=finished)
  assert found.returncode == 0, found.stderr
  assert found.stdout.strip() == str(finished / "report.html")


def test_a_cell_of_two_axes_is_reported_by_its_name(tmp_path):
  paths = [
    tmp_path / name for name in ("width=3,seed=0", "b", "width=3,seed=1")
  ]
  for path in paths:
    write_run(path, {"dataset": "digits"}, rows_of(0))
  found = execute("report", run=",".join(map(str, paths)), out=tmp_path)
  assert found.returncode == 0, found.stderr
  data = json.loads(Elements((tmp_path / "report.html").read_text()).data)
  assert data["title"] == "width=3,seed=0, b, width=3,seed=1"
  found = execute("report", run=f"{paths[0]},{tmp_path / 'no'},{paths[1]}")
  assert f"{tmp_path / 'no'} is not a run directory" in found.stderr


def test_runs_are_given_once(finished, tmp_path):
  """Of several flags of one name only the last one counted, without a word."""
  found = execute("report", f"--run={tmp_path}", f"--run={finished}")
  assert found.returncode == 2
  assert "--run is given 2 times; give it once" in found.stderr
  assert not list(finished.glob("*.html"))


def test_several_runs_are_on_one_page(finished, tmp_path):
  other = write_run(tmp_path / "other", {"dataset": "digits"}, rows_of(3))
  assert len(other) == len(rows_of(3))
  found = report.write_report(finished, tmp_path / "other", out=tmp_path)
  assert found == tmp_path / "report.html"
  data = json.loads(Elements(found.read_text()).data)
  names = [[part["name"] for part in run] for run in data["runs"]]
  assert names[1] == ["other"]
  assert names[0][0] == finished.name
  assert "runs" not in data["title"]
  if BROWSER:
    dom = dump(found)
    assert dom.count("<section") == len(names[0]) + 2
    assert "<h2>Side by side</h2>" in dom
    # The first run has a link, too.
    (links,) = re.findall(r"<nav>(.*?)</nav>", dom)
    assert links.count("<a ") == len(names[0]) + 1
    assert 'href="#part0"' in links
    # Both runs are on the same axes, permuted examples first.
    rows = runs.Rows(dict.fromkeys(runs.COLUMNS) | row for row in rows_of(3))
    capacity = rows.where("capacity", subset="permuted", layer="fc1", epoch=2)
    value = capacity.values[0]
    assert f"<title>other, epoch 2: {value:.4g} " in dom
    drawn = re.findall(r"<title>(.*?)</title>", html.unescape(dom))
    assert any(name.startswith(f"{finished.name}, epoch 2:") for name in drawn)


def test_runs_of_one_name_are_told_apart(tmp_path, monkeypatch):
  paths = [tmp_path / end for end in ("x/demo", "y/demo", "z/y/demo", "c")]
  for i, path in enumerate(paths):
    write_run(path, {"dataset": "digits", "width": i}, rows_of(i))
  begun = {"experiment": "rewind"}
  write_run(paths[0] / "rewind", begun, rewind_rows(0), done=False)
  written = report.write_report(*paths, out=tmp_path)
  data = json.loads(Elements(written.read_text()).data)
  names = [[part["name"] for part in run] for run in data["runs"]]
  base = tmp_path.name
  assert names == [
    ["x/demo", "x/demo/rewind"],
    [f"{base}/y/demo"],
    ["z/y/demo"],
    ["c"],
  ]
  assert data["title"] == f"x/demo, {base}/y/demo, z/y/demo, c"
  # However a run is named, it is one.
  monkeypatch.chdir(tmp_path / "c")
  (tmp_path / "linked").symlink_to(paths[0])
  named = report.by_name([".", "../x/demo", "../c", paths[0], "../linked"])
  assert list(named) == ["c", "linked"]
  assert len(set(map(pathlib.Path.resolve, named.values()))) == 2
  if BROWSER:
    dom = dump(written)
    for name in (f"{base}/y/demo", "z/y/demo"):
      assert f"<title>{name}, epoch 2:" in dom


def test_no_run_at_all_gets_a_sentence():
  with pytest.raises(runs.RunError, match="No run directory was given"):
    report.write_report()


def test_studies_that_are_links_are_reported_and_drawn(finished, tmp_path):
  kept = tmp_path / "scratch" / "kept"
  write_run(kept, {"experiment": "measure"}, rows_of(0))
  (finished / "more").symlink_to(kept)
  (kept / "back").symlink_to(finished)  # It has no end.
  data = json.loads(Elements(report.write_report(finished).read_text()).data)
  names = [part["name"] for part in data["runs"][0]]
  assert f"{finished.name}/more" in names
  found = execute("figures", run=finished, out=tmp_path / "out")
  assert found.returncode == 0, found.stderr
  drawn = tmp_path / "out" / "more" / "figures" / "by_layer.png"
  assert str(drawn) in found.stdout.splitlines()
  assert drawn.exists()
