"""Blend the weights of networks of one line of training, as kappamask-2026d was made.

    python scripts/blend_networks.py FOLDER=SHARE ... [--shadow 0.3] [--settle] --out FOLDER

Each folder has `best.safetensors` and `best.toml`, as `kappamask train` writes them; the networks
were trained on from one another or from the same one. Means of such weights often keep what
the first one knew and take most of what the others learned (Wortsman et al. 2022,
arXiv:2109.01903 and arXiv:2203.05482). `--shadow` is added to the logit of cloud shadow. With
`--settle`, weights and biases are moved to numbers that bf16 holds, so that both precisions run the
same network and differ by the rounding of activations only: try both, either may agree better.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kappamask.networks.unet import ConvUnit, UNet

SHADOW, SUB_PIXELS = 1, 4  # the head gives each class for four 10 m pixels
WEIGHTS, ENTRY = "best.safetensors", "best.toml"


def blend(networks: Sequence[dict[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """Mix all tensors."""
    return {
        name: sum(
            share * network[name].double() for network, share in zip(networks, shares, strict=True)
        ).to(first.dtype)
        for name, first in networks[0].items()
    }


def settle(network: UNet) -> None:
    """Move every convolution, batch normalisation folded in, to numbers of bf16."""
    inside = {id(unit[0]) for unit in network.modules() if isinstance(unit, ConvUnit)}
    for module in network.modules():
        if isinstance(module, ConvUnit):
            conv, norm = module[0], module[1]
            scale = norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps)
            weight = _as_bf16(conv.weight.double() * scale[:, None, None, None])
            bias = _as_bf16(norm.bias.double() - norm.running_mean.double() * scale)
            conv.weight.copy_(weight / scale[:, None, None, None])
            norm.bias.copy_(bias + norm.running_mean.double() * scale)
        elif (
            isinstance(module, nn.Conv2d)
            and id(module) not in inside
            and module is not network.head
        ):
            module.weight.copy_(_as_bf16(module.weight.double()))
            module.bias.copy_(_as_bf16(module.bias.double()))


def _as_bf16(values: Tensor) -> Tensor:
    return values.to(torch.bfloat16).double()


def blend_entries(entries: Sequence[str], shares: Sequence[float]) -> str:
    """Mix mean and spread of the inputs; the rest is said by the last network."""
    tables: list[dict[str, Any]] = [tomllib.loads(text) for text in entries]
    mixed = {
        key: [
            round(float(np.dot(shares, values)), 4)
            for values in zip(*(table[key] for table in tables), strict=True)
        ]
        for key in ("mean", "std")
    }
    lines = [line for line in entries[-1].splitlines() if line.split(" ")[0] not in mixed]
    return "\n".join([*lines, *(f"{key} = {values}" for key, values in mixed.items())]) + "\n"


def read_share(text: str) -> tuple[Path, float]:
    """Take FOLDER=SHARE apart."""
    folder, _, share = text.rpartition("=")
    return Path(folder), float(share)


@torch.no_grad()
def main() -> None:
    """Write the blend."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="+", type=read_share, metavar="FOLDER=SHARE")
    parser.add_argument("--shadow", type=float, default=0.0, help="added to the logit of shadow")
    parser.add_argument("--settle", action="store_true", help="round weights to bf16")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    folders, shares = zip(*options.networks, strict=True)
    if abs(sum(shares) - 1) > 1e-9:
        parser.error(f"shares sum to 1, got {' + '.join(map(str, shares))}")
    entries = [(folder / ENTRY).read_text("utf-8") for folder in folders]
    network = UNet(tomllib.loads(entries[-1])["widths"])
    network.load_state_dict(blend([load_file(folder / WEIGHTS) for folder in folders], shares))
    network.head.bias[SHADOW * SUB_PIXELS : (SHADOW + 1) * SUB_PIXELS] += options.shadow
    if options.settle:
        settle(network)
    options.out.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(tensors, options.out / WEIGHTS)
    (options.out / ENTRY).write_text(blend_entries(entries, shares), "utf-8")


if __name__ == "__main__":
    main()
