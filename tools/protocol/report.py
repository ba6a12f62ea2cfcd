"""The metrics of every setting, and one table of all."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from styleid_core.metrics.report import TITLES

from ..host import ROOT, HostError
from .method import Setting


class Row(NamedTuple):
    """scores {name: (mean, standard error or None)}, networks {metric: which network measured it}."""
    setting: Setting
    pairs: int
    scores: dict[str, tuple[float, float | None]]
    networks: dict[str, str]
    skipped: int

    def mean(self, name: str) -> float:
        return self.scores[name][0]


def measure(folder: Path, arguments: list[str]):
    """Write report.json of the pictures in `folder`; HostError when the metrics cannot be had, which they tell
    themselves.
    """
    command = [sys.executable, "-m", "styleid_core.metrics", "--stylized", folder, "--out", folder / "report.json",
               *arguments]
    if subprocess.call([str(part) for part in command], cwd=ROOT):
        raise HostError(f"{folder} was not measured. Its pictures are kept: the same command goes on from there.")


def read_row(folder: Path, setting: Setting) -> Row:
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    scores = {name: (score["mean"], score["standard_error"]) for name, score in report["scores"].items()
              if name in TITLES}
    return Row(setting, report["pairs"], scores, report["networks"], len(report["skipped"]))


def measured(rows: list[Row]) -> list[str]:
    """The scores that every row has, in the order of TITLES."""
    return [name for name in TITLES if all(name in row.scores for row in rows)]


def cell(mean: float, error: float | None) -> str:
    return f"{mean:.4g}" if error is None else f"{mean:.4g} ± {error:.2g}"


def write_markdown(rows: list[Row], path: Path):
    names = measured(rows)
    lines = [f"| gamma | temperature | pairs | {' | '.join(TITLES[name] for name in names)} |",
             "|---" * (3 + len(names)) + "|"]
    lines += [f"| {row.setting.gamma:g} | {row.setting.temperature:g} | {row.pairs} | "
              f"{' | '.join(cell(*row.scores[name]) for name in names)} |" for row in rows]
    networks = {metric: network for row in rows for metric, network in row.networks.items()}
    lines += ["", "Mean ± standard error. Lower is better everywhere.", ""]
    lines += [f"- {metric}: {network}" for metric, network in networks.items()]
    lines += [f"- {row.setting.name}: {row.skipped} pictures could not be measured" for row in rows if row.skipped]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_csv(rows: list[Row], path: Path):
    names = measured(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["gamma", "temperature", "pairs",
                         *(column for name in names for column in (name, f"{name}_standard_error"))])
        writer.writerows([*row.setting, row.pairs, *(value for name in names for value in row.scores[name])]
                         for row in rows)
