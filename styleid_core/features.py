"""Holds what self-attention got while a picture was inverted, and finds it again for a sampling step."""

import math
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from .blocks import Block
from .settings import InversionSettings
from .storage import map_tensors


class Tokens(NamedTuple):
    """Queries, keys and values of a picture after norm and rotation: (batch, tokens, heads * channels) each."""
    q: Tensor
    k: Tensor
    v: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """(batch, tokens, channels of all three)."""
        return *self.q.shape[:2], sum(each.shape[-1] for each in self)


class Kept(NamedTuple):
    """steps[i][k]: n (batch, tokens, channels) or Tokens of the k-th block at the i-th sigma of `Features`, as
    `storage.store` keeps it.
    """
    steps: list[list]

    def only(self, indices: list[int]) -> "Kept":
        """Of the blocks with these indices."""
        return Kept([[step[k] for k in indices] for step in self.steps])

    def step(self, i: int) -> list:
        return self.steps[i]


class Origin(NamedTuple):
    """What features were made with: the weights by a fingerprint, and the prompt."""
    weights: str
    prompt: str
    settings: InversionSettings


class Features(NamedTuple):
    """What self-attention gets, one per inversion step and block: inputs n (LayerNorm outputs) of a UNet, Tokens of a
    transformer.

    sigmas  S floats, rising    the sigma the model was evaluated at on each step
    blocks  K blocks            which self-attentions were captured; none when nothing was asked for
    source  `Kept` in memory, `InFile`, or calls to make again; all have `only`, the first two `step`
    latent  (batch, C, H, W)    what was inverted
    origin                      weights, prompt and settings, where a file tells them
    position                    the picture's index on the first axis of positions; 0 unless it stands behind the prompt

    Lists and tuples all through, because ComfyUI's memory-pressure cache counts tensors only inside those.
    """
    sigmas: list[float]
    blocks: list[Block]
    source: tuple
    latent: Tensor
    origin: Origin | None = None
    position: int = 0

    def __repr__(self) -> str:
        """Short: with every error ComfyUI keeps the text of a node's inputs in its history."""
        return f"Features({len(self.sigmas)} steps of {len(self.blocks)} blocks, latent {list(self.latent.shape)})"

    @property
    def size(self) -> tuple[int, int]:
        return tuple(self.latent.shape[-2:])

    @property
    def batch(self) -> int:
        return len(self.latent)


def only_blocks(features: Features, blocks: list[Block]) -> Features:
    """`features` of these blocks alone, which were all captured. No tensor is copied."""
    if blocks == features.blocks:
        return features
    indices = [features.blocks.index(block) for block in blocks]
    return features._replace(blocks=blocks, source=features.source.only(indices))


def nearest_step(features: Features, sigma: float) -> int:
    """Index of the captured step whose sigma is nearest on a log scale.

    ValueError for a sigma outside the captured range, by more than 1.5 times the step's larger gap to a neighbor.
    """
    captured = [math.log(s) for s in features.sigmas]
    target = math.log(sigma)
    step = min(range(len(captured)), key=lambda i: abs(captured[i] - target))
    neighbors = [captured[i] for i in (step - 1, step + 1) if 0 <= i < len(captured)]
    spacing = max((abs(captured[step] - neighbor) for neighbor in neighbors), default=0.0)
    if abs(captured[step] - target) > max(1.5 * spacing, 1e-3):
        raise ValueError(f"No features were captured near sigma {sigma:.4g}: the inversion covered "
                         f"{min(features.sigmas):.4g} to {max(features.sigmas):.4g} in {len(captured)} steps. "
                         "Sample with the sigmas of DDIM Invert, or use the same steps and scheduler for both.")
    return step


def reaches_picture(features: Features, sigma: float) -> bool:
    """Whether `sigma` is below all captured sigmas, so that a sampling that ends there is at the picture."""
    return sigma < min(features.sigmas)


class Reader:
    """Brings features from memory or a file to `device`, one step at a time, and the next while the current is in use.

    A sampling goes down the sigmas that the inversion went up, so step i - 1 is what follows step i. Into a GPU the
    copy runs on a stream of its own beside the computation. Of other steps nothing is held.
    """
    def __init__(self, features: Features, device: torch.device):
        self.features, self.device = features, device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.arriving: dict[int, tuple] = {}

    def read(self, sigma: float) -> dict[Block, Tensor | tuple]:
        """{block: its features, as they are kept} of the step nearest to sigma; ValueError as `nearest_step`."""
        step = nearest_step(self.features, sigma)
        self.arriving = {i: arriving for i, arriving in self.arriving.items() if i in (step, step - 1)}
        for i in (step, step - 1):
            if i >= 0 and i not in self.arriving:
                self.arriving[i] = self.fetch(i)
        kept, copied = self.arriving[step]
        if copied is not None:
            computing = torch.cuda.current_stream(self.device)
            computing.wait_event(copied)
            # The allocator must not give their memory away while the computation still reads them.
            map_tensors(lambda tensor: tensor.record_stream(computing), kept)
        return dict(zip(self.features.blocks, kept))

    def moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=self.stream is not None)

    def fetch(self, step: int) -> tuple:
        """(the step on its way to the device, the event that it is there or None)."""
        with torch.cuda.stream(self.stream) if self.stream else nullcontext():
            kept = map_tensors(self.moved, self.features.source.step(step))
            return kept, self.stream.record_event() if self.stream else None


def batch_slice(value, part: slice, batch: int):
    """`value` with its `part` of each tensor in it whose length is `batch`; others stay whole."""
    def cut(tensor):
        return tensor[part] if tensor.ndim and len(tensor) == batch else tensor

    return map_tensors(cut, value)


def repeat_batch(n: Tensor, batch: int) -> Tensor:
    """n (b, ...) repeated to (batch, ...); a view when b is 1 or batch.

    A sampler's batch holds whole copies of the latent batch, one for each conditioning.
    """
    if len(n) == batch:
        return n
    others = [1] * (n.ndim - 1)
    return n.expand(batch, *n.shape[1:]) if len(n) == 1 else n.repeat(batch // len(n), *others)
