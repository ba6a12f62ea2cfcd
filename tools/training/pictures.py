"""The pictures that are trained on and those that are held back."""

from pathlib import Path

import numpy
import torch
from PIL import Image
from tqdm import tqdm

from ..demo.draw_style import draw, random_style

NEVER_TRAINED = {"styleid", "skimage"}  # the paper's evaluation pairs, and what the demo and the tests show
HELD_BACK = 10  # every tenth picture


def find_pictures(folder: Path) -> tuple[list[Path], list[Path]]:
    """(trained on, held back): all pictures below `folder` but the paper's own, which serve neither."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    usable = [path for path in found if not NEVER_TRAINED & set(path.relative_to(folder).parts)]
    if not usable:
        raise FileNotFoundError(f"There is no picture to train on below {folder}.")
    return [path for i, path in enumerate(usable) if i % HELD_BACK], usable[::HELD_BACK]


def draw_pictures(folder: Path, count: int, seed: int, narrowest: tuple[int, int] = (1, 8)) -> list[Path]:
    """Drawn styles at random, with strokes as `random_style` has them, written to `folder` unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:03}.jpg" for i in range(count)]
    for i, path in enumerate(tqdm(paths, "Drawing", leave=False)):
        if not path.exists():
            draw(random_style(numpy.random.default_rng([seed, i]), narrowest), seed=i).save(path, quality=95)
    return paths


def load_picture(path: Path, short_side: int, multiple: int = 8) -> torch.Tensor:
    """A picture as uint8 (3, H, W), its shorter side resized to `short_side`, both cut to a multiple."""
    picture = Image.open(path).convert("RGB")
    scale = short_side / min(picture.size)
    size = [round(side * scale) for side in picture.size]
    picture = picture.resize(size, Image.Resampling.LANCZOS).crop((0, 0, *(side - side % multiple for side in size)))
    return torch.from_numpy(numpy.array(picture)).permute(2, 0, 1)


def load_pictures(paths: list[Path], short_sides: tuple[int, ...]) -> list[torch.Tensor]:
    return [load_picture(path, side) for side in short_sides for path in tqdm(paths, f"Loading at {side} pixels", leave=False)]


def load_squares(paths: list[Path], side: int) -> torch.Tensor:
    """The middle squares as uint8 (B, 3, side, side)."""
    return torch.stack([centre_crop(picture, side) for picture in load_pictures(paths, (side,))])


def to_float(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 to float32 in 0..1."""
    return pictures.float() / 255


def random_crops(tensors: list[torch.Tensor], count: int, side: int, generator: torch.Generator,
                 weights: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops (count, C, side, side) of random members that are large enough at random places, and the members' indices.

    `weights` (members,) say how often each is taken beside the others.
    """
    large = torch.tensor([float(min(tensor.shape[-2:]) >= side) for tensor in tensors])
    chosen = torch.multinomial(large if weights is None else large * weights, count, replacement=True, generator=generator)
    crops = []
    for i in chosen.tolist():
        top, left = (torch.randint(length - side + 1, (1,), generator=generator).item() for length in tensors[i].shape[-2:])
        crops.append(tensors[i][:, top:top + side, left:left + side])
    return torch.stack(crops), chosen


def centre_crop(tensor: torch.Tensor, side: int) -> torch.Tensor:
    top, left = ((length - side) // 2 for length in tensor.shape[-2:])
    return tensor[..., top:top + side, left:left + side]
