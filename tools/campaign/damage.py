"""Ways to damage a file, or to put something else where it should be."""

import os
import random
import shutil
import struct
import zlib
from pathlib import Path

import numpy
import torch
from PIL import Image


def draw_picture(path: Path, seed: int, size: tuple[int, int] = (64, 64), mode: str = "RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = numpy.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=numpy.uint8)
    Image.fromarray(pixels).convert(mode).save(path, "PNG")


def huge_png() -> bytes:
    """The head of a picture of 60,000 x 60,000 pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + b"\0\0\0\0IDAT"


def several_frames(path: Path):
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])


def with_directory(path: Path):
    remove(path)
    path.mkdir(parents=True)


def remove(path: Path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def with_link(path: Path, target: str):
    remove(path)
    os.symlink(target, path)


def flip_bits(path: Path):
    data = bytearray(path.read_bytes())
    for position in range(len(data) // 3, len(data), max(len(data) // 50, 1)):
        data[position] ^= 0x55
    path.write_bytes(data)


FILES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("this is no such file"),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "bits flipped": flip_bits,
    "a folder": with_directory,
    "missing": remove,
    "a dangling link": lambda path: with_link(path, "nowhere"),
    "a link to itself": lambda path: with_link(path, path.name),
}
PICTURES = FILES | {
    "huge": lambda path: path.write_bytes(huge_png()),
    "one pixel": lambda path: draw_picture(path, 1, (1, 1)),
    "three pixels": lambda path: draw_picture(path, 1, (3, 3)),
    "a strip": lambda path: draw_picture(path, 1, (300, 1)),
    "another size": lambda path: draw_picture(path, 1, (80, 48)),
    "gray": lambda path: draw_picture(path, 1, mode="L"),
    "with alpha": lambda path: draw_picture(path, 1, mode="RGBA"),
    "a palette": lambda path: draw_picture(path, 1, mode="P"),
    "16 bits": lambda path: draw_picture(path, 1, mode="I;16"),
    "several frames": several_frames,
    "black": lambda path: Image.new("RGB", (64, 64)).save(path),
}
WEIGHTS = FILES | {
    "a list": lambda path: torch.save([1, 2, 3], path),
    "other keys": lambda path: torch.save({"layer": torch.ones(3)}, path),
    "other shapes": lambda path: torch.save({name: tensor[..., :1] for name, tensor in torch.load(path).items()}, path),
    "no tensors": lambda path: torch.save(dict.fromkeys(torch.load(path), "value"), path),
    "nan": lambda path: torch.save({name: tensor * float("nan") for name, tensor in torch.load(path).items()}, path),
    "a class": lambda path: torch.save(Path("somewhere"), path),
}
HEADINGS = "content,style,stylized"
TABLES = FILES | {
    "no headings": lambda path: path.write_text(path.read_text().partition("\n")[2]),
    "only headings": lambda path: path.write_text(HEADINGS + "\n"),
    "other headings": lambda path: path.write_text(path.read_text().replace(HEADINGS, "a,b,c")),
    "a short line": lambda path: path.write_text(path.read_text() + "content/a.png\n"),
    "a long line": lambda path: path.write_text(
        path.read_text() + "content/a.png,style/s.png,stylized/a_stylized_s.png,more,and more\n"),
    "empty cells": lambda path: path.write_text(path.read_text() + ",,\n"),
    "blank lines": lambda path: path.write_text(path.read_text() + "\n\n"),
    "utf-16": lambda path: path.write_text(path.read_text(), encoding="utf-16"),
    "a byte order mark": lambda path: path.write_text(path.read_text(), encoding="utf-8-sig"),
    "semicolons": lambda path: path.write_text(path.read_text().replace(",", ";")),
    "an open quote": lambda path: path.write_text(path.read_text() + '"content/a.png,style/s.png\n'),
    "a zero byte": lambda path: path.write_bytes(path.read_bytes() + b"content/\0.png,style/s.png,x.png\n"),
    "a very long cell": lambda path: path.write_text(path.read_text() + "x" * 200_000 + ",style/s.png,y.png\n"),
    "a name that is too long": lambda path: path.write_text(path.read_text() + "x" * 5000 + ".png,style/s.png,y.png\n"),
    "no such pictures": lambda path: path.write_text(path.read_text() + "no.png,no.png,no.png\n"),
}


def damage(rng: random.Random, ways: dict, path: Path) -> str:
    """Damage `path` in one of `ways`; the name of it."""
    name = rng.choice(list(ways))
    ways[name](path)
    return name
