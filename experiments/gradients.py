"""Runs the command of this name: see its --help."""

from experiments.__main__ import main

if __name__ == "__main__":
  main("gradients")
