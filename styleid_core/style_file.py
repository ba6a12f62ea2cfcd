"""An inverted picture in one safetensors file: noise, features, and what they were made with. Nothing is ever unpickled.

Tensors: noise, latent, sigmas; perhaps noise_mask and picture; and "STEP.BLOCK" for n of a step and block, by their places in the header's
lists, or for int8 "STEP.BLOCK.values" and "STEP.BLOCK.scale". The metadata has a JSON `header` and a `checksum` of everything.
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
from .features import Features, Origin
from .settings import InversionSettings
from .storage import Int8

FORMAT = 2
READ = (1, 2)
SETTINGS_OF_1 = {"steps": "steps", "schedule": "schedule", "denoise": "denoise", "refine": "refine", "inversion": "method"}
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


class InFile(NamedTuple):
    """Features that stay in a file, of which `step` reads one at a time."""
    path: str
    stamp: tuple[int, int]  # of the file that was checked
    indices: list[int]  # of its blocks
    int8: bool

    def only(self, indices: list[int]) -> "InFile":
        return self._replace(indices=[self.indices[k] for k in indices])

    def step(self, i: int) -> list[Tensor | Int8]:
        if stamp_of(self.path) != self.stamp:
            raise ValueError(f"{Path(self.path).name} has changed since it was loaded. Queue again.")
        with safe_open(self.path, "pt") as file:
            return [read(file, f"{i}.{k}", self.int8) for k in self.indices]


def read(file, name: str, int8: bool) -> Tensor | Int8:
    return Int8(*(file.get_tensor(f"{name}.{part}") for part in Int8._fields)) if int8 else file.get_tensor(name)


def stamp_of(path: str) -> tuple[int, int]:
    """Size and time of the last change; (0, 0) where there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def save(inverted: Inverted, path: Path, between: Callable[[], None] = lambda: None):
    """Write `inverted`, whose features are `Kept`, to `path`, which exists only once it is whole. `between` tensors it may be ended.

    ValueError for what `load` would refuse.
    """
    features = inverted.features
    small = {"noise": inverted.noise, "latent": features.latent, "sigmas": inverted.sigmas, "noise_mask": inverted.noise_mask,
             "picture": inverted.picture}
    named = {name: tensor.clone() for name, tensor in small.items() if tensor is not None}  # the format has no place for views
    for i in range(len(features.sigmas)):
        for k, n in enumerate(features.source.step(i)):
            named |= {f"{i}.{k}.{part}": tensor for part, tensor in n._asdict().items()} if isinstance(n, Int8) else {f"{i}.{k}": n}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in sorted(named.items())}
    told = {"format": FORMAT, "sigmas": features.sigmas, "blocks": features.blocks,
            "origin": features.origin and {**features.origin._asdict(), "settings": features.origin.settings._asdict()},
            "place": features.place}
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
    """What `save` has written, features left in the file. ValueError for any file that is not exactly as it was written."""
    stamp = stamp_of(str(path))
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if "header" not in metadata or "checksum" not in metadata:
                raise ValueError("has no features of StyleID")
            header = json.loads(metadata["header"])
            if header["format"] not in READ:
                raise ValueError(f"has the format {str(header['format'])[:20]}, and this version reads {' and '.join(map(str, READ))}")
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
    sigmas, blocks = [float(sigma) for sigma in header["sigmas"]], [Block(str(side), int(n), int(i)) for side, n, i in header["blocks"]]
    noise, latent, sampling = (tensors.pop(name) for name in ("noise", "latent", "sigmas"))
    mask, picture = tensors.pop("noise_mask", None), tensors.pop("picture", None)
    int8 = "0.0.values" in tensors
    parts = [f".{part}" for part in Int8._fields] if int8 else [""]
    names = [[[f"{i}.{k}{part}" for part in parts] for k in range(len(blocks))] for i in range(len(sigmas))]
    wrong = (
        not sigmas or not blocks or len(set(blocks)) < len(blocks)
        or not all(0 < a < b < math.inf for a, b in zip(sigmas, [*sigmas[1:], 1e9]))
        or tensors.keys() != {name for step in names for block in step for name in block}
        or noise.ndim not in (4, 5) or noise.shape != latent.shape or not all(map(finite, (noise, latent, sampling)))
        or sampling.ndim != 1 or len(sampling) < 2 or not (sampling.diff() < 0).all() or sampling[-1] < 0
        or (mask is not None and not finite(mask))
        or (picture is not None and picture.dtype != torch.uint8)
        or not all(fits(*(tensors[name] for name in step[k]), first=tensors[names[0][k][0]], batch=len(latent))
                   for step in names for k in range(len(blocks))))
    if wrong:
        raise ValueError("holds features that do not fit together")
    origin = origin_of(header["origin"]) if header["origin"] else None
    source = InFile(str(path), stamp, list(range(len(blocks))), int8)
    if picture is not None and (picture.ndim != 3 or picture.shape[-1] != 3):
        picture = None  # it is only shown, and a gray one was once written so
    return Inverted(noise, Features(sigmas, blocks, source, latent, origin, int(header.get("place", 0))), sampling, mask, picture)


def origin_of(told: dict) -> Origin:
    """As a header tells it."""
    settings = told["settings"] if "settings" in told else {new: told[old] for old, new in SETTINGS_OF_1.items() if old in told}
    kinds = {name: type(default) for name, default in InversionSettings()._asdict().items()}
    return Origin(str(told["weights"]), str(told["prompt"]),
                  InversionSettings(**{name: kinds[name](value) for name, value in settings.items()}))


def finite(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(tensor.isfinite().all())


def fits(n: Tensor, scale: Tensor | None = None, *, first: Tensor, batch: int) -> bool:
    """Whether n (batch, tokens, channels) is as that of the first step, and a scale as int8 needs it."""
    alike = n.ndim == 3 and len(n) == batch and n.shape == first.shape and n.dtype == first.dtype
    if scale is None:
        return alike and n.is_floating_point()
    return alike and n.dtype == torch.int8 and scale.dtype == torch.float32 and scale.shape == (*n.shape[:2], 1)
