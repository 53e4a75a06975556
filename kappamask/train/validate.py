"""How good a network is while it trains. Imports `crops` and `targets`.

Chips are judged by who knows what of them, and each such kind counts: people's labels most; what
the other dates of a place say; programs' labels, which know cloud, shadow and clear; clear ground
of all sorts, where only false alarms count; and simulated scenes over clear `val` chips, whose
four classes are known exactly. Dates and programs are kinds of their own: pooled, a network that
lost half of the veils and shadows that other dates know of stayed the best by `mean`. So are
people's labels and clear ground at L1C as users of six or four bands see them: a network that was
the best with all bands called two fifths of a clear scene veiled with six.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kappamask.base.bands import NAMES, NEAR_INFRARED
from kappamask.base.legend import LEGEND, PREDICTED
from kappamask.networks.normalisation import Normalisation
from kappamask.train.chips import COMMON_BAND_SETS, Chip
from kappamask.train.crops import Crops
from kappamask.train.learner import autocast
from kappamask.train.outlines import Outline
from kappamask.train.targets import ANY_CLOUD, CLEAR, SHADOW, THIN, settle, target_of

SCENES = 32
SCENE_SIZE = 256
SURE = 0.7  # share from which a pixel counts as labelled
# With their weights, and the shares that each knows.
KINDS = {
    "people": 2.0, "dates": 1.0, "programs": 1.0, "ground": 1.0, "simulated": 1.0,
    "people_few": 1.0, "ground_few": 1.0,
}  # fmt: skip
KNOWN = {
    "people": range(5), "dates": range(4), "programs": (0, 1, 4), "simulated": range(4),
    "people_few": range(5),
}  # fmt: skip
FEW = COMMON_BAND_SETS[:2]
NAMES_OF = [LEGEND[code].name for code in PREDICTED]


@dataclass(frozen=True)
class Example:
    """One scene with what is known of it."""

    x: Tensor  # (13, y, x) reflectance, NaN where there is none
    flags: Tensor  # (14,)
    target: Tensor  # (5, y, x)
    kind: str  # of `KINDS`


def collect(chips: Sequence[Chip], outlines: Sequence[Outline] = ()) -> list[Example]:
    """Make the examples of some chips; the same chips always give the same examples."""
    examples = []
    groups: dict[str, list[Chip]] = {}
    for chip in chips:
        x = torch.from_numpy(chip.reflectance())
        flags = torch.cat([x.isfinite().flatten(1).any(1), torch.tensor([chip.level == "L1C"])])
        drawn = target_of(chip)
        target = torch.from_numpy(settle(drawn, with_b10=True))
        kind = "programs" if chip.verdict is None else "dates"
        kind = "people" if chip.kind == "human" else kind
        if chip.kind == "clear" and drawn[CLEAR].mean() > 0.5:
            kind = "ground"
        examples.append(Example(x, flags.float(), target, kind))
        if kind in ("people", "ground") and chip.level == "L1C":
            blind = torch.from_numpy(settle(drawn, with_b10=False))
            examples += [_with_bands(examples[-1], bands, blind) for bands in FEW]
        if drawn[CLEAR].mean() > 0.97 and chip.resolution <= 20:
            groups.setdefault(f"{chip.level}-{chip.bands}-{chip.label.shape}", []).append(chip)
    if groups:
        state = torch.random.get_rng_state()
        crops = Crops(groups, size=SCENE_SIZE, seed=2026, simulated=1.0, outlines=outlines)
        stream = iter(crops)
        examples += [Example(*next(stream), "simulated") for _ in range(SCENES)]
        torch.random.set_rng_state(state)
    return examples


def _with_bands(example: Example, bands: Sequence[str], target: Tensor) -> Example:
    """Keep some bands, with the near infrared that there is."""
    infrared = [name for name in NEAR_INFRARED if example.flags[NAMES.index(name)]]
    kept = {*bands, infrared[0]}
    x, flags = example.x.clone(), example.flags.clone()
    absent = [slot for slot, name in enumerate(NAMES) if name not in kept]
    x[absent], flags[absent] = torch.nan, 0
    return Example(x, flags, target, f"{example.kind}_few")


@torch.inference_mode()
def validate(
    network: nn.Module, normalise: Normalisation, examples: Sequence[Example], device: str = "cpu"
) -> dict[str, float]:
    """Dice per kind and class, pixels of a kind pooled, and ``mean``, what is selected by.

    Of clear ground it is the share that stays clear, mean over the chips. Classes that nobody
    drew in a kind do not count there.
    """
    network.eval()
    counts = np.zeros((len(KINDS), 5, 3), np.int64)  # kind, share, (hit, drawn, said)
    kept: dict[str, list[float]] = {"ground": [], "ground_few": []}
    for example in examples:
        height, width = example.x.shape[1:]
        x = functional.pad(normalise(example.x[None].clone()), (0, -width % 32, 0, -height % 32))
        with autocast(device):
            logits: Tensor = network(x.to(device), example.flags[None].to(device))
        said = logits[0, :, :height, :width].argmax(0).cpu()
        drawn, known = _to_shares(example)
        if example.kind in kept:
            kept[example.kind].append(
                float((said == CLEAR)[known & (drawn == CLEAR)].float().mean())
            )
        for share in range(5):
            a, b = (drawn == share) & known, (said == share) & known
            if share == ANY_CLOUD:
                a, b = (drawn >= THIN) & known, (said >= THIN) & known
            elif share >= THIN:  # who does not know the thickness says nothing of these
                known_thickness = known & (drawn != ANY_CLOUD)
                a, b = a & known_thickness, b & known_thickness
            number = list(KINDS).index(example.kind)
            counts[number, share] += [int((a & b).sum()), int(a.sum()), int(b.sum())]
    scores: dict[str, float] = {}
    weights = []
    for kind, table in zip(KINDS, counts, strict=True):
        if kind in kept:
            of_kind = {"clear": float(np.nanmean(kept[kind]))} if kept[kind] else {}
        else:
            of_kind = {
                NAMES_OF[share] if share < ANY_CLOUD else "any_cloud": float(
                    2 * table[share, 0] / (table[share, 1] + table[share, 2])
                )
                for share in KNOWN[kind]
                if table[share, 1]
            }
        if of_kind:
            weights.append((float(np.mean(list(of_kind.values()))), KINDS[kind]))
            scores |= {f"{kind}_{name}": value for name, value in of_kind.items()}
    means, of_kinds = ([pair[part] for pair in weights] for part in (0, 1))
    return {"mean": float(np.average(means, weights=of_kinds)) if means else 0.0} | scores


def _to_shares(example: Example) -> tuple[Tensor, Tensor]:
    """Which share a pixel belongs to, (y, x), and whether anybody is sure of it.

    Programs are asked only for cloud of any thickness; the others know it, but where they say
    that they do not.
    """
    target = example.target
    if example.kind != "programs":
        return target.argmax(0), target.amax(0) > SURE
    grouped = torch.stack([target[CLEAR], target[SHADOW], target[THIN:].sum(0)])
    return torch.where(grouped.argmax(0) == THIN, ANY_CLOUD, grouped.argmax(0)), grouped.amax(
        0
    ) > SURE
