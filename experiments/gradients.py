"""Runs the command of this name: see its --help."""

from experiments import main

if __name__ == "__main__":
  main("gradients")
