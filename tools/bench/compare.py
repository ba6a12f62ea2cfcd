"""One table and one plot of several reports: python -m tools.bench.compare NAME=report.json ... --out FILE (without
suffix).
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt

from styleid_core.metrics.report import TITLES

from ..protocol.report import cell


def named_report(text: str) -> tuple[str, dict]:
    name, _, path = text.rpartition("=")
    return name, json.loads(Path(path).read_text(encoding="utf-8"))


def table(reports: dict[str, dict]) -> str:
    lines = [f"| | pairs | {' | '.join(TITLES.values())} |", "|---" * (2 + len(TITLES)) + "|"]
    for name, report in reports.items():
        cells = [cell(score["mean"], score["standard_error"]) for score in (report["scores"][key] for key in TITLES)]
        lines.append(f"| {name} | {report['pairs']} | {' | '.join(cells)} |")
    networks = {metric: network for report in reports.values() for metric, network in report["networks"].items()}
    return "\n".join([*lines, "", *(f"- {metric}: {network}" for metric, network in networks.items())])


def draw(reports: dict[str, dict], path: Path):
    """Distance to the styles against distance to the contents, as FID and LPIPS and as histogram distance and CFSD."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for axis, (x, y) in zip(axes, (("lpips", "fid"), ("cfsd", "histogram"))):
        for name, report in reports.items():
            point = report["scores"][x]["mean"], report["scores"][y]["mean"]
            axis.plot(*point, "o", label=name)
        axis.set(xlabel=f"{TITLES[x]} to the content", ylabel=f"{TITLES[y]} to the style")
        axis.margins(0.1)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(reports))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(prog="python -m tools.bench.compare", description=__doc__)
    parser.add_argument("reports", nargs="+", type=named_report, metavar="NAME=FILE")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    reports = dict(options.reports)
    options.out.with_suffix(".md").write_text(table(reports) + "\n", encoding="utf-8")
    draw(reports, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
