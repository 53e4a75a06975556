"""The training loop, readable top to bottom. Row 6.

    python -m kappamask.train.fit --data ../shared/data --out runs/first

Writes `log.csv`, `last.pt` (to resume) and `best.safetensors` with `best.toml`,
the entry for `kappamask/registry.toml`, in `--out`.
"""

from __future__ import annotations

import argparse
import csv
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from kappamask.bands import NAMES
from kappamask.legend import PREDICTED, Label
from kappamask.model import Normalisation
from kappamask.networks.unet import UNet
from kappamask.train.chips import Chip, Crops, read_chips, read_training

CLASS_WEIGHTS = torch.tensor([1.0, 2.0, 1.0, 1.0])  # in the order of PREDICTED
IGNORED = -1


@dataclass(frozen=True)
class Settings:
    """All that a run depends on, with the data."""

    widths: tuple[int, ...] = (32, 64, 128, 160, 192)
    steps: int = 10000
    batch: int = 6
    size: int = 256  # pixels per side of a crop
    learning_rate: float = 2e-3
    warm_up: int = 300
    weight_decay: float = 0.01
    ema: float = 0.998
    validate_every: int = 500
    seed: int = 1
    workers: int = 1


def to_target(label: Tensor) -> Tensor:
    """Codes of `Label` to indices of PREDICTED, `IGNORED` elsewhere; any shape."""
    target = torch.full_like(label, IGNORED)
    for index, code in enumerate(PREDICTED):
        target[label == code] = index
    return target


def loss_of(logits: Tensor, target: Tensor) -> Tensor:
    """Weighted cross-entropy plus soft dice; (n, 4, y, x) and (n, y, x) to a scalar."""
    entropy = functional.cross_entropy(logits, target, CLASS_WEIGHTS, ignore_index=IGNORED)
    known = (target != IGNORED).unsqueeze(1)
    truth = functional.one_hot(target.clamp(min=0), len(PREDICTED)).movedim(-1, 1) * known
    share = logits.softmax(1) * known
    overlap = 2 * (share * truth).sum((0, 2, 3))
    dice = (overlap + 1) / (share.sum((0, 2, 3)) + truth.sum((0, 2, 3)) + 1)
    return entropy + 1 - dice.mean()


def normalisation_of(groups: dict[str, list[Chip]]) -> Normalisation:
    """Mean and spread of the square root of reflectance per band, over all training chips."""
    mean, std = [], []
    for slot in range(len(NAMES)):
        values = np.concatenate(
            [chip.dn[slot][::4, ::4].ravel() for chips in groups.values() for chip in chips]
        )
        root = np.sqrt(values[values > 0] / 10000)
        mean.append(round(float(root.mean()), 4))
        std.append(round(float(max(root.std(), 0.02)), 4))
    return Normalisation(tuple(mean), tuple(std))


@torch.inference_mode()
def validate(
    network: torch.nn.Module, normalise: Normalisation, chips: list[Chip]
) -> dict[str, float]:
    """Dice per class, pixels of all chips pooled."""
    network.eval()
    confusion = np.zeros((6, 6), np.int64)
    for chip in chips:
        x = torch.from_numpy(chip.reflectance())[None]
        y_size, x_size = x.shape[-2:]
        flags = torch.cat([x[0].isfinite().flatten(1).any(1), torch.tensor([chip.level == "L1C"])])
        x = functional.pad(normalise(x), (0, -x_size % 32, 0, -y_size % 32))
        with torch.autocast("cpu", torch.bfloat16):
            index = network(x, flags.float()[None])[0, :, :y_size, :x_size].argmax(0)
        codes = np.array(PREDICTED)[index.numpy()]
        np.add.at(confusion, (chip.label, codes), 1)
    confusion[Label.UNDEFINED] = confusion[Label.MISSING] = 0
    hits, drawn, said = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    scores = {c.name: 2 * hits[c] / (drawn[c] + said[c]) for c in PREDICTED if drawn[c]}
    return {
        "mean": float(np.mean(list(scores.values()))),
        **{k: float(v) for k, v in scores.items()},
    }


def export(
    network: torch.nn.Module,
    folder: Path,
    normalise: Normalisation,
    settings: Settings,
    scores: dict[str, float],
) -> None:
    """Write the weights as safetensors and the manifest entry that goes with them."""
    save_file(
        {key: value.contiguous() for key, value in network.state_dict().items()},
        folder / "best.safetensors",
    )
    lines = [
        f"{key} = {list(value) if isinstance(value, tuple) else value!r}"
        for key, value in {**asdict(settings), **asdict(normalise)}.items()
    ]
    lines += [f"val_{key.lower()} = {value:.4f}" for key, value in scores.items()]
    (folder / "best.toml").write_text("\n".join(lines) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with chips.csv's parent")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--learning-rate", type=float, default=Settings.learning_rate)
    parser.add_argument("--start", type=Path, help="safetensors of an earlier run to go on from")
    options = parser.parse_args(arguments)
    settings = Settings(steps=options.steps, seed=options.seed, learning_rate=options.learning_rate)
    fit(options.data, options.out, settings, start_from=options.start)


def fit(data: Path, out: Path, settings: Settings, *, start_from: Path | None = None) -> None:
    """Train one network on the `train` split and keep the best on `val`."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    groups, val = read_training(data), read_chips(data, "val")
    normalise = normalisation_of(groups)
    network = UNet(settings.widths)
    if start_from is not None:
        network.load_state_dict(load_file(start_from))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedModel(
        network,
        multi_avg_fn=get_ema_multi_avg_fn(settings.ema),  # type: ignore[no-untyped-call]
        use_buffers=True,
    )
    optimizer = torch.optim.AdamW(
        network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        settings.learning_rate,
        settings.steps,
        pct_start=min(settings.warm_up / settings.steps, 0.3),
    )
    start, best = 0, -1.0
    if (out / "last.pt").exists():
        state = torch.load(out / "last.pt", weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        start, best = state["step"], state["best"]
    # A resumed run draws other crops than the first part did, or it would see them twice.
    crops = Crops(groups, size=settings.size, seed=settings.seed + start)
    ahead = 6 if settings.workers else None  # batches that each worker prepares ahead
    stream = iter(
        DataLoader(crops, settings.batch, num_workers=settings.workers, prefetch_factor=ahead)
    )
    began, losses = time.monotonic(), []
    for step in range(start + 1, settings.steps + 1):
        x, flags, label = next(stream)
        network.train()
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(normalise(x), flags)
        loss = loss_of(logits, to_target(label))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(network)
        losses.append(float(loss.detach()))
        if step % settings.validate_every == 0 or step == settings.steps:
            scores = validate(average.module, normalise, val)
            record(out / "log.csv", step, time.monotonic() - began, float(np.mean(losses)), scores)
            losses.clear()
            if scores["mean"] > best:
                best = scores["mean"]
                export(average.module, out, normalise, settings, scores)
            state = {
                "step": step,
                "best": best,
                "network": network.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
            }
            torch.save(state, out / "last.tmp")
            (out / "last.tmp").replace(out / "last.pt")


def record(path: Path, step: int, seconds: float, loss: float, scores: dict[str, float]) -> None:
    """Append one line to the log and print it."""
    row = {"step": step, "seconds": round(seconds), "loss": round(loss, 4)}
    row |= {key.lower(): round(value, 4) for key, value in scores.items()}
    new = not path.exists()
    with path.open("a", newline="") as log:
        writer = csv.DictWriter(log, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(row, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
