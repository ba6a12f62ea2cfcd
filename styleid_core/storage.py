"""How captured tensors are kept: as they are, in half precision, or in 8 bits with a scale for each token."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

STORAGES = {"auto": None, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}  # auto: the model's own


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
    """Every tensor in its dicts, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(item)


def size(value) -> int:
    """Bytes of its tensors."""
    return sum(tensor.nbytes for tensor in tensors_in(value))


def token_bytes(channels: int, storage: str, dtype: torch.dtype) -> int:
    """That `store` needs for one token in `dtype`."""
    return channels + 4 if storage == "int8" else channels * (STORAGES[storage] or dtype).itemsize


def store(value: Tensor | tuple, storage: str, keep: Callable[[Tensor], Tensor]) -> Tensor | tuple:
    """A tensor (batch, tokens, channels) as one of STORAGES, passed to `keep`; of a named tuple each field."""
    if isinstance(value, tuple):
        return type(value)(*(store(each, storage, keep) for each in value))
    if storage == "int8":
        scale = value.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / 127
        return Int8(keep((value / scale).round().to(torch.int8)), keep(scale))
    return keep(value.to(STORAGES[storage] or value.dtype))


def restore(kept: Tensor | tuple, device: torch.device, dtype: torch.dtype) -> Tensor | tuple:
    """What `store` was given, of int8 nearly so, in `dtype` on `device`."""
    if isinstance(kept, Int8):
        return (kept.values.to(device) * kept.scale.to(device)).to(dtype)
    if isinstance(kept, tuple):
        return type(kept)(*(restore(each, device, dtype) for each in kept))
    return kept.to(device, dtype)
