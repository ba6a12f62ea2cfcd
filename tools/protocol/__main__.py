"""Stylize every content with every style as the paper's protocol asks, measure the results and report. Called by dev.py
evaluate.
"""

import argparse
import asyncio
import importlib
import importlib.util
import shutil
import sys
from itertools import product
from pathlib import Path

from styleid_core.curves import SHAPES

from ..files import checkpoint_file
from ..host import WORK, HostError, end_as_by_ctrl_c, running_host, say
from ..server import serve
from .method import Method, Results, Setting, all_pairs, check_method, readable_pictures
from .plots import draw_contact_sheet, draw_plots
from .recipes import RECIPES
from .report import measure, read_row, write_csv, write_markdown
from .servers import stylize_on_servers


def server_url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text} should begin with http:// or https://")
    return text.rstrip("/")


def curve(text: str) -> tuple[str, float, float]:
    shape, *ends = text.split(":")
    if shape not in SHAPES or len(ends) != 2:
        raise argparse.ArgumentTypeError(f"{text} should be one of {', '.join(SHAPES)}, with start and end, such as "
                                         "cosine:1:0.5")
    start, end = map(float, ends)
    return shape, start, end


def parse_arguments(arguments: list[str] | None):
    parser = argparse.ArgumentParser(prog="dev.py evaluate", description=__doc__)
    parser.add_argument("--content", type=Path, required=True, metavar="DIR")
    parser.add_argument("--style", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR",
                        help="what is there already is not made again")
    parser.add_argument("--checkpoint", metavar="FILE",
                        help="an SD checkpoint, with --server its name there (default: a built-in model)")
    parser.add_argument("--built-in", choices=("unet", "transformer"), default="unet",
                        help="which model, where no checkpoint is named; the transformer sees styles where StyleID "
                             "Positions puts them")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--server", type=server_url, action="append", default=[], metavar="URL",
                       help="a running ComfyUI with this pack; several share the work (default: one is started)")
    where.add_argument("--ray", metavar="ADDRESS", help='a Ray cluster: "auto", "local" or ray://HOST:PORT')
    parser.add_argument("--recipe", choices=RECIPES, default="styleid", help="sets the defaults of what follows")
    parser.add_argument("--gamma", type=float, nargs="+", default=[0.75])
    parser.add_argument("--temperature", type=float, nargs="+", default=[1.5])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--side", type=int, default=512, help="of the square that every picture is cut to, in pixels")
    parser.add_argument("--blocks", default="auto")
    parser.add_argument("--schedule", default="official")
    parser.add_argument("--color-strength", type=float, default=1.0)
    parser.add_argument("--refine", type=int, default=0)
    parser.add_argument("--gamma-curve", type=curve, metavar="SHAPE:START:END",
                        help="multiplies gamma over the sampling, such as cosine:1:0.5")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="weights of the metrics' networks")
    parser.add_argument("--metrics", nargs="+", metavar="NAME",
                        help="as python -m styleid_core.metrics knows them; none: only stylize")
    parser.set_defaults(**RECIPES[parser.parse_known_args(arguments)[0].recipe])
    return parser.parse_args(arguments)


def stylize(options, method: Method, results: Results):
    checkpoint = checkpoint_file(options.checkpoint) if options.checkpoint and not options.server else None
    if options.ray:
        if importlib.util.find_spec("ray") is None:
            raise HostError(f"--ray needs Ray. Install it with: {sys.executable} -m pip install ray")
        importlib.import_module(".on_ray", __package__).stylize_on_ray(options.ray, method, checkpoint, results)
    elif options.server:
        asyncio.run(stylize_on_servers(options.server, method, results))
    else:
        base = WORK / "evaluate"
        try:
            with serve(running_host(), base, checkpoint=checkpoint) as server:
                asyncio.run(stylize_on_servers([server.url], method, results, files=True))
        finally:
            shutil.rmtree(base / "models" / "styleid_features", ignore_errors=True)


def report(options, results: Results):
    shared = ["--content", options.content.resolve(), "--style", options.style.resolve()]
    if options.weights:
        shared += ["--weights", options.weights.resolve()]
    if options.metrics:
        shared += ["--metrics", *options.metrics]
    rows = []
    for setting in results.settings:
        say(f"Measuring {setting.name}")
        measure(results.folder / setting.name, shared)
        rows.append(read_row(results.folder / setting.name, setting))
    write_markdown(rows, results.folder / "report.md")
    write_csv(rows, results.folder / "report.csv")
    draw_plots(rows, results.folder)
    say(f"The report is {results.folder / 'report.md'}")


def evaluate(options):
    contents, unreadable_contents = readable_pictures(options.content)
    styles, unreadable_styles = readable_pictures(options.style)
    method = Method(options.checkpoint and Path(options.checkpoint).name, options.side, options.steps, options.blocks,
                    options.schedule, options.gamma_curve, options.color_strength, options.refine, options.built_in)
    out = options.out.resolve()
    check_method(out, method)
    settings = [Setting(*point) for point in product(options.gamma, options.temperature)]
    results = Results(out, all_pairs(contents, styles), settings)
    try:
        if results.left:
            stylize(options, method, results)
    finally:
        results.bar.close()
    say(f"{results.done} of {results.total} pictures are in {out} (failed: {len(results.failed)}, "
        f"unreadable files: {unreadable_contents + unreadable_styles})")
    for setting in settings:
        draw_contact_sheet(results, setting, out / f"{setting.name}.jpg")
    if options.metrics != ["none"]:
        report(options, results)


def main(arguments: list[str] | None = None) -> int:
    end_as_by_ctrl_c()
    try:
        evaluate(parse_arguments(arguments))
        return 0
    except HostError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from there.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
