"""Which pictures are to be made, and the files that tell which are there."""

import json
from itertools import product
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from styleid_core.metrics.pairs import PICTURES, SEPARATOR, UNREADABLE

from ..host import HostError, say


class Method(NamedTuple):
    """What all pictures of a folder have in common; checkpoint is a file's name, or None for a model that is `built_in`
    ("unet", "transformer"), place where the built-in transformer sees a style, as StyleID Positions names it, and
    gamma_curve what StyleID Curve gets: shape, start, end.
    """
    checkpoint: str | None = None
    built_in: str = "unet"
    steps: int = 50
    side: int = 512
    blocks: str = "auto"
    schedule: str = "official"
    color_strength: float = 1.0
    refine: int = 0
    weight: float = 1.0
    place: str = "diagonal"
    gamma_curve: tuple[str, float, float] | None = None


class Setting(NamedTuple):
    gamma: float
    temperature: float

    @property
    def name(self) -> str:
        return f"gamma_{self.gamma:g}_temperature_{self.temperature:g}"


class Picture(NamedTuple):
    """One to be made."""
    content: Path
    style: Path
    setting: Setting

    @property
    def name(self) -> str:
        return f"{self.content.stem}{SEPARATOR}{self.style.stem}"

    def path(self, out: Path) -> Path:
        return out / self.setting.name / f"{self.name}.png"

    def read(self) -> tuple[bytes, bytes]:
        return self.content.read_bytes(), self.style.read_bytes()


def write_whole(path: Path, data: bytes):
    """Write a file that is there as a whole or not at all, and the folder it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def check_method(out: Path, method: Method):
    """HostError when the folder `out` was begun with another method, which method.json tells."""
    path, wanted = out / "method.json", json.dumps(method._asdict(), indent=1)
    if not path.exists():
        write_whole(path, wanted.encode())
    found, wanted = Method._field_defaults | json.loads(path.read_text(encoding="utf-8")), json.loads(wanted)
    different = [f"{name} {found[name]} (now {wanted[name]})" for name in wanted if found[name] != wanted[name]]
    if different:
        raise HostError(f"{out} was begun with {', '.join(different)}. Name another folder with --out.")


def readable_pictures(folder: Path) -> tuple[list[Path], int]:
    """(pictures of one frame directly in `folder`, number of those left out); HostError when none is left."""
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURES)
    readable = []
    for path in paths:
        try:
            with Image.open(path) as picture:
                picture.load()
                if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
                    raise ValueError("it has several frames")
            readable.append(path)
        except UNREADABLE as error:
            say(f"Skipping {path.name}, which cannot be read: {error}")
    if not readable:
        raise HostError(f"There is no readable picture ({', '.join(sorted(PICTURES))}) in {folder}.")
    return readable, len(paths) - len(readable)


def all_pictures(contents: list[Path], styles: list[Path], settings: list[Setting]) -> list[Picture]:
    """HostError for two with one name."""
    pictures: dict[Path, Picture] = {}
    for picture in (Picture(*each) for each in product(contents, styles, settings)):
        other = pictures.setdefault(picture.path(Path()), picture)
        if other != picture:
            raise HostError(f"{other.content.name} with {other.style.name} and {picture.content.name} with "
                            f"{picture.style.name} would both be written to {picture.name}.png. Rename one of them.")
    return list(pictures.values())
