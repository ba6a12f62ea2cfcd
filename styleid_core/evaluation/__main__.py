"""python -m styleid_core.evaluation --content DIR --style DIR --stylized DIR --out report.json"""

import argparse
import sys
from pathlib import Path

import torch

from .evaluate import METRICS, evaluate
from .networks import MissingError
from .pairs import pairs_by_name, pairs_of_table
from .report import WRITERS, as_markdown, write


def output_file(text: str) -> Path:
    path = Path(text)
    if path.suffix not in WRITERS:
        raise argparse.ArgumentTypeError(f"{text} should end in {', '.join(WRITERS)}")
    return path


def parse_arguments(arguments: list[str] | None):
    parser = argparse.ArgumentParser(prog="python -m styleid_core.evaluation",
                                     description="Measure stylised pictures as the StyleID paper does.")
    parser.add_argument("--content", type=Path, metavar="DIR")
    parser.add_argument("--style", type=Path, metavar="DIR")
    parser.add_argument("--stylized", type=Path, metavar="DIR", help="pictures named <content>_stylized_<style>.png")
    parser.add_argument("--pairs", type=Path, metavar="CSV", help="instead of the three folders: columns content, style, stylized")
    parser.add_argument("--metrics", nargs="+", choices=METRICS, default=list(METRICS), help="default: all. fid also gives ArtFID")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="weights of the networks, so that nothing is downloaded")
    parser.add_argument("--out", type=output_file, nargs="+", required=True, metavar="FILE", help=f"one or more of {', '.join(WRITERS)}")
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    folders = options.content, options.style, options.stylized
    if not options.pairs and not all(folders):
        parser.error("give --content, --style and --stylized, or --pairs")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        if options.pairs:
            pairs, skipped = pairs_of_table(options.pairs)
        else:
            pairs, skipped = pairs_by_name(options.content, options.style, options.stylized), []
        report = evaluate(pairs, options.metrics, options.weights, options.device, options.out[0].with_suffix(".part"))
        report = report._replace(skipped=skipped + report.skipped)
    except (MissingError, FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
    if not report.per_pair:
        sys.exit("\n".join(["error: none of the pairs could be measured.", *(f"{name}: {reason}" for name, reason in report.skipped)]))
    for path in options.out:
        write(report, path)
    sys.stdout.write(as_markdown(report) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
