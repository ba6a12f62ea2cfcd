"""Content feature structural distance (StyleID, CVPR 2024, section 5.1): how far the self-similarity of a picture has
moved.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

BLOCK = 2 ** 23  # entries of a similarity matrix that are held at once: five such blocks in float64 are 0.34 GB


class CFSD(NamedTuple):
    """The divergence as the authors' code gives it, and divided by the number of positions, as the paper has it."""
    sum: float
    mean: float


def cfsd(content: torch.Tensor, stylized: torch.Tensor, features: Callable[[torch.Tensor], torch.Tensor]) -> CFSD:
    """Of two pictures (3, H, W) in 0..1; `features` is `networks.load_vgg19`, (1, 3, H, W) to (1, C, h, w)."""
    content, stylized = (features(picture[None])[0].flatten(1) for picture in (content, stylized))
    total = similarity_divergence(content, stylized)
    return CFSD(total, total / content.shape[1])


def similarity_divergence(content: torch.Tensor, stylized: torch.Tensor, block: int = BLOCK) -> float:
    """Sum over positions of KL(content || stylized) between rows of the similarity matrices of features (C, N).

    A row is softmax(f_i / C . f_j / C) over j: the released code divides the features, and so both factors. No more
    than `block` entries of a matrix exist at once. In float64: rows differ by so little that float32 would be off by
    1e-5, depending on `block`.
    """
    content, stylized = content.double(), stylized.double()
    positions = content.shape[1]
    rows = max(1, block // positions)
    total = 0.0
    for start in range(0, positions, rows):
        log_p, log_q = (log_similarity(features, start, start + rows) for features in (content, stylized))
        total += torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum().item()
    return total


def log_similarity(features: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    return (features[:, start:stop].T @ features).div_(len(features) ** 2).log_softmax(1)
