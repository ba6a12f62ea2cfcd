"""Two pictures in, a stylized one out, by the five nodes on ComfyUI's own classes in this process."""

import importlib
import io
import os
from functools import cached_property
from pathlib import Path

import numpy
import torch
from PIL import Image

import tools.in_process  # noqa: F401

# isort: split
import comfy.utils
import folder_paths

import nodes

from ..demo.transfer import Inverted, Transfer
from ..pack import load_pack
from .method import Method, Picture


def as_png(image: torch.Tensor) -> bytes:
    """Of an IMAGE (1, H, W, 3), rounded as ComfyUI's Save Image does."""
    png = io.BytesIO()
    Image.fromarray((255 * image[0].cpu().numpy()).clip(0, 255).astype(numpy.uint8)).save(png, "png")
    return png.getvalue()


def features_in_file(inverted: Inverted, path: Path) -> Inverted:
    """The same, with features that lie in `path` and take no memory."""
    # The pack has a styleid_core of its own, and its nodes take no classes but those.
    style_file = importlib.import_module(f"{type(inverted.features).__module__.rpartition('.')[0]}.style_file")
    style_file.save(style_file.Inverted(inverted.noise["samples"], inverted.features, inverted.sigmas), path)
    return inverted._replace(features=style_file.load(path).features)


class Stylizer:
    """Inverts each picture once. Inversions of the side `in_files` ("content", "style") stay in files in `folder`, of
    the other side the last one stays in memory.
    """

    def __init__(self, method: Method, checkpoint: Path | None, folder: Path, in_files: str):
        self.method, self.checkpoint, self.in_files = method, checkpoint, in_files
        self.folder = folder / str(os.getpid())
        self.folder.mkdir(parents=True)
        self.inversions: dict[str, dict[Path, Inverted]] = {"content": {}, "style": {}}
        comfy.utils.set_progress_bar_enabled(False)

    @cached_property
    def transfer(self) -> Transfer:
        """Loaded by the first picture, so that a checkpoint which cannot be loaded is why there is none."""
        transfer = Transfer(load_pack(), self.method.schedule, self.method.steps, self.method.refine,
                            self.method.built_in == "transformer", self.checkpoint)
        transfer.blocks = self.method.blocks
        return transfer

    @torch.inference_mode()
    def stylize(self, picture: Picture, content: bytes, style: bytes) -> bytes | str:
        """The PNG, from what is in the files of content and style, or the sentence why there is none."""
        try:
            inverted = self.inverted("content", picture.content, content), self.inverted("style", picture.style, style)
            more = {"weight": self.method.weight, **picture.setting._asdict()}
            if self.method.built_in == "transformer" and self.checkpoint is None:
                more["positions"] = self.method.place, 0.5, 1.5  # the node's default frequencies
            if self.method.gamma_curve:
                shape, start, end = self.method.gamma_curve
                [more["gamma_curve"]] = self.transfer.pack.StyleIDCurve(shape=shape, start=start, end=end)
            latent = self.transfer.stylize(*inverted, self.method.color_strength, **more)
            return as_png(self.transfer.decode(latent))
        except Exception as error:  # noqa: BLE001  whatever a node raises, the other pictures go on
            return str(error).strip() or type(error).__name__

    def inverted(self, side: str, path: Path, data: bytes) -> Inverted:
        known = self.inversions[side]
        if path not in known:
            if side != self.in_files:
                known.clear()
            inverted = self.transfer.invert(self.square(data, path.suffix))
            if side == self.in_files:
                inverted = features_in_file(inverted, self.folder / f"{len(known)}.safetensors")
            known[path] = inverted
        return known[path]

    def square(self, data: bytes, suffix: str) -> torch.Tensor:
        """IMAGE (1, side, side, 3), as ComfyUI's LoadImage and ImageScale make it."""
        file = self.folder / f"picture{suffix}"
        file.write_bytes(data)
        folder_paths.set_input_directory(str(self.folder))
        image, _ = nodes.LoadImage().load_image(file.name)
        return nodes.ImageScale().upscale(image, "lanczos", self.method.side, self.method.side, "center")[0]
