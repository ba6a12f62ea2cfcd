"""The pictures that are trained on and those that are held back."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from ..demo.draw_style import draw, random_style
from .paint import paint

NEVER_TRAINED = {"styleid", "skimage"}  # the paper's evaluation pairs, and what the demo and the tests show
HELD_BACK = 10  # every tenth picture
PAINTED_WIDTHS = 2, 16  # the narrowest stroke of a painted picture, in pixels of its 512


def find_pictures(folder: Path) -> tuple[list[Path], list[Path]]:
    """(trained on, held back): all pictures below `folder` but the paper's own, which serve neither."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    usable = [path for path in found if not NEVER_TRAINED & set(path.relative_to(folder).parts)]
    if not usable:
        raise FileNotFoundError(f"There is no picture to train on below {folder}.")
    return [path for i, path in enumerate(usable) if i % HELD_BACK], usable[::HELD_BACK]


def draw_pictures(folder: Path, count: int, seed: int, narrowest: tuple[int, int] = (1, 8)) -> list[Path]:
    """Drawn styles at random, with strokes as `random_style` has them, written to `folder` unless they are there."""
    def drawing(i):
        return draw(random_style(numpy.random.default_rng([seed, i]), narrowest), seed=i)

    return written(folder, count, drawing, "Drawing")


def paint_pictures(folder: Path, pictures: list[Path], seed: int) -> list[Path]:
    """The pictures in strokes and colors of drawn styles at random, written to `folder` unless they are there."""
    def painting(i):
        rng = numpy.random.default_rng([seed, i])
        return paint(Image.open(pictures[i]).convert("RGB"), random_style(rng, PAINTED_WIDTHS), rng)

    return written(folder, len(pictures), painting, "Painting")


def written(folder: Path, count: int, make: Callable[[int], Image.Image], doing: str) -> list[Path]:
    """Files of the pictures `make(0)` to `make(count - 1)` in `folder`; only those that are not there are made."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:03}.jpg" for i in range(count)]
    for i, path in enumerate(tqdm(paths, doing, leave=False)):
        if not path.exists():
            make(i).save(path, quality=95)
    return paths


def load_picture(path: Path, short_side: int, multiple: int = 8) -> torch.Tensor:
    """A picture as uint8 (3, H, W), its shorter side resized to `short_side`, both cut to a multiple."""
    picture = ImageOps.cover(Image.open(path).convert("RGB"), (short_side, short_side), Image.Resampling.LANCZOS)
    picture = picture.crop((0, 0, *(side - side % multiple for side in picture.size)))
    return torch.from_numpy(numpy.array(picture)).permute(2, 0, 1)


def load_pictures(paths: list[Path], short_sides: tuple[int, ...]) -> list[torch.Tensor]:
    with ThreadPoolExecutor() as threads:
        return [picture for side in short_sides
                for picture in tqdm(threads.map(partial(load_picture, short_side=side), paths),
                                    f"Loading at {side} pixels", total=len(paths), leave=False)]


def load_squares(paths: list[Path], side: int) -> torch.Tensor:
    """The middle squares as uint8 (B, 3, side, side)."""
    return torch.stack([centre_crop(picture, side) for picture in load_pictures(paths, (side,))])


def to_float(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 to float32 in 0..1."""
    return pictures.float() / 255


class Pool:
    """Pictures or latents (C, H, W) of any sizes, held on `device`; `weights` (members,) say how often each is taken
    beside the others.
    """

    def __init__(self, tensors: list[torch.Tensor], device: torch.device, weights: torch.Tensor | None = None):
        self.flat = torch.cat([tensor.flatten(1) for tensor in tensors], 1).to(device)
        self.sizes = torch.tensor([tensor.shape[-2:] for tensor in tensors])
        areas = self.sizes.prod(1)
        self.starts = areas.cumsum(0) - areas
        self.weights = torch.ones(len(tensors)) if weights is None else weights

    def crops(self, count: int, side: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Crops (count, C, side, side) at random places of random members that are large enough, and the members'
        indices.
        """
        large = self.sizes.amin(1) >= side
        chosen = torch.multinomial(self.weights * large, count, replacement=True, generator=generator)
        sizes = self.sizes[chosen]
        top, left = (torch.rand(count, 2, generator=generator) * (sizes - side + 1)).long().unbind(1)
        first, width = (sent(x, self.flat.device)[:, None, None]
                        for x in (self.starts[chosen] + top * sizes[:, 1] + left, sizes[:, 1]))
        across = torch.arange(side, device=self.flat.device)
        return self.flat[:, first + across[:, None] * width + across].movedim(0, 1), chosen


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on `device`, without a wait for what a GPU still has to do."""
    return tensor if tensor.device.type == device.type else tensor.pin_memory().to(device, non_blocking=True)


def centre_crop(tensor: torch.Tensor, side: int) -> torch.Tensor:
    top, left = ((length - side) // 2 for length in tensor.shape[-2:])
    return tensor[..., top:top + side, left:left + side]
