"""How good a network is while it trains. Row 6: imports `crops` and `targets`.

Two halves of equal weight: the `val` chips, with what the teacher says of them (clear, shadow,
cloud of any thickness), and simulated scenes over clear `val` chips, whose four classes are
known exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kappamask.base.legend import LEGEND, PREDICTED
from kappamask.networks.normalisation import Normalisation
from kappamask.train.chips import Chip
from kappamask.train.crops import Crops
from kappamask.train.targets import ANY_CLOUD, CLEAR, SHADOW, THIN, target_of

SCENES = 24
SCENE_SIZE = 256
SURE = 0.7  # share from which a pixel counts as labelled
NAMES_OF = [LEGEND[code].name for code in PREDICTED]


@dataclass(frozen=True)
class Example:
    """One scene with what is known of it."""

    x: Tensor  # (13, y, x) reflectance, NaN where there is none
    flags: Tensor  # (14,)
    target: Tensor  # (5, y, x)
    exact: bool  # four classes are known, else three


def collect(chips: Sequence[Chip]) -> list[Example]:
    """Make the examples of some chips; the same chips always give the same examples."""
    examples = []
    for chip in chips:
        x = torch.from_numpy(chip.reflectance())
        flags = torch.cat([x.isfinite().flatten(1).any(1), torch.tensor([chip.level == "L1C"])])
        target = torch.from_numpy(target_of(chip))
        examples.append(Example(x, flags.float(), target, exact=False))
    groups: dict[str, list[Chip]] = {}
    for chip in chips:
        if target_of(chip)[CLEAR].mean() > 0.97 and chip.resolution <= 20:
            groups.setdefault(f"{chip.level}-{chip.bands}-{chip.label.shape}", []).append(chip)
    if groups:
        state = torch.random.get_rng_state()
        crops = iter(Crops(groups, size=SCENE_SIZE, seed=2026, simulated=1.0))
        examples += [Example(*next(crops), exact=True) for _ in range(SCENES)]
        torch.random.set_rng_state(state)
    return examples


@torch.inference_mode()
def validate(
    network: nn.Module, normalise: Normalisation, examples: Sequence[Example], device: str = "cpu"
) -> dict[str, float]:
    """Dice per class and half, pixels of all examples pooled, and ``mean``, what is selected by."""
    network.eval()
    counts = np.zeros((2, 5, 3), np.int64)  # half, share, (hit, drawn, said)
    for example in examples:
        said = _predict(network, normalise, example, device)
        drawn, known = _to_shares(example)
        for share in range(5):
            a, b = (drawn == share) & known, (said == share) & known
            if share == ANY_CLOUD:
                a, b = (drawn >= THIN) & known, (said >= THIN) & known
            counts[int(example.exact), share] += [int((a & b).sum()), int(a.sum()), int(b.sum())]
    dice = 2 * counts[..., 0] / np.maximum(counts[..., 1] + counts[..., 2], 1)
    real = {
        name: dice[0, share]
        for name, share in zip(
            ("clear", "shadow", "any_cloud"), (CLEAR, SHADOW, ANY_CLOUD), strict=True
        )
    }
    simulated = dict(zip(NAMES_OF, dice[1], strict=False))
    halves = [
        np.mean(list(half.values()))
        for half, n in ((real, counts[0]), (simulated, counts[1]))
        if n.any()
    ]
    scores = {"mean": float(np.mean(halves))}
    scores |= {f"real_{name}": float(value) for name, value in real.items()}
    return scores | {f"simulated_{name}": float(value) for name, value in simulated.items()}


def _predict(network: nn.Module, normalise: Normalisation, example: Example, device: str) -> Tensor:
    height, width = example.x.shape[1:]
    x = functional.pad(normalise(example.x[None].clone()), (0, -width % 32, 0, -height % 32))
    with torch.autocast(device, torch.bfloat16):
        logits: Tensor = network(x.to(device), example.flags[None].to(device))
    return logits[0, :, :height, :width].argmax(0).cpu()


def _to_shares(example: Example) -> tuple[Tensor, Tensor]:
    """Which share a pixel belongs to, (y, x), and whether anybody is sure of it."""
    target = example.target
    if example.exact:
        return target[:4].argmax(0), target[:4].amax(0) > SURE
    grouped = torch.stack([target[CLEAR], target[SHADOW], target[THIN:].sum(0)])
    return grouped.argmax(0), grouped.amax(0) > SURE
