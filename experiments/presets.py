"""Presets: the paper's figures, and what two cores can do of them, by name.

Hours on one H200 are estimates from counted FLOPs at a tenth of its peak, with
--dtype=bfloat16; two cores would need a week and more for the same.
"""

from typing import Any, NamedTuple

from absl import flags


class Preset(NamedTuple):
  """Values of flags under one name.

  Attributes:
    binary: the binary that it belongs to.
    text: what it is, with the figures of the paper.
    values: of the flags; flags on the command line go before them.
  """

  binary: str
  text: str
  values: dict[str, Any]


# The paper gives the network, the data and half of the labels permuted. Its
# optimiser is not known: SGD with momentum, as its authors train elsewhere.
_PAPER = {
  "dataset": "cifar100",
  "permuted_fraction": 0.5,
  "epochs": 1000,
  "batch_size": 128,
  "learning_rate": 0.01,
  "manifold_points": 50,
  "num_probes": 300,
}
# With half as many points as classes, like the paper's 50 of 100: fewer of
# those that are memorized under other labels fall together, and capacity is
# nearer to that of chance, 2/M.
_SMALL = _PAPER | {
  "num_classes": 20,
  "manifold_points": 10,
  "examples_per_class": 250,
  "width": 16,
  "epochs": 55,
  "batch_size": 64,
}

PRESETS = {
  "paper_vgg16": Preset(
    "memorization",
    "VGG16 on CIFAR-100, half of the labels permuted: figures 2 and 3, and the"
    " run that rewind (4A-B) and gradients (A.1) start from; some 0.3 hours on"
    " one H200; the paper's permuted capacity ends at .100 in the last hidden"
    " layer, after .038 at the best epoch",
    _PAPER | {"model": "vgg16"},
  ),
  "paper_vgg16_bn": Preset(
    "memorization",
    "the same with batch norm and a learning rate of 0.1",
    _PAPER | {"model": "vgg16_bn", "learning_rate": 0.1, "schedule": "cosine"},
  ),
  "paper_alexnet": Preset(
    "memorization",
    "the same for AlexNet, of the appendix",
    _PAPER | {"model": "alexnet"},
  ),
  "paper_resnet18": Preset(
    "memorization",
    "the same for ResNet-18, of the appendix; some 0.6 hours on one H200",
    _PAPER | {"model": "resnet18"},
  ),
  "small_vgg16": Preset(
    "memorization",
    "VGG16 with batch norm and 16 channels on 20 classes of 250 images, half"
    " an hour on two cores; permuted capacity ends at .64 in the last hidden"
    " layer, after .22 at the best epoch (chance .20)",
    _SMALL | {"model": "vgg16_bn", "optimizer": "adam", "learning_rate": 0.001},
  ),
  "tiny_vgg16": Preset(
    "memorization",
    "a rehearsal of paper_vgg16 in a minute: 4 channels, 10 classes of 40"
    " images, two epochs",
    _SMALL
    | {
      "model": "vgg16",
      "num_classes": 10,
      "examples_per_class": 40,
      "width": 4,
      "epochs": 2,
      "manifold_points": 5,
      "num_probes": 50,
    },
  ),
  "paper_double_descent": Preset(
    "model_size",
    "ResNet-18 of 4 to 64 channels on CIFAR-100, a tenth of the labels"
    " permuted, five seeds: figures 4C-E; the paper's test accuracy dips from"
    " 51 to 48 % at 14 channels",
    {"dataset": "cifar100", "model": "resnet18", "permuted_fraction": 0.1},
  ),
}


def define_preset_flag(binary: str) -> None:
  """Defines `--preset` for a binary, with what there is in its help."""
  known = _of(binary)
  texts = "; ".join(f"{name}: {p.text}" for name, p in known.items())
  flags.DEFINE_string(
    "preset", None, f"values for many flags, by name. {texts}."
  )


def apply_preset(binary: str) -> None:
  """Gives the preset's values to all flags that the command line leaves out.

  Raises:
    ValueError: the binary has no such preset; it lists those that it has.
  """
  name, known = flags.FLAGS.preset, _of(binary)
  if name is None:
    return
  if name not in known:
    raise ValueError(
      f"preset {name!r} is not known; choose one of {', '.join(known)}."
    )
  for field, value in known[name].values.items():
    is_list = (
      flags.FLAGS[field].flag_type() == "comma separated list of strings"
    )
    flags.FLAGS.set_default(field, [str(value)] if is_list else value)


def _of(binary: str) -> dict[str, Preset]:
  return {n: p for n, p in PRESETS.items() if p.binary == binary}
