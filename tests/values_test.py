"""Wrong values on the command line: a sentence each, and exit status 2."""

import errno
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

import experiments
from geomem import disk, report, runs, studies
from geomem.studies import experiment, model_size, paper
from geomem.studies.finding import doubts, with_error
from tests import binaries
from tests.fakes import draw_as_png, fields_of, write_run

WRONG = {
  "memorization": [
    ("--out=", "--out=: a path was expected"),
    ("--data_dir=", "--data_dir=: a path was expected"),
    ("--permuted_fraction=", "lacks a value"),
    ("--permuted_fraction=,", "lacks a value"),
    ("--permuted_fraction=2", "between 0 and 1"),
    ("--permuted_fraction=nan", "not a finite number"),
    ("--width=3,x", "not a whole number"),
    ("--width=²", "not a whole number"),
    ("--width=3,3", "names a value twice"),
    ("--width=0", "width is 0"),
    ("--centers=²", "centers '²' is not known"),
    ("--centers=8", "8"),
    ("--flip=maybe", "--flip=maybe is neither true nor false"),
    ("--epochs=many", "--epochs=many is not a whole number"),
    ("--kappa=nan", "kappa is nan; a finite number"),
    ("--learning_rate=inf", "learning_rate is inf; a finite number"),
    ("--learning_rate=0", "learning_rate is 0.0; a positive"),
    ("--crop=8", "crop is 8; less than the images' side"),
    ("--seed=1099511627776", "they repeat others"),
    ("--seed=12345678901234567890123", "they repeat others"),
    ("--num_seeds=1000000000", "at most 10000"),
    ("--num_probes=1000000000", "7,440 GB of memory"),
    ("--model=mlp --width=100000000", "of memory, and there are"),
    ("--model=nonesuch", "model 'nonesuch' is not known"),
    ("--layers=nonesuch", "layer 'nonesuch' is not known"),
    ("--subsets=nonesuch", "subset 'nonesuch' is not known"),
    ("--preset=nonesuch", "preset 'nonesuch' is not known"),
    ("--dataset=nonesuch --data_dir=.", "no data set 'nonesuch'"),
    ("--dataset=evil:cifar10", "Names with a namespace"),
    ("--dataset=npz:nowhere.npz", "There is no file nowhere.npz"),
    ("--dataset=npz:", "npz: names no file"),
    ("--dataset=digits:8", "digits takes nothing after a colon, not '8'"),
    ("--labels=file:", "file: names no file"),
    ("--labels=file:.", ". cannot be read as labels"),
    ("--labels=permuted:0.3", "permuted takes nothing after a colon"),
    ("--labels=redrawn:0.3", "redrawn takes nothing after a colon"),
    ("--num_processes=2", "several processes need all three"),
    (
      "--coordinator_address=here --num_processes=2 --process_id=0",
      "need all three: HOST:PORT",
    ),
    (
      "--coordinator_address=here:1 --num_processes=2 --process_id=2",
      "an index below it",
    ),
    ("--distributed", "--distributed found no cluster"),
    ("--dataset=npz:two_sizes.npz", "the test images (5, 5, 1)"),
    ("--optimizer=nonesuch", "optimizer 'nonesuch' is not known"),
    ("--cell=0/2", "--cell shares the cells of a sweep"),
    ("--cell=2/2 --width=2,3", "--cell=2/2 is not a share"),
    ("--nonesuch", "There is no flag --nonesuch"),
    ("nonesuch", "'nonesuch' is not a flag"),
  ],
  "benchmark": [
    ("--sizes=foo", "--sizes=foo is not a whole number"),
    ("--sizes=0", "--sizes has 0"),
    ("--kappas=nan", "--kappas=nan is not a finite number"),
    ("--layer=perhaps", "neither true nor false"),
  ],
  "capacity": [
    ("--num_draws=0", "num_draws is 0; at least 5"),
    ("--epochs=first", "epochs 'first' is not known"),
    ("--seed=-1", "seed is -1"),
  ],
  "paper": [
    ("--scale=huge", "--scale=huge is not known; choose one of tiny, laptop"),
    ("--only=fig9", "'fig9', which is not a figure; choose from fig1b"),
    ("--only=", "lacks a value"),
    ("--minutes=-1", "--minutes=-1.0 is not a duration"),
    ("--minutes=nan", "--minutes=nan is not a duration"),
    ("--minutes=soon", "--minutes=soon is not a number"),
  ],
  "gradients": [
    ("", "--run must be given"),
    ("--run=", "--run=: a path was expected"),
    ("--run=. --draws=0", "draws is 0; at least 1"),
  ],
}

