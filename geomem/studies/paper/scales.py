"""Scales of the reproduction: the config fields of each study."""

from typing import Any, NamedTuple


class Scale(NamedTuple):
  """The sizes of all stages.

  Attributes:
    text: description of the scale.
    fields: config fields by study; all others have their defaults.
    minutes: measured minutes of each stage on two cores; may be empty.
    is_the_papers: whether data and network are those of the paper, so that
      numbers can be compared.
  """

  text: str
  fields: dict[str, dict[str, Any]]
  minutes: dict[str, float]
  is_the_papers: bool = False


# Only the epochs that figure 3 shows; a later stage measures the rest.
_FIGURE_3 = {"measure_epochs": "best,last"}

SCALES = {
  "tiny": Scale(
    "two seeds of a small network on 600 digits: shows that all works",
    {
      "memorization": {
        "examples_per_class": 60,
        "epochs": 40,
        "batch_size": 32,
        "manifold_points": 10,
        "num_probes": 50,
        "num_seeds": 2,
        **_FIGURE_3,
      },
      "gradients": {"draws": 5},
      "capacity": {
        "epochs": "last",
        "num_draws": 10,
        "num_probes": 50,
        "num_shuffles": 1,
      },
      "model_size": {
        "width": (8, 16, 128),
        "subsets": "test",
        "num_probes": 50,
        "num_seeds": 2,
      },
    },
    # Upper bounds: both cores had other work, and fig3 had all epochs.
    {"fig3": 1.8, "fig4ab": 0.9, "figa1": 0.7, "fig1b": 1.4, "fig4ce": 1.3},
  ),
  "laptop": Scale(
    "three seeds of the demo on all digits, and fourteen widths of eight seeds",
    {"memorization": {"num_seeds": 3, **_FIGURE_3}},
    # Measured on one core, while the other was busy.
    {
      "fig3": 2.2,
      "fig4ab": 1.0,
      "figa1": 1.1,
      "fig1b": 9.3,
      "fig4ce": 7.4,
      "epochs": 1.3,
    },
  ),
  "paper": Scale(
    "VGG16 and ResNet-18 on CIFAR-100, five seeds each; wants an accelerator",
    {
      "memorization": {"preset": "paper_vgg16", "num_seeds": 5, **_FIGURE_3},
      "model_size": {"preset": "paper_double_descent"},
    },
    {},
    is_the_papers=True,
  ),
}
