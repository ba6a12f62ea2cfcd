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


def token_bytes(channels: int, storage: str, dtype: torch.dtype) -> int:
    """What `store` makes of one token in `dtype`."""
    return channels + 4 if storage == "int8" else channels * (STORAGES[storage] or dtype).itemsize


def store(n: Tensor, storage: str, device: torch.device) -> Tensor | Int8:
    """n (batch, tokens, channels) as one of STORAGES, on `device`."""
    if storage == "int8":
        scale = n.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / 127
        return Int8((n / scale).round().to(torch.int8).to(device), scale.to(device))
    return n.to(STORAGES[storage] or n.dtype).to(device)


def restore(kept: Tensor | Int8, like: Tensor) -> Tensor:
    """What `store` was given, in dtype and on the device of `like`."""
    if isinstance(kept, Int8):
        return (kept.values.to(like.device) * kept.scale.to(like.device)).to(like.dtype)
    return kept.to(like)
