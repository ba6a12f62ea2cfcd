"""What the pictures of every setting score, in one table and in plots, and what they look like."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torchvision.utils import save_image

from styleid_core.metrics.pairs import read
from styleid_core.metrics.report import TITLES

from ..host import ROOT, HostError, say
from .method import Picture, Setting

SHOWN, TILE, GAP = 6, 160, 4  # pictures along each side of a contact sheet; pixels


def measure(setting: Setting, out: Path, arguments: list) -> dict:
    """The report of the pictures at `setting`; HostError when the metrics cannot be had, which they tell themselves."""
    say(f"Measuring {setting.name}")
    folder = out / setting.name
    file = folder / "report.json"
    command = [sys.executable, "-m", "styleid_core.metrics", "--stylized", folder, "--out", file, *arguments]
    if subprocess.call(command, cwd=ROOT):
        raise HostError(f"{folder} was not measured. Its pictures are kept: the same command goes on from there.")
    return json.loads(file.read_text(encoding="utf-8"))


def cell(mean: float, standard_error: float | None) -> str:
    return f"{mean:.4g}" if standard_error is None else f"{mean:.4g} ± {standard_error:.2g}"


def as_markdown(reports: dict[Setting, dict], names: list[str]) -> str:
    lines = [f"| gamma | temperature | pairs | {' | '.join(TITLES[name] for name in names)} |",
             "|---" * (3 + len(names)) + "|"]
    for setting, report in reports.items():
        cells = [cell(**report["scores"][name]) for name in names]
        lines.append(f"| {setting.gamma:g} | {setting.temperature:g} | {report['pairs']} | {' | '.join(cells)} |")
    networks = {metric: network for report in reports.values() for metric, network in report["networks"].items()}
    lines += ["", "Mean ± standard error. Lower is better everywhere.", ""]
    lines += [f"- {metric}: {network}" for metric, network in networks.items()]
    lines += [f"- {setting.name}: {len(report['skipped'])} pictures could not be measured"
              for setting, report in reports.items() if report["skipped"]]
    return "\n".join(lines) + "\n"


def draw(rows: list[dict], x: str, y: str, by: list[str], path: Path):
    """A line through (x, y) of the rows that agree in the columns `by`."""
    figure, axis = plt.subplots(figsize=(5, 3.6), layout="constrained")
    lines = {}
    for row in rows:
        lines.setdefault(", ".join(f"{name} {row[name]:g}" for name in by), []).append(row)
    for label, line in lines.items():
        axis.plot([row[x] for row in line], [row[y] for row in line], marker="o", label=label)
    axis.set(xlabel=TITLES.get(x, x), ylabel=f"{TITLES[y]} (lower is better)")
    axis.legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write_report(reports: dict[Setting, dict], out: Path):
    """As Markdown, as CSV and as plots, of the scores that every setting has."""
    names = [name for name in TITLES if all(name in report["scores"] for report in reports.values())]
    (out / "report.md").write_text(as_markdown(reports, names), encoding="utf-8")
    rows = [setting._asdict() | {"pairs": report["pairs"]} for setting, report in reports.items()]
    for row, report in zip(rows, reports.values()):
        for name in names:
            row[name], row[f"{name}_standard_error"] = report["scores"][name].values()
    with (out / "report.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    if "artfid" in names:
        by_gamma = sorted(rows, key=lambda row: row["gamma"])
        draw(by_gamma, "gamma", "artfid", ["temperature"], out / "artfid_against_gamma.png")
    if {"fid", "lpips"} <= set(names):
        draw(rows, "lpips", "fid", ["gamma", "temperature"], out / "fid_against_lpips.png")


def draw_contact_sheet(contents: list[Path], styles: list[Path], setting: Setting, out: Path):
    """Of the first ones, contents on the left and styles on top; a picture that failed stays white."""
    contents, styles = contents[:SHOWN], styles[:SHOWN]
    shown = [None, *styles]
    for content in contents:
        shown += [content, *(Picture(content, style, setting).path(out) for style in styles)]
    white = torch.ones(3, TILE, TILE)
    tiles = [read(path, like=white) if path and path.exists() else white for path in shown]
    save_image(tiles, out / f"{setting.name}.jpg", nrow=len(styles) + 1, padding=GAP, pad_value=1.0)
