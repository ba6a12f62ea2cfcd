"""The pictures that are trained on and those that are held back."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from ..demo.draw_style import draw, random_style
from .paint import paint

NEVER_TRAINED = {"styleid", "skimage"}  # the paper's evaluation pairs, and what the demo and the tests show
HELD_BACK = 10  # every tenth picture
PAINTED_WIDTHS = 2, 16  # the narrowest stroke of a painted picture, in pixels of its 512
PROMPT_OF_FOLDER = {"coco256": "photograph", "kodak24": "photograph", "paintings_western": "western painting",
                    "paintings_met_cc0": "western painting", "paintings_chinese": "chinese painting"}


class Data(NamedTuple):
    """Files of pictures, and where networks see them; `strokes` are drawn ones among those to train on."""
    training: list[Path]
    strokes: list[Path]
    held_back: list[Path]
    device: torch.device


def gather(images: Path, folder: Path, device: torch.device) -> Data:
    """The pictures below `images`, and others drawn and painted, which are kept in `folder`."""
    found, held_back = find_pictures(images)
    colored = [path for path in found if prompt_of(path) != "chinese painting"]  # of ink there is enough
    drawn = draw_pictures(folder / "drawn", 96, seed=0, narrowest=(1, 8))
    strokes = draw_pictures(folder / "strokes", 192, seed=1, narrowest=(4, 12))
    broad = draw_pictures(folder / "broad", 96, seed=2, narrowest=(10, 22))
    painted = paint_pictures(folder / "painted", colored, seed=3)
    return Data(found + painted + drawn + strokes + broad, strokes, held_back, device)


def find_pictures(folder: Path) -> tuple[list[Path], list[Path]]:
    """(trained on, held back): all pictures below `folder` but the paper's own, which serve neither."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    usable = [path for path in found if not NEVER_TRAINED & set(path.relative_to(folder).parts)]
    if not usable:
        raise FileNotFoundError(f"There is no picture to train on below {folder}.")
    return [path for i, path in enumerate(usable) if i % HELD_BACK], usable[::HELD_BACK]


def prompt_of(path: Path) -> str:
    """What stands for the picture's folder."""
    return PROMPT_OF_FOLDER.get(path.parent.name, "empty prompt")


def draw_pictures(folder: Path, count: int, seed: int, narrowest: tuple[int, int]) -> list[Path]:
    """Drawn styles at random, with strokes as `random_style` has them."""
    return written(folder, count, lambda i: draw(random_style(numpy.random.default_rng([seed, i]), narrowest), seed=i))


def paint_pictures(folder: Path, pictures: list[Path], seed: int) -> list[Path]:
    """The pictures in strokes and colors of drawn styles at random."""
    def painting(i):
        rng = numpy.random.default_rng([seed, i])
        return paint(Image.open(pictures[i]).convert("RGB"), random_style(rng, PAINTED_WIDTHS), rng)

    return written(folder, len(pictures), painting)


def written(folder: Path, count: int, make: Callable[[int], Image.Image]) -> list[Path]:
    """Files of the pictures `make(0)` to `make(count - 1)` in `folder`; only those that are not there are made."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:03}.jpg" for i in range(count)]
    for i, path in enumerate(tqdm(paths, f"Making {folder.name} pictures")):
        if not path.exists():
            make(i).save(path, quality=95)
    return paths


def load_pictures(paths: list[Path], short_sides: tuple[int, ...]) -> list[torch.Tensor]:
    """uint8 (3, H, W), all at each size of the shorter side, both sides cut to a multiple of 8."""
    return [load_picture(path, side) for side in short_sides for path in paths]


def load_picture(path: Path, short_side: int) -> torch.Tensor:
    picture = ImageOps.cover(Image.open(path).convert("RGB"), (short_side, short_side), Image.Resampling.LANCZOS)
    picture = picture.crop((0, 0, *(side - side % 8 for side in picture.size)))
    return torch.from_numpy(numpy.array(picture)).permute(2, 0, 1)


class Pool:
    """Pictures or latents (C, H, W) of any sizes, held on `device`; `weights` (members,) say how often each is taken
    beside the others.
    """

    def __init__(self, members: list[torch.Tensor], device: torch.device, weights: torch.Tensor | None = None):
        self.members = [member.to(device) for member in members]
        self.weights = torch.ones(len(members)) if weights is None else weights
        self.sizes = torch.tensor([member.shape[1:] for member in members])

    def crops(self, count: int, side: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Crops (count, C, side, side) at random places of random members that are large enough, and the members'
        indices.
        """
        large = self.sizes.amin(1) >= side
        chosen = torch.multinomial(self.weights * large, count, replacement=True, generator=generator)
        corners = (torch.rand(count, 2, generator=generator) * (self.sizes[chosen] - side + 1)).long()
        return torch.stack([self.members[i][:, top:top + side, left:left + side]
                            for i, (top, left) in zip(chosen.tolist(), corners.tolist())]), chosen
