"""Blend the weights of two networks of one line of training, as kappamask-2026c was made.

    python scripts/blend_networks.py OLD NEW --share 0.25 --shadow 0.3 --out FOLDER

OLD and NEW are folders with `best.safetensors` and `best.toml`, as `kappamask train` writes
them; NEW was trained on from OLD. A straight line between the two often keeps what the old
one knew and takes most of what the new one learned (Wortsman et al. 2022, arXiv:2109.01903).
`--shadow` is added to the logit of cloud shadow. Last, weights and biases are moved to numbers
that bf16 holds, so that both precisions run the same network and differ by the rounding of
activations only.
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kappamask.networks.unet import ConvUnit, UNet

SHADOW, SUB_PIXELS = 1, 4  # the head gives each class for four 10 m pixels
WEIGHTS, ENTRY = "best.safetensors", "best.toml"


def blend(old: dict[str, Tensor], new: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Mix all tensors: `share` of the new ones."""
    return {
        name: torch.lerp(old[name].double(), new[name].double(), share).to(old[name].dtype)
        for name in old
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


def blend_entry(old: str, new: str, share: float) -> str:
    """Mix mean and spread of the inputs; the rest is said by the new network."""
    tables: list[dict[str, Any]] = [tomllib.loads(text) for text in (old, new)]
    mixed = {
        key: [
            round((1 - share) * a + share * b, 4)
            for a, b in zip(*(table[key] for table in tables), strict=True)
        ]
        for key in ("mean", "std")
    }
    lines = [line for line in new.splitlines() if line.split(" ")[0] not in mixed]
    return "\n".join([*lines, *(f"{key} = {values}" for key, values in mixed.items())]) + "\n"


@torch.no_grad()
def main() -> None:
    """Write the blend."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--share", type=float, required=True, help="of the new network, 0 to 1")
    parser.add_argument("--shadow", type=float, default=0.0, help="added to the logit of shadow")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    texts = [(folder / ENTRY).read_text("utf-8") for folder in (options.old, options.new)]
    network = UNet(tomllib.loads(texts[1])["widths"])
    pair = [load_file(folder / WEIGHTS) for folder in (options.old, options.new)]
    network.load_state_dict(blend(*pair, options.share))
    network.head.bias[SHADOW * SUB_PIXELS : (SHADOW + 1) * SUB_PIXELS] += options.shadow
    settle(network)
    options.out.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(tensors, options.out / WEIGHTS)
    (options.out / ENTRY).write_text(blend_entry(*texts, options.share), "utf-8")


if __name__ == "__main__":
    main()
