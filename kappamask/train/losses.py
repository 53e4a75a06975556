"""What training makes small."""

from __future__ import annotations

import torch
from torch import Tensor

from kappamask.train.targets import ANY_CLOUD, CLOUD, THIN

CLASS_WEIGHTS = (1.0, 3.0, 1.2, 1.0, 1.0)  # in the order of a target's shares


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
