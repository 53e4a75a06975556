"""The network of `unet` as an ONNX graph, built from its weights. Imports `base` only.

No exporter: the graph is written down here, node by node, so that the same weights
give the same bytes on any machine and torch is not needed. Operators:
https://onnx.ai/onnx/operators (opset 17, read by onnxruntime 1.12 and later).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from kappamask.base.bands import NAMES
from kappamask.base.errors import WeightsError
from kappamask.base.legend import PREDICTED

SHUFFLE = 2  # 10 m pixels per side of one trunk pixel, as in `unet`
EPSILON = 1e-5  # what torch.nn.BatchNorm2d adds to the variance
OPSET, IR_VERSION = 17, 8


def build_graph(weights: Mapping[str, np.ndarray], widths: Sequence[int]) -> bytes:
    """Write the network with folded batch normalisation as an ONNX file.

    `weights` are arrays by the names of `UNet.state_dict`, `widths` the channels at each depth.
    A single-precision model with any height and width that are multiples of the stride: inputs
    ``slots`` (n, 13, y, x), normalised, and ``flags`` (n, 14); output ``logits`` (n, 4, y, x).

    Raises
    ------
    WeightsError
        If the weights are not those of a `UNet` of these widths.
    """
    graph = _Graph(weights)
    depth = len(widths) - 1
    x = graph.add("SpaceToDepth", ["slots"], blocksize=SHUFFLE)
    # Channels come in the order (row, column, band); torch's `pixel_unshuffle` has the band first.
    order = np.arange(len(NAMES) * SHUFFLE**2).reshape(len(NAMES), SHUFFLE, SHUFFLE)
    x = graph.unit(x, "stem", order=order.transpose(1, 2, 0).ravel())
    x = graph.add("Add", [x, graph.presence()])
    x = graph.unit(x, "first")
    skips = []
    for scale in range(depth):
        skips.append(x)
        x = graph.add("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
        x = graph.unit(graph.unit(x, f"down.{scale}.0"), f"down.{scale}.1")
    for scale in range(depth):
        x = graph.conv(x, f"up.{scale}.lift")
        # Every row and column twice, as `interpolate(scale_factor=2, mode="nearest")`.
        x = graph.add(
            "Resize",
            [x, "", graph.constant("scales", np.array([1, 1, 2, 2]))],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        x = graph.unit(graph.add("Add", [x, skips.pop()]), f"up.{scale}.mix")
    x = graph.conv(graph.unit(x, "last"), "head")
    graph.add("DepthToSpace", [x], outputs=["logits"], blocksize=SHUFFLE, mode="CRD")
    graph.check_widths(widths)
    return graph.to_bytes()


class _Graph:
    """Nodes and weights in the order in which they are used."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self.weights = dict(weights)
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def add(self, kind: str, inputs: list[str], outputs: list[str] | None = None, **of: Any) -> str:
        """Append one node; returns the name of its output."""
        name = f"{kind}_{len(self.nodes)}"
        outputs = outputs or [name]
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=name, **of))
        return outputs[0]

    def constant(self, name: str, values: np.ndarray, dtype: type = np.float32) -> str:
        """Keep an array under a name."""
        self.constants[name] = values.astype(dtype)
        return name

    def take(self, name: str) -> np.ndarray:
        """Take the weights of that name; each is used once."""
        try:
            return self.weights.pop(name).astype(np.float64)
        except KeyError:
            raise WeightsError(f"the weights hold no {name}: they are of another network") from None

    def conv(self, x: str, name: str) -> str:
        """Add a 1 x 1 convolution with bias."""
        return self._conv(x, name, self.take(f"{name}.weight"), self.take(f"{name}.bias"))

    def unit(self, x: str, name: str, order: np.ndarray | None = None) -> str:
        """Add a `ConvUnit`: 3 x 3 convolution with its batch normalisation folded in, ReLU."""
        weight = self.take(f"{name}.0.weight")  # (c_out, c_in, 3, 3)
        gain, shift = self.take(f"{name}.1.weight"), self.take(f"{name}.1.bias")
        mean, variance = self.take(f"{name}.1.running_mean"), self.take(f"{name}.1.running_var")
        self.weights.pop(f"{name}.1.num_batches_tracked", None)
        gain = gain / np.sqrt(variance + EPSILON)
        weight = weight * gain[:, None, None, None]
        weight = weight if order is None else weight[:, order]
        return self.add("Relu", [self._conv(x, name, weight, shift - gain * mean)])

    def _conv(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray) -> str:
        size = weight.shape[-1]
        inputs = [
            x,
            self.constant(f"{name}.weight", weight),
            self.constant(f"{name}.bias", bias),
        ]
        return self.add("Conv", inputs, kernel_shape=[size, size], pads=[size // 2] * 4)

    def presence(self) -> str:
        """Add what the flags say: (n, 14) -> (n, widths[0], 1, 1)."""
        inputs = [self.constant(of, self.take(of)) for of in ("presence.weight", "presence.bias")]
        x = self.add("Gemm", ["flags", *inputs], transB=1)
        return self.add("Unsqueeze", [x, self.constant("axes", np.array([2, 3]), np.int64)])

    def check_widths(self, widths: Sequence[int]) -> None:
        """Check that every weight was used and that the trunk is as wide as said."""
        found = [
            len(self.constants[f"{name}.bias"])
            for name in ("first", *(f"down.{scale}.1" for scale in range(len(widths) - 1)))
        ]
        if self.weights or found != list(widths):
            raise WeightsError(
                f"the network should have widths {list(widths)}, got {found} and "
                f"{len(self.weights)} weights more: they are of another network"
            )

    def to_bytes(self) -> bytes:
        """Check the model and serialise it, always to the same bytes."""
        image = TensorProto.FLOAT
        inputs = [
            helper.make_tensor_value_info("slots", image, ["n", len(NAMES), "y", "x"]),
            helper.make_tensor_value_info("flags", image, ["n", len(NAMES) + 1]),
        ]
        logits = helper.make_tensor_value_info("logits", image, ["n", len(PREDICTED), "y", "x"])
        constants = [numpy_helper.from_array(a, name) for name, a in self.constants.items()]
        graph = helper.make_graph(self.nodes, "kappamask", inputs, [logits], constants)
        model: ModelProto = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="kappamask",
        )
        checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))
