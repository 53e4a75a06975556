"""What other programs take for the same pixels, each as its users run it.

Whoever is absent or fails is named with the reason; the others are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from machine import measure_by_turns

from kappamask.evaluate.programs import S2cloudlessPeer, UkisPeer
from kappamask.networks.published import PublishedUNet
from kappamask.train.chips import Chip

# km_predict: windows of 512 px that overlap by 32, 23 x 23 of them for a tile of 10980 px.
WINDOW, PER_TILE, TILE = 512, 23, 10980


ELSEWHERE = {  # programs that take no file of this machine
    "s2mosaic": "searches and reads the Planetary Computer itself, masks by OmniCloudMask",
    "bestpixel": "reads its own four catalogues on the internet (`endpoint`), no other files",
}


@dataclass(frozen=True)
class Answer:
    """What a program takes, or why that is not known."""

    name: str
    speed: float = 0.0  # Mpx/s
    ratio: float = 0.0  # of our network's speed to it, in turns
    pixels: str = ""
    reason: str = ""
    target: float = 0.0  # our network shall be so many times faster


def measure_peers(
    scene: np.ndarray,
    ours: tuple[int, Callable[[], object]],
    *,
    repeats: int,
    clock: Callable[[], float],
) -> Iterator[Answer]:
    """Measure each on reflectance (13, y, x), in turns with our network: its pixels, its work."""
    for name, target, prepare in (
        ("published network, fp32", 60, prepare_published),
        ("ukis-csmask", 12, lambda scene: prepare_peer(UkisPeer(), scene)),
        ("s2cloudless", 40, lambda scene: prepare_peer(S2cloudlessPeer(), scene)),
        ("OmniCloudMask", 0, prepare_omnicloudmask),
    ):
        try:
            work, pixels, said = prepare(scene)
            speeds = measure_by_turns({"": ours, name: (pixels, work)}, repeats, clock)
        except Exception as error:  # noqa: BLE001  whatever another program raises is its reason
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:100]
            yield Answer(name, reason=reason, target=target)
        else:
            speed = speeds[name]
            yield Answer(name, speed, speeds[""] / speed, said, target=target)
    for name, reason in ELSEWHERE.items():
        yield Answer(name, reason=reason)


def prepare_published(scene: np.ndarray) -> tuple[Callable[[], object], float, str]:
    """One window of the 31 M network of 2021, random weights, as km_predict runs it.

    A tile of 10980 px takes 23 x 23 windows, so that a window stands for (10980 / 23)^2 px.
    Reading, features and joining are left out: it is the network that is compared.
    """
    torch.manual_seed(0)
    network = PublishedUNet(64).eval().requires_grad_(requires_grad=False)
    features = torch.from_numpy(np.ascontiguousarray(scene[None, :, :WINDOW, :WINDOW]))

    def work() -> object:
        with torch.inference_mode():
            return network(features).argmax(1)

    return work, (TILE / PER_TILE) ** 2, f"{WINDOW} x {WINDOW} windows"


def prepare_omnicloudmask(scene: np.ndarray) -> tuple[Callable[[], object], float, str]:
    """Red, green and near infrared, as it asks for; its weights come from Hugging Face."""
    from omnicloudmask import predict_from_array

    bands = np.ascontiguousarray(scene[[3, 2, 8]])  # B04, B03, B8A: made for 20 m, run at 10 m
    height, width = bands.shape[1:]
    predict_from_array(bands)  # fetches them
    return lambda: predict_from_array(bands), height * width, f"{height} x {width}"


def prepare_peer(peer: Any, scene: np.ndarray) -> tuple[Callable[[], object], float, str]:
    """Make a program of `kappamask evaluate` ready, all bands of the scene at 10 m."""
    dn = np.round(np.nan_to_num(scene) * 10000).astype(np.uint16)
    chip = Chip("benchmark", dn, np.zeros(dn.shape[1:], np.uint8), "L1C", 10.0, "none")
    peer.label(chip)  # loaded before it is timed, or the reason why not
    height, width = dn.shape[1:]
    return lambda: peer.label(chip), height * width, f"{height} x {width}"
