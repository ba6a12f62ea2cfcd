"""An inverted picture in one safetensors file: noise, features, and what they were made with. Nothing is ever
unpickled.

Tensors: noise, latent, sigmas; perhaps noise_mask and picture; and "STEP.BLOCK" for the features of a step and block,
by their index in the header's lists. Transformers add .q, .k and .v, int8 adds .values and .scale. Version 1 has q, k
and v in one tensor, side by side. The metadata has a JSON `header` and a `checksum` of everything.
"""

import hashlib
import json
import math
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .blocks import Block
from .features import Features, Origin, Tokens
from .settings import InversionSettings
from .storage import Int8

FORMAT = 2
READ = (1, 2)
SETTINGS_OF_1 = {"steps": "steps", "schedule": "schedule", "denoise": "denoise", "refine": "refine",
                 "inversion": "method"}
SUFFIX = ".safetensors"
AGAIN = "Save the features again."


class Inverted(NamedTuple):
    """What one DDIM inversion gives.

    noise       (B, C, H, W)         to sample from at sigmas[0]
    features    of the same B pictures
    sigmas      (M + 1,)             to sample with
    noise_mask  (B or 1, ..., h, w)  ComfyUI's mask of the latent, or None
    picture     (h, w, 3) uint8      a small copy of what was inverted, or None
    """
    noise: Tensor
    features: Features
    sigmas: Tensor
    noise_mask: Tensor | None = None
    picture: Tensor | None = None


class Form(NamedTuple):
    """What stands in a file for the features of a block: whether Tokens or n, and whether in int8."""
    tokens: bool
    int8: bool

    def names(self, name: str) -> list[str]:
        """Of all tensors that stand for `name`."""
        parts = [f"{name}.{part}" for part in Tokens._fields] if self.tokens else [name]
        return [f"{part}.{field}" for part in parts for field in Int8._fields] if self.int8 else parts

    def read(self, get: Callable[[str], Tensor], name: str) -> Tensor | tuple:
        """`get(name)` gives a tensor."""
        if self.tokens:
            return Tokens(*(self._replace(tokens=False).read(get, f"{name}.{part}") for part in Tokens._fields))
        return Int8(*(get(f"{name}.{field}") for field in Int8._fields)) if self.int8 else get(name)


class InFile(NamedTuple):
    """Leaves features in a file; `step` reads those of one step."""
    path: str
    stamp: tuple[int, int]  # of the file that was checked
    indices: list[int]  # of its blocks
    form: Form

    def only(self, indices: list[int]) -> "InFile":
        return self._replace(indices=[self.indices[k] for k in indices])

    def step(self, i: int) -> list[Tensor | tuple]:
        if stamp_of(self.path) != self.stamp:
            raise ValueError(f"{Path(self.path).name} has changed since it was loaded. Queue again.")
        with safe_open(self.path, "pt") as file:
            return [self.form.read(file.get_tensor, f"{i}.{k}") for k in self.indices]


def named_tensors(name: str, value: Tensor | tuple) -> dict[str, Tensor]:
    """{name: tensor} of a block's features, as `Form.read` reads them."""
    if isinstance(value, Tensor):
        return {name: value}
    return {key: tensor for part, each in value._asdict().items()
            for key, tensor in named_tensors(f"{name}.{part}", each).items()}


