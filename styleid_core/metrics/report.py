"""A report as JSON, as a table of its pairs (CSV), or to read (Markdown), by the file's suffix."""

import csv
import json
from pathlib import Path

from .evaluate import Report

TITLES = {"cfsd": "CFSD", "cfsd_sum": "CFSD, summed", "lpips": "LPIPS", "histogram": "RGB-uv histogram distance",
          "fid": "FID",
          "artfid": "ArtFID"}


def check_place(path: Path):
    """ValueError where no file can be written; makes its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.exists()
        path.open("a").close()
        if not there:
            path.unlink()
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error}). Name another file with --out.") from error


def write(report: Report, path: Path):
    WRITERS[path.suffix](report, path)


def write_json(report: Report, path: Path):
    scores = {name: {"mean": mean, "standard_error": error} for name, (mean, error) in report.scores.items()}
    skipped = [{"file": name, "reason": reason} for name, reason in report.skipped]
    told = {"pairs": len(report.per_pair), "networks": report.networks, "scores": scores, "skipped": skipped,
            "per_pair": report.per_pair}
    path.write_text(json.dumps(told, indent=1), encoding="utf-8")


def write_csv(report: Report, path: Path):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, report.per_pair[0])
        writer.writeheader()
        writer.writerows(report.per_pair)


def write_markdown(report: Report, path: Path):
    path.write_text(as_markdown(report) + "\n", encoding="utf-8")


def as_markdown(report: Report) -> str:
    lines = [f"{len(report.per_pair)} pairs", "", "| metric | mean | standard error | network |", "|---|---|---|---|"]
    for name, (mean, error) in report.scores.items():
        network = {"cfsd_sum": "cfsd", "artfid": "fid"}.get(name, name)
        lines.append(f"| {TITLES[name]} | {mean:.4g} | {'' if error is None else f'{error:.2g}'} | "
                     f"{report.networks.get(network, '')} |")
    lines += ["", *(f"Left out: {name} ({reason})" for name, reason in report.skipped)]
    return "\n".join(lines).strip()


WRITERS = {".json": write_json, ".csv": write_csv, ".md": write_markdown}
