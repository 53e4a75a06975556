"""The own network: `unet` in torch, `onnx` as a graph. Row 1: imports row 0 only.

Importing `unet` imports torch; importing `onnx` imports the package onnx.
"""
