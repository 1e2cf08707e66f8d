"""Package metadata of geomem; tool settings live in pyproject.toml."""

import pathlib

import setuptools

ROOT = pathlib.Path(__file__).parent

setuptools.setup(
  name="geomem",
  version="0.1.0",
  description=(
    "Where and when does a deep network memorize? Replica mean-field "
    "geometry of class manifolds, in JAX."
  ),
  long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=setuptools.find_packages(
    include=["geomem*", "experiments*", "benchmarks*"]
  ),
  package_data={
    "geomem": ["py.typed"],
    "geomem.report": ["report.html", "report.css", "report_*.js"],
  },
  install_requires=[
    "absl-py>=1.4",
    "array_record>=0.8",
    "flax>=0.11.2",
    "grain>=0.2.16",
    # tensorflow-datasets imports it but does not ask for it.
    "importlib_resources>=6",
    "jax>=0.7.2",
    "jaxopt>=0.8.5",
    "jaxtyping>=0.3",
    "matplotlib>=3.9",
    "numpy>=2.0",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.4",
    "pillow>=10",
    # tensorflow-datasets holds code that older ones refuse, and does not say.
    "protobuf>=6.31",
    "scikit-learn>=1.5",
    "scipy>=1.13",
    "tensorflow-datasets>=4.9.10",
    "tqdm>=4.66",
  ],
  extras_require={
    "test": [
      "beartype>=0.19",
      "chex>=0.1.90",
      "hypothesis>=6.100",
      "nbclient>=0.10",
      "nbformat>=5.10",
      "ipykernel>=6.29",
      "pytest>=8",
      "pytest-xdist>=3.6",
      "ruff>=0.8",
      "tensorboardX>=2.6",
    ],
    "colab": ["ipywidgets>=8", "pandas>=2"],
    # Older ones import pkg_resources, which new versions of setuptools lack.
    "tensorboard": ["tensorboard>=2.21", "tensorboardX>=2.6"],
    # MkDocs 2 has neither plugins nor this theme.
    "docs": [
      "mkdocs>=1.6,<2",
      "mkdocs-material>=9.6",
      "mkdocstrings[python]>=1.0",
      "ruff>=0.8",
    ],
    "bench": ["daqp>=0.7", "quadprog>=0.1.12"],
  },
  entry_points={"console_scripts": ["geomem = experiments:main"]},
  classifiers=[
    "Intended Audience :: Science/Research",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Programming Language :: Python :: 3.13",
    "Programming Language :: Python :: 3.14",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
  ],
)
