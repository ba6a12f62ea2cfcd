"""What the scores and the pictures look like."""

from itertools import groupby
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image, ImageOps

from .method import Results, Setting
from .report import Row, measured

SHOWN = 6  # contents and styles of a contact sheet
TILE, GAP = 160, 4


def draw_plots(rows: list[Row], folder: Path):
    """Those for which every setting has the scores."""
    names = set(measured(rows))
    if "artfid" in names:
        draw_artfid(rows, folder / "artfid_against_gamma.png")
    if {"fid", "lpips"} <= names:
        draw_fid_against_lpips(rows, folder / "fid_against_lpips.png")


def draw_artfid(rows: list[Row], path: Path):
    figure, axis = plt.subplots(figsize=(5, 3.6), layout="constrained")
    ordered = sorted(rows, key=lambda row: (row.setting.temperature, row.setting.gamma))
    for temperature, line in groupby(ordered, lambda row: row.setting.temperature):
        points = [(row.setting.gamma, row.mean("artfid")) for row in line]
        axis.plot(*zip(*points), marker="o", label=f"temperature {temperature:g}")
    axis.set(xlabel="gamma", ylabel="ArtFID (lower is better)")
    axis.legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_fid_against_lpips(rows: list[Row], path: Path):
    figure, axis = plt.subplots(figsize=(5, 3.6), layout="constrained")
    for row in rows:
        point = row.mean("lpips"), row.mean("fid")
        axis.plot(*point, "o", color="tab:blue")
        axis.annotate(f"{row.setting.gamma:g}, {row.setting.temperature:g}", point, xytext=(5, 3),
                      textcoords="offset points", fontsize=8)
    axis.set(title="each point: gamma, temperature", xlabel="LPIPS: distance to the content",
             ylabel="FID: distance to the styles")
    axis.margins(x=0.25, y=0.15)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def tile(path: Path) -> Image.Image:
    """The middle of a picture, as it was stylized."""
    return ImageOps.fit(ImageOps.exif_transpose(Image.open(path)).convert("RGB"), (TILE, TILE),
                        Image.Resampling.LANCZOS)


def draw_contact_sheet(results: Results, setting: Setting, path: Path):
    """Contents on the left, styles on top; a picture that failed stays white."""
    contents, styles = (list(dict.fromkeys(side))[:SHOWN] for side in zip(*results.pairs))
    by_pair = {pair: results.path(pair, setting) for pair in results.pairs}
    grid = [[None, *styles], *([content, *(by_pair[content, style] for style in styles)] for content in contents)]
    sheet = Image.new("RGB", ((len(styles) + 1) * (TILE + GAP) - GAP, (len(contents) + 1) * (TILE + GAP) - GAP),
                      "white")
    for y, line in enumerate(grid):
        for x, shown in enumerate(line):
            if shown and shown.exists():
                sheet.paste(tile(shown), (x * (TILE + GAP), y * (TILE + GAP)))
    sheet.save(path, quality=90)