CASES = [(name, *case) for name, cases in WRONG.items() for case in cases]
# Each case in a process that has imported everything already.
_SCRIPT = """
import importlib, json, os, runpy, sys

for name in ("experiments.cli", "sklearn.datasets"):
  importlib.import_module(name)
for i, (words, flags) in enumerate(json.loads(sys.argv[1])):
  child = os.fork()
  if child == 0:
    out = os.open(f"said{i}", os.O_WRONLY | os.O_CREAT)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.argv = [*words, *flags.split()]
    try:
      runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
      sys.stderr.flush()
      os._exit(end.code)
  print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_wrong_values_end_in_a_sentence_and_status_2(tmp_path):
  images = np.zeros((6, 4, 4), np.uint8)
  np.savez(
    tmp_path / "two_sizes.npz",
    x_train=images,
    y_train=np.arange(6) % 3,
    x_test=np.pad(images, ((0, 0), (0, 1), (0, 1))),
    y_test=np.arange(6) % 3,
  )
  before = sorted(os.listdir(tmp_path))
  given = json.dumps(
    [(binaries.words(name), flags) for name, flags, _ in CASES]
  )
  result = subprocess.run(
    [sys.executable, "-W", "ignore", "-c", _SCRIPT, given],
    capture_output=True,
    text=True,
    cwd=tmp_path,
    env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])},
  )
  statuses = result.stdout.split()
  assert len(statuses) == len(CASES), result.stderr
  for i, (status, (binary, flags, sentence)) in enumerate(
    zip(statuses, CASES, strict=True)
  ):
    said = (tmp_path / f"said{i}").read_text()
    assert sentence in said, (binary, flags, said)
    assert "Traceback" not in said, (binary, flags)
    assert status == "2", (binary, flags, status, said)
    (tmp_path / f"said{i}").unlink()
  assert sorted(os.listdir(tmp_path)) == before


OF_RUNS = {n for n, x in studies.STUDIES.items() if studies.takes_a_run(x)}
BINARIES = {
  path.stem
  for path in pathlib.Path(experiments.__file__).parent.glob("[a-z]*.py")
  if "if __name__ ==" in path.read_text()
}
COMMANDS = BINARIES | OF_RUNS | {"memorization", "model_size"}


@pytest.mark.parametrize("argument", [[], ["--help"], ["--helpfull"]])
def test_help_without_a_name_lists_every_command(argument):
  told = binaries.execute("__main__", *argument)
  assert told.returncode == 0
  assert max(map(len, told.stdout.splitlines())) <= 80
  listed = told.stdout.partition("Commands:\n\n")[2]
  entries = [line.split() for line in listed.splitlines() if line[2] != " "]
  assert {name for name, *_ in entries} == COMMANDS
  assert len(entries) == len(COMMANDS)
  assert all(len(entry) > 4 for entry in entries)


def test_unknown_commands_end_with_the_known_ones():
  told = binaries.execute("__main__", "memorisation", "--help")
  assert told.returncode == 2
  assert "Did you mean memorization?" in told.stderr
  assert all(name in told.stderr for name in COMMANDS)


@pytest.mark.parametrize("name", ["paper", "pack"])
def test_a_name_does_what_its_binary_does(name):
  ours = binaries.execute("__main__", name, "--helpfull")
  assert ours.returncode == 0
  assert ours.stdout == binaries.execute(name, "--help").stdout
  assert ("--[no]distributed " in ours.stdout) == (name == "paper")
  wrong = binaries.execute("__main__", name, "--nonesuch")
  assert (wrong.returncode, wrong.stdout) == (2, "")
  assert wrong.stderr == binaries.execute(name, "--nonesuch").stderr


@pytest.mark.parametrize("name", sorted(OF_RUNS))
def test_studies_of_runs_say_what_they_do(name):
  told = binaries.execute("__main__", name, "--help").stdout
  told = told.replace("\N{COMBINING TILDE}", "")  # It takes no room.
  study = studies.STUDIES[name]
  assert sys.modules[study.__module__].__doc__.partition("\n")[0] in told
  assert f"\n  python -m experiments {name} --run=" in told
  assert re.search(r"^  --run=", told, re.MULTILINE)
  assert max(map(len, told.splitlines())) <= 80


def test_the_paper_names_its_figures():
  told = binaries.execute("paper", "--help").stdout
  told = told.rpartition("--only=")[2].partition("--minutes")[0]
  for stage in paper.STAGES:
    assert all(re.search(rf"\b{name}\b", told) for name in stage.names)


def run_script(script, **environment):
  return subprocess.run(
    [sys.executable, "-c", script],
    capture_output=True,
    text=True,
    env=os.environ | environment,
    cwd=binaries.ROOT,
  )


def test_the_installed_command_is_the_same():
  names = ("readout", "paper")  # Without a module, and with one.
  script = (
    "import experiments, experiments.cli, os, sys\n"
    f"for name in {names}:\n"
    "  if not os.fork():\n"
    "    sys.argv = ['geomem', name, '--help']\n"
    "    experiments.main()\n"
    "  os.wait()\n"
  )
  result = run_script(script)
  told = [binaries.execute("__main__", x, "--help").stdout for x in names]
  assert result.stdout == "".join(told), result.stderr


def test_paths_may_start_at_home(tmp_path):
  """The shell leaves a tilde behind an equals sign as it is."""
  script = (
    "import experiments.flags\n"
    "from experiments import cli\n"
    "from absl import flags\n"
    "experiments.flags.run = lambda *_, **__: None\n"
    "cli.training('memorization', (), '')\n"
    "flags.FLAGS(['x', '--out=~/x', '--data_dir=~/y'])\n"
    "print(flags.FLAGS.out, flags.FLAGS.data_dir)\n"
  )
  result = run_script(script, HOME=str(tmp_path))
  assert result.stdout.split() == [f"{tmp_path}/x", f"{tmp_path}/y"]


def test_where_nobody_reads_on_it_ends_quietly():
  process = subprocess.Popen(
    binaries.command("figures", "--help"),
    cwd=binaries.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  process.stdout.close()
  assert process.stderr.read() == b""
  process.stderr.close()
  assert process.wait() == 128 + signal.SIGPIPE


EMPTY = dict.fromkeys(
  ("epoch", "layer", "layer_index", "subset", "value", "stderr")
)


def rows_of_a_run():
  rows = [
    {"metric": "best_epoch", "value": 1},
    {"metric": "last_epoch", "value": 5},
    {"metric": "manifold_points", "value": 5},
  ]
  for epoch in (0, 1, 2, 3, 5):
    for subset in ("unpermuted", "permuted", "restored", "test"):
      where = {"epoch": epoch, "subset": subset}
      for metric in ("accuracy", "loss"):
        rows.append({**where, "metric": metric, "value": 0.5})
      for i, layer in enumerate(("input", "fc1", "fc2", "logits")):
        place = {**where, "layer": layer, "layer_index": i}
        rows.append({**place, "metric": "converged", "value": 1.0})
        for metric in ("capacity", "radius", "dimension"):
          value = 0.1 * (1 + i) * (1 + epoch / 10)
          rows.append({**place, "metric": metric, "value": value})
  return runs.Rows(EMPTY | {"seed": 0, **row} for row in rows)


@pytest.fixture
def complete(tmp_path):
  config = fields_of(studies.make_config())
  write_run(tmp_path / "run", config, rows_of_a_run())
  return tmp_path / "run"


def test_figures_on_a_full_disk_are_whole_or_not_there(complete):
  from tests import faults_test

  for size in (0, 1000, 20_000):
    with (
      faults_test.room_for(size),
      pytest.raises(disk.DiskError, match=r"File too large\. Earlier content"),
    ):
      studies.draw(complete)
    assert not list((complete / "figures").glob("*.pdf"))
    assert not list((complete / "figures").glob(".*"))
  assert studies.draw(complete)


def test_what_is_drawn_of_a_run_can_go_elsewhere(
  complete, tmp_path, monkeypatch
):
  draw_as_png(monkeypatch)
  out = tmp_path / "elsewhere"
  before = sorted(os.listdir(complete))
  written = studies.draw(complete, out)
  assert written
  assert all(out in file.parents for file in written)
  page = report.write_report(complete, out=out)
  assert page == out / "report.html"
  # The page has charts of its own in place of all these figures.
  assert "data:image/png" not in page.read_text()
  assert sorted(os.listdir(complete)) == before


def test_a_complete_run_is_complete_on_a_disk_that_is_read_only(
  complete, monkeypatch
):
  config = runs.read_config(complete)

  def refuse(*_, **__):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))

  monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
  with runs.Run(complete, config) as run:
    assert run.is_done
    assert len(run.rows) == len(rows_of_a_run())
  with pytest.raises(runs.RunError, match="width differs"):
    runs.Run(complete, config | {"model": config["model"] | {"width": 3}})
  (complete / "done").unlink()
  with pytest.raises(disk.DiskError, match="Read-only file system"):
    runs.Run(complete, config)


def test_numbers_in_doubt_are_named():
  rows = rows_of_a_run()
  assert doubts(rows) == []
  for row in rows:
    if row["epoch"] == 1:
      what = (row["layer"], row["subset"], row["metric"])
      if what == ("fc1", "test", "converged"):
        row["value"] = 0.9
      if what == ("logits", "permuted", "capacity"):
        row["value"] = float("nan")
  (sentence,) = doubts(rows)
  assert sentence.startswith("Not to be believed: 2 of 80 layers")
  assert "fc1 of test examples at epoch 1" in sentence
  assert "logits of permuted examples at epoch 1" in sentence


def test_numbers_of_glue_in_doubt_are_named_without_mean_field():
  rows = runs.Rows(rows_of_a_run().where(("capacity", "converged")))
  for row in rows:
    row["metric"] = f"glue_{row['metric']}"
  assert doubts(rows) == []
  bad = rows.where("glue_converged", epoch=1, layer="fc1", subset="test")
  bad[0]["value"] = 0.99
  (sentence,) = doubts(rows)
  assert "fc1 of test examples at epoch 1" in sentence


def test_missing_numbers_survive_the_rows_and_the_page(tmp_path, monkeypatch):
  draw_as_png(monkeypatch)
  config = fields_of(studies.make_config())
  rows = rows_of_a_run()
  for row in rows:
    if row["metric"] == "capacity" and row["layer"] == "fc1":
      row["value"] = float("nan")
  read = write_run(tmp_path, config, rows)
  assert sum(not runs.has_value(row) for row in read) == 20
  assert b"NaN" not in (tmp_path / "results.jsonl").read_bytes()
  assert studies.draw(tmp_path)
  page = report.write_report(tmp_path).read_text()
  start = page.index(">", page.index('type="application/json"')) + 1

  def refuse(constant):
    raise AssertionError(f"{constant} is not JSON.")

  content = page[start : page.index("<", start)]
  json.loads(content, parse_constant=refuse)
  assert "is undecided: the best epoch of seed" in content
  assert "Not to be believed" in page


def test_one_seed_has_no_error():
  assert with_error(0.5, 0.25) == "0.500 ± 0.250"
  assert with_error(0.5, float("nan")) == "0.500"
  assert with_error(0.5, 0.25, "+.1f") == "+0.5 ± 0.2"


def sweep_rows(accuracies, num_seeds):
  rows = []
  for width, accuracy in accuracies.items():
    facts = {"best_epoch": 1, "last_epoch": 1, "num_unpermuted": 7}
    facts |= {"num_permuted": 3, "num_parameters": 100 * width}
    for seed in range(num_seeds):
      here = {"width": width, "seed": seed, "layer": None, "epoch": None}
      rows += [
        {**here, "subset": None, "metric": m, "value": v}
        for m, v in facts.items()
      ]
      for subset in ("unpermuted", "permuted", "test"):
        for metric in ("accuracy", "dimension", "radius"):
          value = accuracy if metric == "accuracy" else 2.0
          where = {**here, "epoch": 1, "subset": subset, "metric": metric}
          rows.append({**where, "value": value + 0.01 * seed})
  return runs.Rows(rows)


def test_a_sweep_whose_lowest_point_is_its_last_does_not_rise():
  further, sentences = model_size.summarize_sizes(
    sweep_rows({2: 0.4, 3: 0.6, 4: 0.5}, 2)
  )
  (dip,) = (s for s in sentences if s.startswith("Test accuracy"))
  assert "the largest: whether it rises again is not seen" in dip
  assert "rises by" not in dip
  assert "dip_rise" not in {row["metric"] for row in further}
  assert all("dip" not in s for s in sentences[2:])


def test_a_sweep_of_one_seed_has_no_errors():
  _, sentences = model_size.summarize_sizes(
    sweep_rows({2: 0.6, 3: 0.5, 4: 0.7}, 1)
  )
  text = " ".join(sentences)
  assert "nan" not in text
  assert "±" not in text
  assert "rises by 0.200 to 400" in text


def test_what_does_not_fit_the_memory_is_said_before_work(monkeypatch):
  monkeypatch.setattr(experiment, "_available_bytes", lambda: 10**6)
  with pytest.raises(ValueError, match=r"take \d+ GB of memory, and there are"):
    studies.prepare(studies.make_config())
