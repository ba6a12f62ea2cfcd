"""Stylize every content with every style as the paper's protocol asks, measure the results and report."""

import argparse
import importlib
import sys
from collections.abc import Iterable, Iterator
from itertools import product
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from styleid_core.curves import SHAPES

from ..files import checkpoint_file
from ..host import HostError, end_as_by_ctrl_c, say
from .method import Method, Picture, Setting, all_pictures, check_method, readable_pictures, write_whole
from .report import draw_contact_sheet, measure, write_report

RECIPES = {  # published variants of StyleID: docs/recipes.md says what each takes from whom
    "styleid": {},
    "scheduled-gamma": {"gamma_curve": ("cosine", 1.0, 0.5)},
    "attenst": {"steps": 40, "schedule": "ddim", "refine": 5, "blocks": "4-5", "color_strength": 0.6},
    "joined": {"gamma": [0.5], "weight": 0.93, "place": "same"},
    "draft": {"steps": 8, "schedule": "ddim", "refine": 1},
}


def curve(text: str) -> tuple[str, float, float]:
    shape, start, end = text.split(":")
    if shape not in SHAPES:
        raise ValueError(shape)
    return shape, float(start), float(end)


def parse_arguments(arguments: list[str] | None):
    parser = argparse.ArgumentParser(prog="dev.py evaluate", description=__doc__)
    parser.add_argument("--content", type=Path, required=True, metavar="DIR")
    parser.add_argument("--style", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="what is there is not made again")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="an SD checkpoint (default: a built-in model)")
    parser.add_argument("--built-in", choices=("unet", "transformer"), default="unet",
                        help="the model without a checkpoint; the transformer is behind StyleID Positions")
    parser.add_argument("--ray", metavar="ADDRESS",
                        help='share the work on a Ray cluster (pip install ray): "auto", "local" or ray://HOST:PORT')
    parser.add_argument("--recipe", choices=RECIPES, default="styleid", help="sets the defaults of what follows")
    parser.add_argument("--gamma", type=float, nargs="+", default=[0.75])
    parser.add_argument("--temperature", type=float, nargs="+", default=[1.5])
    for name in ("steps", "side", "blocks", "schedule", "color_strength", "refine", "weight", "place"):
        default = Method._field_defaults[name]
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default,
                            help="of the square that every picture is cut to, in pixels" if name == "side" else None)
    parser.add_argument("--gamma-curve", type=curve, metavar="SHAPE:START:END",
                        help=f"multiplies gamma over the sampling, such as cosine:1:0.5; shapes: {', '.join(SHAPES)}")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="weights of the metrics' networks")
    parser.add_argument("--metrics", nargs="+", metavar="NAME",
                        help="as python -m styleid_core.metrics knows them; none: only stylize")
    parser.set_defaults(**RECIPES[parser.parse_known_args(arguments)[0].recipe])
    return parser.parse_args(arguments)


def stylize(options, method: Method, left: list[Picture]) -> Iterator[tuple[Picture, bytes | str]]:
    """Each with its PNG or why there is none, picture by picture of the side with more. The inversions of the other
    side lie in files.
    """
    in_files, turn = sorted(("content", "style"), key=lambda side: len({getattr(picture, side) for picture in left}))
    left = sorted(left, key=attrgetter(turn))
    with TemporaryDirectory(prefix="styleid_") as folder:
        making = method, options.checkpoint and checkpoint_file(options.checkpoint), Path(folder), in_files
        if options.ray:
            yield from importlib.import_module(".on_ray", __package__).stylize_on_ray(options.ray, making, left)
        else:
            stylizer = importlib.import_module(".stylizer", __package__).Stylizer(*making)
            for picture in left:
                yield picture, stylizer.stylize(picture, *picture.read())


def keep(outcomes: Iterable[tuple[Picture, bytes | str]], out: Path) -> int:
    """Write the PNGs, and tell why there are none; how many there are not."""
    failed = 0
    for picture, outcome in outcomes:
        if isinstance(outcome, str):
            tqdm.write(f"[styleid] {picture.name} ({picture.setting.name}) failed: {outcome}")
            failed += 1
        else:
            write_whole(picture.path(out), outcome)
    return failed


def evaluate(options):
    out = options.out.resolve()
    contents, unreadable_contents = readable_pictures(options.content)
    styles, unreadable_styles = readable_pictures(options.style)
    settings = [Setting(*point) for point in product(options.gamma, options.temperature)]
    pictures = all_pictures(contents, styles, settings)
    told = vars(options) | {"checkpoint": options.checkpoint and options.checkpoint.name}
    method = Method(**{name: told[name] for name in Method._fields})
    check_method(out, method)
    left = [picture for picture in pictures if not picture.path(out).exists()]
    failed = 0
    if left:
        failed = keep(tqdm(stylize(options, method, left), "Stylizing", len(pictures), unit="picture",
                           initial=len(pictures) - len(left)), out)
    done = sum(picture.path(out).exists() for picture in pictures)
    say(f"{done} of {len(pictures)} pictures are in {out} (failed: {failed}, "
        f"unreadable files: {unreadable_contents + unreadable_styles})")
    if done + failed < len(pictures):
        raise HostError("The others were lost with their workers. The same command goes on from there.")
    for setting in settings:
        draw_contact_sheet(contents, styles, setting, out)
    if options.metrics != ["none"]:
        arguments = ["--content", options.content.resolve(), "--style", options.style.resolve()]
        arguments += ["--weights", options.weights.resolve()] if options.weights else []
        arguments += ["--metrics", *options.metrics] if options.metrics else []
        write_report({setting: measure(setting, out, arguments) for setting in settings}, out)
        say(f"The report is {out / 'report.md'}")


def main(arguments: list[str] | None = None) -> int:
    end_as_by_ctrl_c()
    try:
        evaluate(parse_arguments(arguments))
        return 0
    except (HostError, ConnectionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from there.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
