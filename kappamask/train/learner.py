"""A network with all that makes it better step by step."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kappamask.base.errors import WeightsError
from kappamask.networks.normalisation import Normalisation
from kappamask.networks.runners import has_bf16
from kappamask.networks.unet import UNet
from kappamask.train.settings import Settings
from kappamask.train.targets import ANY_CLOUD, CLOUD, THIN

CLASS_WEIGHTS = (1.0, 3.0, 1.2, 1.0, 1.0)  # in the order of a target's shares
PARTS = ("network", "average", "optimizer", "schedule")


class Learner:
    """A U-Net, its running average, AdamW and a schedule, on a GPU where there is one.

    Parameters
    ----------
    settings
        Widths, rate, decay and the length of the schedule.
    start_from
        Safetensors to begin with, such as `best.safetensors` of an earlier run.

    Raises
    ------
    WeightsError
        If `start_from` cannot be read or is of another network.
    """

    def __init__(self, settings: Settings, *, start_from: Path | None = None) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.network = UNet(settings.widths)
        if start_from is not None:
            try:
                self.network.load_state_dict(load_file(start_from))
            except (OSError, SafetensorError, RuntimeError) as error:
                raise WeightsError(
                    "a run starts from the safetensors of a network of the same widths, got "
                    f"{start_from}: {str(error).splitlines()[0]}; set widths in [settings] as its "
                    "best.toml says"
                ) from error
        self.network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = AveragedModel(
            self.network,
            multi_avg_fn=partial(keep_share, settings.ema),
            use_buffers=True,
        )
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, partial(share_of_rate, settings)
        )

    def learn(
        self, normalise: Normalisation, batch: tuple[Tensor, Tensor, Tensor] | list[Tensor]
    ) -> float:
        """Take one step on a batch of `kappamask.train.crops.Crops`; return its loss.

        The network runs in bf16 where the hardware gains by it, which takes half the time there
        and up to twice the time elsewhere; the loss and the weights stay in single precision.
        """
        x, flags, target = batch
        self.network.train()
        with autocast(self.device):
            logits = self.network(normalise(x).to(self.device), flags.to(self.device))
        loss = loss_of(logits, target.to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.average.update_parameters(self.network)
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        """Give what `restore` takes: tensors, numbers and words, nothing that needs a pickle."""
        return {part: getattr(self, part).state_dict() for part in PARTS}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        for part in PARTS:
            getattr(self, part).load_state_dict(state[part])


def autocast(device: str) -> torch.autocast:
    """Compute in bf16 where the hardware does, else in single precision."""
    native = torch.cuda.is_bf16_supported() if device == "cuda" else has_bf16()
    return torch.autocast(device, torch.bfloat16, enabled=native)


def share_of_rate(settings: Settings, step: int) -> float:
    """Give the share of the highest rate: up in the warm-up, level, down to 0 in the cool-down.

    As it is level in between, a run can be made longer or shorter until its cool-down begins.

    Examples
    --------
    >>> settings = Settings(steps=100, warm_up=10, cool_down=20)
    >>> [share_of_rate(settings, step) for step in (0, 4, 10, 80, 90, 100)]
    [0.1, 0.5, 1.0, 1.0, 0.5, 0.0]
    """
    steps = settings.steps
    up = (step + 1) / max(min(settings.warm_up, 0.3 * steps), 1)
    down = (steps - step) / max(min(settings.cool_down, 0.5 * steps), 1)
    return max(min(up, 1.0, down), 0.0)


def keep_share(
    share: float, average: list[Tensor], latest: list[Tensor], steps: Tensor | int
) -> None:
    """Move an average towards the latest weights; it keeps less than `share` in the first steps.

    Or the random weights that a run begins with would stay in it for thousands of steps.
    """
    at_first = (1 + int(steps)) / (10 + int(steps))
    move = get_ema_multi_avg_fn(min(share, at_first))  # type: ignore[no-untyped-call]
    move(average, latest, steps)


def loss_of(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy with soft shares, plus soft dice.

    Parameters
    ----------
    logits
        (n, 4, y, x): clear, cloud shadow, semi-transparent, cloud.
    target
        (n, 5, y, x): the shares of `kappamask.train.targets`, settled. Cloud of unknown thickness
        asks only that semi-transparent and cloud together are likely; pixels whose shares
        are 0 ask nothing.

    Returns
    -------
    torch.Tensor
        A scalar.
    """
    log_share = logits.float().log_softmax(1)
    log_cloud = torch.logsumexp(log_share[:, THIN : CLOUD + 1], 1, keepdim=True)
    weights = torch.tensor(CLASS_WEIGHTS, device=target.device)[:, None, None]
    weighted = target * weights
    entropy = -(weighted * torch.cat([log_share, log_cloud], 1)).sum() / weighted.sum().clamp(min=1)
    share = torch.cat([log_share, log_cloud], 1).exp()
    known = target.sum(1, keepdim=True) > 0.5
    any_cloud = target[:, THIN:].sum(1, keepdim=True)
    truth = torch.cat([target[:, :ANY_CLOUD], any_cloud], 1) * known
    sorted_out = known & (target[:, ANY_CLOUD:] < 0.05)  # nobody doubts how thick it is
    counted = torch.cat([known, known, sorted_out, sorted_out, known], 1)
    overlap = 2 * (share * truth * counted).sum((0, 2, 3))
    total = ((share + truth) * counted).sum((0, 2, 3))
    return entropy + 1 - ((overlap + 1) / (total + 1)).mean()
