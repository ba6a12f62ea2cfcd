"""How a captured tensor is kept: as it is, in half precision, or in 8 bits with a scale for each token."""

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


def token_bytes(channels: int, storage: str, dtype: torch.dtype) -> int:
    """What `store` makes of one token in `dtype`."""
    return channels + 4 if storage == "int8" else channels * (STORAGES[storage] or dtype).itemsize


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`. From a GPU into RAM nobody waits: it is there once the GPU has been waited for, and pinned."""
    if tensor.is_cuda and device.type == "cpu":
        return torch.empty_like(tensor, device=device, pin_memory=True).copy_(tensor, non_blocking=True)
    return tensor.to(device, non_blocking=device.type == "cuda")


def store(n: Tensor, storage: str, device: torch.device) -> Tensor | Int8:
    """n (batch, tokens, channels) as one of STORAGES, on `device`."""
    if storage == "int8":
        scale = n.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / 127
        return Int8(move((n / scale).round().to(torch.int8), device), move(scale, device))
    return move(n.to(STORAGES[storage] or n.dtype), device)


def restore(kept: Tensor | Int8, like: Tensor) -> Tensor:
    """What `store` was given, in dtype and on the device of `like`."""
    if isinstance(kept, Int8):
        return (kept.values.to(like.device) * kept.scale.to(like.device)).to(like.dtype)
    return kept.to(like)
