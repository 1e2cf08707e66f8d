"""How large the paper is reproduced: the fields of each study, by scale."""

from typing import Any, NamedTuple


class Scale(NamedTuple):
  """The sizes of all stages.

  Attributes:
    text: what it is.
    fields: of the studies' configs, by study; the others have their defaults.
    minutes: of each stage on two cores; empty where nobody has measured any.
    is_the_papers: whether data and network are those of the paper, so that
      numbers can be compared.
  """

  text: str
  fields: dict[str, dict[str, Any]]
  minutes: dict[str, float]
  is_the_papers: bool = False


# What the figure shows comes first; a stage of its own measures the rest.
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
    # With other work on both cores, fig3 at all epochs: an upper bound.
    {"fig3": 1.8, "fig4ab": 0.9, "figa1": 0.7, "fig1b": 1.4, "fig4ce": 1.3},
  ),
  "laptop": Scale(
    "three seeds of the demo on all digits, and fourteen widths of eight seeds",
    {"memorization": {"num_seeds": 3, **_FIGURE_3}},
    # Measured on one core, the other being busy.
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