def stamp_of(path: str) -> tuple[int, int]:
    """Size and time of the last change; (0, 0) where there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def save(inverted: Inverted, path: Path, between: Callable[[], None] = lambda: None):
    """Write `inverted`, whose features are `Kept`, to `path`, which exists only once it is whole. `between` tensors it
    may be ended.

    ValueError for what `load` would refuse.
    """
    features = inverted.features
    small = {"noise": inverted.noise, "latent": features.latent, "sigmas": inverted.sigmas,
             "noise_mask": inverted.noise_mask, "picture": inverted.picture}
    # The format has no place for views.
    named = {name: tensor.clone() for name, tensor in small.items() if tensor is not None}
    for i in range(len(features.sigmas)):
        for k, value in enumerate(features.source.step(i)):
            named |= named_tensors(f"{i}.{k}", value)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in sorted(named.items())}
    told = {"format": FORMAT, "sigmas": features.sigmas, "blocks": features.blocks,
            "origin": features.origin and {**features.origin._asdict(), "settings": features.origin.settings._asdict()},
            "position": features.position}
    checked(path, (0, 0), told, tensors.copy())  # what is written can be read
    header = json.dumps(told)
    part = path.with_name(path.name + ".part")
    try:
        save_file(tensors, part, {"header": header, "checksum": checksum(header, tensors, between)})
        part.replace(path)
    except SafetensorError as error:
        raise OSError(f"{path.name} could not be written: {error}.") from error
    finally:
        part.unlink(missing_ok=True)


def checksum(header: str, tensors, between: Callable[[], None]) -> str:
    """Of the header, and of name, shape, type and values of all `tensors`, {name: tensor}."""
    sha = hashlib.sha256(header.encode())
    for name, tensor in tensors.items():
        between()
        values = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy())
        sha.update(f"{name} {tensor.dtype} {list(tensor.shape)} {values}".encode())
    return sha.hexdigest()


def load(path: Path, between: Callable[[], None] = lambda: None) -> Inverted:
    """What `save` has written, features left in the file. ValueError for a file that is not as it was written."""
    stamp = stamp_of(str(path))
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if "header" not in metadata or "checksum" not in metadata:
                raise ValueError("has no features of StyleID")
            header = json.loads(metadata["header"])
            if header["format"] not in READ:
                raise ValueError(f"has the format {str(header['format'])[:20]}, and this version reads "
                                 f"{' and '.join(map(str, READ))}")
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
            if checksum(metadata["header"], tensors, between) != metadata["checksum"]:
                raise ValueError("is damaged: its checksum differs")
            return checked(path, stamp, header, tensors)
    except SafetensorError as error:
        raise ValueError(f"{path.name} is no whole safetensors file ({error}). {AGAIN}") from error
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError, json.JSONDecodeError) as error:
        raise ValueError(f"{path.name} is not as Save StyleID Features writes it. {AGAIN}") from error
    except ValueError as error:
        raise ValueError(f"{path.name} {error}. {AGAIN}") from error
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror or error}.") from error


def checked(path: Path, stamp: tuple[int, int], header: dict, tensors: dict[str, Tensor]) -> Inverted:
    """ValueError for contents that do not fit together, however right their checksum is."""
    sigmas = [float(sigma) for sigma in header["sigmas"]]
    blocks = [Block(str(side), int(number), int(index)) for side, number, index in header["blocks"]]
    noise, latent, sampling = (tensors.pop(name) for name in ("noise", "latent", "sigmas"))
    mask, picture = tensors.pop("noise_mask", None), tensors.pop("picture", None)
    form = Form(any(name.startswith("0.0.q") for name in tensors), any(name.endswith(".values") for name in tensors))
    names = [[f"{i}.{k}" for k in range(len(blocks))] for i in range(len(sigmas))]
    wrong = (
        not sigmas or not blocks or len(set(blocks)) < len(blocks)
        or not all(0 < a < b < math.inf for a, b in zip(sigmas, [*sigmas[1:], 1e9]))
        or tensors.keys() != {part for step in names for name in step for part in form.names(name)}
        or noise.ndim not in (4, 5) or noise.shape != latent.shape or not all(map(finite, (noise, latent, sampling)))
        or sampling.ndim != 1 or len(sampling) < 2 or not (sampling.diff() < 0).all() or sampling[-1] < 0
        or (mask is not None and not finite(mask))
        or (picture is not None and picture.dtype != torch.uint8)
        or not all(fits(form.read(tensors.get, name), form.read(tensors.get, first), len(latent))
                   for step in names for name, first in zip(step, names[0])))
    if wrong:
        raise ValueError("holds features that do not fit together")
    origin = origin_of(header["origin"]) if header["origin"] else None
    source = InFile(str(path), stamp, list(range(len(blocks))), form)
    position = int(header.get("position", header.get("place", 0)))  # "place" in version 1
    if picture is not None and (picture.ndim != 3 or picture.shape[-1] != 3):
        picture = None  # it is only shown, and a gray one was once written so
    return Inverted(noise, Features(sigmas, blocks, source, latent, origin, position), sampling, mask, picture)


def origin_of(told: dict) -> Origin:
    """As a header tells it."""
    of_1 = {new: told[old] for old, new in SETTINGS_OF_1.items() if old in told}
    settings = told.get("settings", of_1)
    kinds = {name: type(default) for name, default in InversionSettings()._asdict().items()}
    return Origin(str(told["weights"]), str(told["prompt"]),
                  InversionSettings(**{name: kinds[name](value) for name, value in settings.items()}))


def finite(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(tensor.isfinite().all())


def fits(value: Tensor | tuple, first: Tensor | tuple, batch: int) -> bool:
    """Whether features of a block are whole, and as those of the first step."""
    if isinstance(value, Tokens):
        return value.q.shape[1:-1] == value.k.shape[1:-1] == value.v.shape[1:-1] and all(
            fits(each, of_first, batch) for each, of_first in zip(value, first))
    if isinstance(value, Int8):
        return (fits_shape(value.values, first.values, batch) and value.values.dtype == torch.int8
                and value.scale.dtype == torch.float32 and value.scale.shape == (*value.values.shape[:2], 1))
    return fits_shape(value, first, batch) and value.is_floating_point()


def fits_shape(n: Tensor, first: Tensor, batch: int) -> bool:
    return n.ndim == 3 and len(n) == batch and n.shape == first.shape and n.dtype == first.dtype
