"""How a captured tensor is kept: as it is, in half precision, or in 8 bits with a scale for each token."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

STORAGES = {"auto": None, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}  # auto: the model's precision


class Int8(NamedTuple):
    """values (batch, tokens, channels) in -127..127, scale (batch, tokens, 1) in float32."""
    values: Tensor
    scale: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.values.shape


def map_tensors(function, value):
    """`value` with function(tensor) in place of every tensor in its dicts, lists and named tuples."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: map_tensors(function, item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(function, item) for item in value))
    return [map_tensors(function, item) for item in value] if isinstance(value, list) else value


def tensors_in(value) -> Iterator[Tensor]:
    """Those in its dicts, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(item)


def size(value) -> int:
    """Bytes of `tensors_in` it."""
    return sum(tensor.nbytes for tensor in tensors_in(value))


def token_bytes(channels: int, storage: str, dtype: torch.dtype) -> int:
    """What `store` makes of one token in `dtype`."""
    return channels + 4 if storage == "int8" else channels * (STORAGES[storage] or dtype).itemsize


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`. From a GPU into RAM nobody waits: it is there once the GPU has been waited for, and pinned."""
    if tensor.is_cuda and device.type == "cpu":
        return torch.empty_like(tensor, device=device, pin_memory=True).copy_(tensor, non_blocking=True)
    return tensor.to(device, non_blocking=device.type == "cuda")


class Slabs:
    """Pinned memory in pieces of SLAB bytes, shared by many tensors: PyTorch would give each a power of two of its own.

    A GPU copies into it while it computes; a tensor is there once the GPU has been waited for.
    """
    SLAB, ALIGNMENT = 2 ** 26, 256

    def __init__(self, pin_memory: bool = True):
        self.pin_memory, self.free = pin_memory, torch.empty(0, dtype=torch.uint8)

    def keep(self, tensor: Tensor) -> Tensor:
        size = -(-tensor.nbytes // self.ALIGNMENT) * self.ALIGNMENT
        if size > len(self.free):
            self.free = torch.empty(max(size, self.SLAB), dtype=torch.uint8, pin_memory=self.pin_memory)
        place, self.free = self.free[:tensor.nbytes], self.free[size:]
        return place.view(tensor.dtype).view(tensor.shape).copy_(tensor, non_blocking=True)


def store(n: Tensor, storage: str, keep: Callable[[Tensor], Tensor]) -> Tensor | Int8:
    """n (batch, tokens, channels) as one of STORAGES, each of its tensors where `keep` puts it."""
    if storage == "int8":
        scale = n.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / 127
        return Int8(keep((n / scale).round().to(torch.int8)), keep(scale))
    return keep(n.to(STORAGES[storage] or n.dtype))


def restore(kept: Tensor | Int8, like: Tensor) -> Tensor:
    """What `store` was given, in dtype and on the device of `like`."""
    if isinstance(kept, Int8):
        return (kept.values.to(like.device) * kept.scale.to(like.device)).to(like.dtype)
    return kept.to(like)
