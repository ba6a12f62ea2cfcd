"""python -m styleid_core.metrics --content DIR --style DIR --stylized DIR --out report.json"""

import argparse
import sys
from pathlib import Path

import torch

from .evaluate import METRICS, evaluate
from .networks import MissingError
from .pairs import pairs_by_name, pairs_of_table
from .report import WRITERS, as_markdown, check_place, write


def output_file(text: str) -> Path:
    path = Path(text)
    if path.suffix not in WRITERS:
        raise argparse.ArgumentTypeError(f"{text} should end in {', '.join(WRITERS)}")
    return path


def usable_device(text: str) -> torch.device:
    try:
        torch.zeros(1, device=text).item()
        return torch.device(text)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise argparse.ArgumentTypeError(f"torch cannot use {text} here. Try cpu, or cuda where there is such a "
                                         "GPU") from error


def parse_arguments(arguments: list[str] | None):
    parser = argparse.ArgumentParser(prog="python -m styleid_core.metrics",
                                     description="Measure stylized pictures as the StyleID paper does.")
    parser.add_argument("--content", type=Path, metavar="DIR")
    parser.add_argument("--style", type=Path, metavar="DIR")
    parser.add_argument("--stylized", type=Path, metavar="DIR", help="pictures named <content>_stylized_<style>.png")
    parser.add_argument("--pairs", type=Path, metavar="CSV",
                        help="instead of the three folders: columns content, style, stylized")
    parser.add_argument("--metrics", nargs="+", choices=METRICS, default=list(METRICS),
                        help="default: all. fid also gives ArtFID")
    parser.add_argument("--weights", type=Path, metavar="DIR",
                        help="weights of the networks, so that nothing is downloaded")
    parser.add_argument("--out", type=output_file, nargs="+", required=True, metavar="FILE",
                        help=f"one or more of {', '.join(WRITERS)}")
    parser.add_argument("--device", type=usable_device, default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    folders = options.content, options.style, options.stylized
    if not options.pairs and not all(folders):
        parser.error("give --content, --style and --stylized, or --pairs")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    kept = options.out[0].with_suffix(".part")
    try:
        for path in [*options.out, kept]:
            check_place(path)
        if options.pairs:
            pairs, skipped = pairs_of_table(options.pairs)
        else:
            pairs, skipped = pairs_by_name(options.content, options.style, options.stylized), []
        report = evaluate(pairs, options.metrics, options.weights, options.device, kept)
        report = report._replace(skipped=skipped + report.skipped)
        if not report.per_pair:
            reasons = [f"{name}: {reason}" for name, reason in report.skipped]
            raise ValueError("\n".join(["none of the pairs could be measured.", *reasons]))
        for path in options.out:
            write(report, path)
    except (MissingError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(as_markdown(report) + "\n")
    return 0


if __name__ == "__main__":
    torch.backends.cudnn.allow_tf32 = False  # else a GPU differs in the fourth digit
    sys.exit(main())
