"""Which stylized picture belongs to which content and style."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy
import torch
from PIL import Image, ImageOps

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
SEPARATOR = "_stylized_"
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # Pillow's for broken files, by format


class Pair(NamedTuple):
    content: Path
    style: Path
    stylized: Path


def pictures_in(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by their names without suffix."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICTURES}


def pairs_by_name(contents: Path, styles: Path, stylized: Path) -> list[Pair]:
    """The paper's protocol: `<content>_stylized_<style>.png` for every pair, whose pictures have to be there."""
    content_of, style_of = pictures_in(contents), pictures_in(styles)
    pairs = []
    for name, path in pictures_in(stylized).items():
        content, found, style = name.partition(SEPARATOR)
        if not found:
            continue
        for stem, known, folder in ((content, content_of, contents), (style, style_of, styles)):
            if stem not in known:
                raise FileNotFoundError(f"{path.name} names a picture {stem}, and there is none in {folder}.")
        pairs.append(Pair(content_of[content], style_of[style], path))
    if not pairs:
        raise FileNotFoundError(f"No picture in {stylized} is named <content>{SEPARATOR}<style>.png.")
    return pairs


def pairs_of_table(table: Path) -> tuple[list[Pair], list[tuple[str, str]]]:
    """From a CSV with the columns content, style and stylized, whose paths are relative to it; and [(line, why it is
    left out)].
    """
    (_, headings), *lines = rows_of(table) or [(1, [])]
    if not lines or not set(Pair._fields) <= set(headings):
        raise ValueError(f"{table} needs a line of headings, content, style and stylized, and a line for each pair "
                         "below.")
    pairs, skipped = [], []
    for line, cells in lines:
        row = dict(zip(headings, cells))
        missing = [field for field in Pair._fields if not row.get(field)]
        if missing:
            skipped.append((f"{table.name}, line {line}", f"it has no {' and no '.join(missing)}"))
        else:
            pairs.append(Pair(*(table.parent / row[field] for field in Pair._fields)))
    return pairs, skipped


def rows_of(table: Path) -> list[tuple[int, list[str]]]:
    """(line, cells) of each row with any, separated as the headings are; ValueError where a quote stays open."""
    rows, line = [], 1
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            separator = max(",;\t", key=file.readline().count)
            file.seek(0)
            reader = csv.reader(file, delimiter=separator, strict=True)
            for cells in reader:
                rows += [(line, cells)] if any(cells) else []
                line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{table}, line {line}: {error}. A cell that begins with a quote should end with "
                         "one.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{table} should be UTF-8: {error}. Excel saves it so as CSV UTF-8.") from error
    return rows


def read(path: Path, like: torch.Tensor | None = None) -> torch.Tensor:
    """(3, H, W) in 0..1; with `like` cut in the middle and resized to the size of that picture."""
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image).convert("RGB")
    if like is not None and image.size != (like.shape[2], like.shape[1]):
        image = ImageOps.fit(image, (like.shape[2], like.shape[1]), Image.Resampling.LANCZOS)
    return torch.from_numpy(numpy.array(image)).movedim(-1, 0).float() / 255
