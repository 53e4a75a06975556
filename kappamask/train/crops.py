"""Chips as augmented training crops. Imports `chips`, `ground`, `simulate`, `targets`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import IterableDataset

from kappamask.base.bands import NAMES, NEAR_INFRARED, REQUIRED
from kappamask.train.air import fill_bands, to_top_of_atmosphere
from kappamask.train.chips import COMMON_BAND_SETS, SLOT, Chip
from kappamask.train.ground import WOODED, dress_ground
from kappamask.train.outlines import Outline
from kappamask.train.simulate import put_clouds
from kappamask.train.targets import CLEAR, one_hot, settle, target_of


@dataclass(frozen=True)
class Taught:
    """A chip with what the network is told about it."""

    chip: Chip
    kept: np.ndarray | None  # its target, unless the chip itself is not held in memory

    @classmethod
    def of(cls, chip: Chip) -> Taught:
        """Work the target out now, or at each use for a chip that is mapped from disk."""
        mapped = isinstance(chip.dn, np.memmap)
        return cls(chip, None if mapped else target_of(chip).astype(np.float16))

    @property
    def target(self) -> np.ndarray:
        """(6, y, x) float16, see `kappamask.train.targets`."""
        return target_of(self.chip).astype(np.float16) if self.kept is None else self.kept

    @property
    def is_clear(self) -> bool:
        """Whether nearly all of it is known to be clear."""
        return bool(self.target[CLEAR].mean() > 0.97)


class Crops(IterableDataset):  # type: ignore[type-arg]
    """An endless stream of augmented crops: reflectance (13, y, x), flags (14,), target (5, y, x).

    Small chips are laid side by side into one crop. Clear crops receive a
    simulated cloud most of the time, so that shadow and thin cloud are not rare.

    Parameters
    ----------
    groups
        Chips of one level, resolution, band set and size each.
    size
        Pixels per side of a crop.
    seed
        The same seed and number of workers give the same crops.
    simulated
        How often a clear crop gets a simulated cloud.
    weights
        Of groups: how many times as often as its size says a group is drawn.
    outlines
        Of real clouds, that some simulated ones take.
    """

    def __init__(
        self,
        groups: Mapping[str, Sequence[Chip]],
        *,
        size: int,
        seed: int,
        simulated: float = 0.75,
        weights: Mapping[str, float] | None = None,
        outlines: Sequence[Outline] = (),
    ) -> None:
        self.outlines = outlines
        self.groups = [[Taught.of(chip) for chip in chips] for chips in groups.values()]
        self.size = size
        self.seed = seed
        self.simulated = simulated
        # Large groups more often, but not in proportion; pixels of 120 m are nobody's.
        share = np.array([sum(t.chip.label.size for t in group) ** 0.4 for group in self.groups])
        share *= [0.3 if group[0].chip.resolution > 100 else 1.0 for group in self.groups]
        share *= [(weights or {}).get(name, 1.0) for name in groups]
        self.share = share / share.sum()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield crops for ever; each worker has a stream of its own."""
        info = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, info.id if info else 0])
        torch.manual_seed(int(rng.integers(2**31)))
        while True:
            yield self.draw(self.groups[rng.choice(len(self.groups), p=self.share)], rng)

    def draw(self, group: list[Taught], rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw one crop of a group and augment it."""
        level, resolution = group[0].chip.level, group[0].chip.resolution
        x, target = self.crop(group, rng)
        while (target.sum(0) > 0.5).float().mean() < 0.1:
            x, target = self.crop(group, rng)
        known, clear = target.sum(0) > 0.5, target[CLEAR] > 0.8
        to_l1c = level == "L2A" and rng.random() < 0.35
        if clear.float().mean() > (0.95 * known.float().mean()).clamp(min=0.5) and (
            rng.random() < self.simulated
        ):
            x = fill_bands(x, rng) if level == "L2A" and rng.random() < 0.6 else x
            x = x * float(rng.uniform(0.55, 1.25))  # low sun, dark and bright soils are clear too
            wooded = WOODED["L1C" if to_l1c else level]
            x = dress_ground(x, rng, level=level, wooded=wooded)
            if to_l1c:
                level, x = "L1C", to_top_of_atmosphere(x, rng)
            x, label = put_clouds(
                x, rng, level=level, resolution=resolution, outlines=self.outlines
            )
            target = torch.where(clear, torch.from_numpy(one_hot(label.numpy())), target)
        elif to_l1c:
            level, x = "L1C", to_top_of_atmosphere(x, rng)
            x[SLOT["B10"]] = torch.nan  # nobody knows what cirrus there was
        x = x * float(rng.uniform(0.92, 1.08)) * (1 + 0.03 * torch.randn(13, 1, 1))
        x = drop_bands(x, rng)
        target = settle(target, with_b10=bool(x[SLOT["B10"]].isfinite().any()))
        if rng.random() < 0.2:
            x, target = cut_swath_edge(x, target, rng)
        flags = torch.cat([x.isfinite().flatten(1).any(1), torch.tensor([level == "L1C"])])
        return x, flags.float(), target

    def crop(self, group: list[Taught], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Cut a square, mirrored and turned at random, from one chip or a quilt of small ones.

        A chip of twice the size is now and then seen with pixels twice as large.
        """
        y, x = group[0].chip.label.shape
        factor = 2 if min(y, x) >= 2 * self.size and rng.random() < 0.15 else 1
        size = self.size * factor
        repeat = -(-size // min(y, x))
        if repeat > 1 and rng.random() < 0.5:  # half of the quilts are of clear chips only
            group = [taught for taught in group if taught.is_clear] or group
        drawn = [group[rng.integers(len(group))] for _ in range(repeat**2)]
        rows = [drawn[i : i + repeat] for i in range(0, repeat**2, repeat)]
        top, left = (rng.integers(n * repeat - size + 1) for n in (y, x))
        window = np.s_[:, top : top + size, left : left + size]
        turns, mirror = int(rng.integers(4)), rng.random() < 0.5
        target = quilt([[taught.target for taught in row] for row in rows])[window]
        dn = quilt([[taught.chip.dn for taught in row] for row in rows])[window]
        target, dn = (turn(array, turns, mirror) for array in (target, dn))
        refl = torch.from_numpy(np.where(dn > 0, dn * np.float32(1e-4), np.float32(np.nan)))
        goal = torch.from_numpy(target.astype(np.float32))
        if factor == 1:
            return refl, goal
        return functional.avg_pool2d(refl, factor), functional.avg_pool2d(goal, factor)


def quilt(rows: list[list[np.ndarray]]) -> np.ndarray:
    """Lay arrays side by side; a single one is not copied."""
    return rows[0][0] if len(rows) == 1 else np.block(rows)


def turn(array: np.ndarray, turns: int, mirror: bool) -> np.ndarray:
    """Rotate the last two axes by quarter turns and mirror them."""
    array = np.rot90(array, turns, axes=(-2, -1))
    return np.ascontiguousarray(array[..., ::-1] if mirror else array)


def drop_bands(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Take bands away (NaN) as users' band sets do, never one that a mask cannot do without."""
    chance = rng.random()
    if chance < 0.3:
        return x
    present = [name for name in NAMES if x[SLOT[name]].isfinite().any()]
    if chance < 0.7:
        keep = set(COMMON_BAND_SETS[rng.integers(len(COMMON_BAND_SETS))])
    else:
        keep = {name for name in present if rng.random() < rng.uniform(0.3, 1)}
    infrared = [name for name in NEAR_INFRARED if name in present]
    keep |= {*REQUIRED, infrared[rng.integers(len(infrared))]}
    x = x.clone()
    x[[slot for slot, name in enumerate(NAMES) if name not in keep]] = torch.nan
    return x


def cut_swath_edge(x: Tensor, target: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Blank one side of a slanted line, as the edge of a swath does."""
    ramp = torch.linspace(-1, 1, x.shape[-1])
    angle = rng.uniform(0, 2 * np.pi)
    outside = np.cos(angle) * ramp[:, None] + np.sin(angle) * ramp[None] > rng.uniform(0.1, 0.9)
    return x.masked_fill(outside, torch.nan), target.masked_fill(outside, 0.0)
