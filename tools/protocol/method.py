"""Which pictures are to be made, and the files that tell which are there."""

import json
from itertools import product
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from styleid_core.metrics.pairs import PICTURES, UNREADABLE

from ..host import HostError, say


class Method(NamedTuple):
    """What all pictures of a folder have in common; checkpoint is a name that ComfyUI lists, or None for a model that
    is `built_in` ("unet", "transformer"), and gamma_curve what StyleID Curve gets: shape, start, end.
    """
    checkpoint: str | None
    side: int
    steps: int
    blocks: str
    schedule: str
    gamma_curve: tuple[str, float, float] | None = None
    color_strength: float = 1.0
    refine: int = 0
    built_in: str = "unet"


class Setting(NamedTuple):
    gamma: float
    temperature: float

    @property
    def name(self) -> str:
        return f"gamma_{self.gamma:g}_temperature_{self.temperature:g}"


class Pair(NamedTuple):
    content: Path
    style: Path

    @property
    def name(self) -> str:
        return f"{self.content.stem}_stylized_{self.style.stem}"


def write_whole(path: Path, data: bytes):
    """Write a file that is there as a whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def check_readable(path: Path):
    """ValueError, or what Pillow raises, for what is no picture of one frame."""
    with Image.open(path) as picture:
        picture.load()
        if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
            raise ValueError("it has several frames")


def readable_pictures(folder: Path) -> tuple[list[Path], int]:
    """(pictures directly in `folder`, number of those left out because they cannot be read); HostError when none is
    left.
    """
    if not folder.is_dir():
        raise HostError(f"There is no folder {folder}.")
    readable, unreadable = [], 0
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES):
        try:
            check_readable(path)
            readable.append(path)
        except UNREADABLE as error:
            say(f"Skipping {path.name}, which cannot be read: {error}")
            unreadable += 1
    if not readable:
        raise HostError(f"There is no readable picture ({', '.join(sorted(PICTURES))}) in {folder}.")
    return readable, unreadable


def all_pairs(contents: list[Path], styles: list[Path]) -> list[Pair]:
    """HostError for two pairs with one name."""
    pairs: dict[str, Pair] = {}
    for style, content in product(styles, contents):
        pair = Pair(content, style)
        other = pairs.setdefault(pair.name, pair)
        if other != pair:
            raise HostError(f"{other.content.name} with {other.style.name} and {content.name} with {style.name} would "
                            f"both be written to {pair.name}.png. Rename one of them.")
    return list(pairs.values())


def check_method(folder: Path, method: Method):
    """HostError when `folder` holds pictures that were made by another method."""
    path = folder / "method.json"
    wanted = json.loads(json.dumps(method._asdict()))
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(wanted, indent=1).encode())
    found = Method._field_defaults | json.loads(path.read_text(encoding="utf-8"))
    different = [f"{name} {found[name]} (now {wanted[name]})" for name in wanted if found[name] != wanted[name]]
    if different:
        raise HostError(f"{folder} was begun with {', '.join(different)}. Name another folder with --out.")


def sides(pairs: list[Pair]) -> tuple[str, str]:
    """(that which is gone through picture by picture, that whose inversions are kept in files), of which the second has
    fewer pictures.
    """
    styles, contents = (len({getattr(pair, side) for pair in pairs}) for side in ("style", "content"))
    return ("content", "style") if contents > styles else ("style", "content")


class Results:
    """The pictures of all pairs at all settings. One is done when its file is there, and is tried once when it failed.
    """

    def __init__(self, folder: Path, pairs: list[Pair], settings: list[Setting]):
        self.folder, self.pairs, self.settings = folder, pairs, settings
        self.failed: set[tuple[Pair, Setting]] = set()
        self.total = len(pairs) * len(settings)
        for setting in settings:
            (folder / setting.name).mkdir(parents=True, exist_ok=True)
        self.bar = tqdm(desc="Stylizing", total=self.total, initial=self.done, unit="picture",
                        disable=self.done == self.total)

    def path(self, pair: Pair, setting: Setting) -> Path:
        return self.folder / setting.name / f"{pair.name}.png"

    def missing(self, pair: Pair) -> list[Setting]:
        return [setting for setting in self.settings if not self.path(pair, setting).exists()
                and (pair, setting) not in self.failed]

    def keep(self, pair: Pair, setting: Setting, outcome: bytes | str):
        """Write a PNG, or tell and count why there is none."""
        if isinstance(outcome, str):
            self.failed.add((pair, setting))
            tqdm.write(f"[styleid] {pair.name} ({setting.name}) failed: {outcome}")
        else:
            write_whole(self.path(pair, setting), outcome)
        self.bar.update()

    @property
    def done(self) -> int:
        return sum(self.path(pair, setting).exists() for pair in self.pairs for setting in self.settings)

    @property
    def left(self) -> list[Pair]:
        return [pair for pair in self.pairs if self.missing(pair)]
