"""Command-line experiments; each binary reproduces figures of the paper."""
