"""A network in torch, imported when one is opened. Row 2: imports `networks` and row 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kappamask.base.bands import NAMES
from kappamask.base.errors import WeightsError
from kappamask.networks.files import read_weights
from kappamask.networks.runners.base import WeightsFile
from kappamask.networks.runners.torch_environment import prepare_torch

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class TorchRunner:
    """The network in torch: bf16 where the processor computes in it, channels last."""

    network: nn.Module
    precision: str
    device: str
    engine: str = "torch"

    @property
    def version(self) -> str:
        """Name and version of the engine."""
        import torch

        return f"torch {torch.__version__}"

    def make_slots(self, height: int, width: int) -> Tensor:
        """Zeros in the precision of the network; a GPU fetches them from pinned memory."""
        import torch

        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        shape = 1, len(NAMES), height, width
        return torch.zeros(shape, dtype=dtype, pin_memory=self.device == "cuda")

    def run(self, slots: Tensor, flags: Sequence[float]) -> Tensor:
        """Run the network on its device."""
        import torch

        presence = torch.tensor([flags]).to(self.device, slots.dtype)
        with torch.inference_mode():
            logits: Tensor = self.network(slots.to(self.device, non_blocking=True), presence)[0]
        return logits

    def argmax(self, logits: Tensor) -> np.ndarray:
        """Find the largest on the device, with all threads."""
        return logits.argmax(0).cpu().numpy()

    def softmax(self, logits: Tensor) -> np.ndarray:
        """Compute probabilities on the device, with all threads."""
        return logits.softmax(0).cpu().numpy()


def open_torch(weights: WeightsFile, *, precision: str, threads: int | None = None) -> TorchRunner:
    """Load a network into torch, batch normalisation folded.

    Raises
    ------
    WeightsError
        If the file is absent, damaged, not what the manifest says, or of another network.
    """
    prepare_torch()
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    build = build_published if weights.architecture == "published" else build_own
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = build(weights, precision).to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TorchRunner(network.requires_grad_(requires_grad=False), precision, device)


def build_own(weights: WeightsFile, precision: str) -> nn.Module:
    """Build our own network, batch normalisation folded, in the precision asked for."""
    from kappamask.networks.unet import UNet

    network = UNet(weights.widths)
    try:
        network.load_state_dict(read_weights(weights.path, weights.sha256))
    except RuntimeError as error:
        raise WeightsError(
            f"{weights.path.name} does not hold the network that the manifest describes "
            f"({error}): reinstall kappamask"
        ) from error
    network = network.fold()
    return network.to_bf16() if precision == "bf16" else network


def build_published(weights: WeightsFile, precision: str) -> nn.Module:  # noqa: ARG001  fp32 only
    """Build the network published in 2021, reduced to the four classes of a mask."""
    from kappamask.networks.published import FourClasses, from_arrays

    tensors = read_weights(weights.path, weights.sha256)
    return FourClasses(from_arrays(tensors, weights.path.name))
