"""Torch modules. Row 1: imports row 0 only; importing a module here imports torch."""
