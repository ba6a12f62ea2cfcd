"""Try, test and look at the pack on a private ComfyUI. Standard library only.

python dev.py demo | test | serve | figures | train | evaluate | bench | campaign
"""

import argparse
import os
import sys
import time

from tools.files import checkpoint_file, existing_file, existing_folder
from tools.host import NEWEST, RELEASES, ROOT, WORK, Host, HostError, child, end_as_by_ctrl_c, prepare, say
from tools.server import serve, unused_port

BASE = WORK / "base"
IMAGES = ROOT / "tools" / "demo" / "images"
COMPANY = [f"tests/in_comfyui/test_{name}.py" for name in (
    "company", "frames", "guiders", "other_nodes", "packs", "transformers_company", "two_gpus")]


def host_of(options) -> Host:
    own = options.comfyui or (None if options.host else os.environ.get("COMFYUI_PATH"))
    return prepare(own, options.host or NEWEST)


def demo(options) -> int:
    arguments = ["--base", BASE, "--content", options.content, "--style", options.style]
    for name in ("port", "checkpoint"):
        if value := getattr(options, name):
            arguments += [f"--{name}", value]
    return module(host_of(options), "tools.demo.run", *arguments)


def module(host: Host, name: str, *arguments) -> int:
    """Exit status of `python -m name` in the environment of `host`."""
    environment = os.environ | {"COMFYUI_PATH": str(host.comfyui)}
    with child([host.python, "-m", name, *arguments], cwd=ROOT, env=environment) as process:
        return process.wait()


def test(options) -> int:
    host = host_of(options)
    if options.gpu:
        os.environ["STYLEID_TEST_ON_GPU"] = "1"
    if options.packs:
        os.environ["STYLEID_PACKS"] = str(options.packs)
        if options.company:
            os.environ["STYLEID_COMPANY_PAGE"] = str(ROOT / "docs" / "company.md")
    lint = module(host, "ruff", "check", ".")
    named = [*(COMPANY if options.company else ()), *options.rest]
    which = "not slow" if options.full or named else "not slow and (quick or not full)"
    marked = () if options.all else ("-m", which)
    failed = module(host, "pytest", "--numprocesses", "2", "--dist", "loadfile", *marked, *named) or lint
    return module(host, "tools.campaign") or failed if options.all else failed


def figures(options) -> int:
    return module(host_of(options), "tools.demo.figures")


def train(options) -> int:
    return module(host_of(options), "tools.training", *options.rest)


def evaluate(options) -> int:
    return module(host_of(options), "tools.protocol", *options.rest)


def bench(options) -> int:
    return module(host_of(options), "tools.bench.speed", *options.rest)


def campaign(options) -> int:
    return module(host_of(options), "tools.campaign", *options.rest)


def look(options) -> int:
    host = host_of(options)
    with serve(host, BASE, options.port, options.checkpoint) as server:
        say(f"Open {server.url} in a browser: the workflows are under Templates > styleid. Ctrl+C stops the server.")
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            return 0


def parse_arguments():
    parser = argparse.ArgumentParser(description="ComfyUI-StyleID on a private ComfyUI.")
    commands = parser.add_subparsers(required=True,
                                     metavar="demo | test | serve | figures | train | evaluate | bench | campaign")
    host = argparse.ArgumentParser(add_help=False)
    which = host.add_mutually_exclusive_group()
    which.add_argument("--comfyui", metavar="PATH",
                       help="a ComfyUI folder of your own (default: COMFYUI_PATH, or a downloaded one)")
    which.add_argument("--host", metavar="VERSION", choices=RELEASES,
                       help=f"which ComfyUI to download: {', '.join(RELEASES)}")
    server = argparse.ArgumentParser(add_help=False)
    server.add_argument("--port", type=unused_port, help="default: a free one")
    server.add_argument("--checkpoint", type=checkpoint_file, metavar="FILE",
                        help="an SD 1.x checkpoint (default: a small built-in model)")

    command = commands.add_parser("demo", parents=[host, server],
                                  help="stylize one picture and put it side by side in output/")
    command.add_argument("--content", type=existing_file, metavar="IMAGE", default=IMAGES / "content.jpg")
    command.add_argument("--style", type=existing_file, metavar="IMAGE", default=IMAGES / "strokes.jpg")
    command.set_defaults(command=demo)
    command = commands.add_parser("test", parents=[host], help="lint, then the tests; further arguments go to pytest")
    command.add_argument("--gpu", action="store_true",
                         help="run the tests in ComfyUI on the GPU, with those that need one")
    command.add_argument("--packs", type=existing_folder, metavar="DIR",
                         help="packs of others, to test beside this one")
    command.add_argument("--company", action="store_true",
                         help="only the tests beside other nodes; with --packs it writes docs/company.md")
    command.add_argument("--full", action="store_true",
                         help="every variant, the web page, the measures and the commands too, as before a release")
    command.add_argument("--all", action="store_true", help="also what takes long, and the campaign for five minutes")
    command.set_defaults(command=test)
    command = commands.add_parser("serve", parents=[host, server], help="the same ComfyUI with its web page")
    command.set_defaults(command=look)
    command = commands.add_parser("figures", parents=[host],
                                  help="draw the pictures of the README from the built-in models")
    command.set_defaults(command=figures)
    command = commands.add_parser("train", parents=[host],
                                  help="train a built-in model: STAGE --images DIR --steps N ...")
    command.set_defaults(command=train)
    command = commands.add_parser("evaluate", parents=[host],
                                  help="stylize and measure all pairs: --content DIR --style DIR --out DIR ...")
    command.set_defaults(command=evaluate)
    command = commands.add_parser("bench", parents=[host], help="measure time and memory beside the bare model calls")
    command.set_defaults(command=bench)
    command = commands.add_parser("campaign", parents=[host],
                                  help="random faults from a seed: --minutes M --seed S --only PART")
    command.set_defaults(command=campaign)

    options, options.rest = parser.parse_known_args()
    if options.rest and options.command not in (test, train, evaluate, bench, campaign):
        parser.error(f"unknown arguments: {' '.join(options.rest)}")
    return options


def main() -> int:
    end_as_by_ctrl_c()
    try:
        options = parse_arguments()
        return options.command(options)
    except (HostError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
