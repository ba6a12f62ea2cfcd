"""Texture of the style against structure of the content, of the ways to inject, on both built-in models: python -m
tools.bench.frontier

Writes docs/frontier.md, its plot, and a strip of pictures of each model.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch

from .distances import Distances, Transfer, distances, invert_pairs, stylized

# isort: split
import comfy.utils

from ..demo.figures import FIGURES, save, save_grid
from ..host import say
from ..pack import load_pack
from .page import table

STYLES = ("swirls", "hatching", "waves", "embers")
CONTENTS_SHOWN, SIDE_SHOWN = (0, 2, 3), 192
GAMMAS, WEIGHTS = (0.75, 0.6, 0.4, 0.25), (0.8, 0.9, 0.97)
ASIDE, ON_TOP, ON_TOP_FREQUENCIES = ("diagonal", 0.5, 1.5), ("same", 1.0, 1.0), ("same", 0.5, 1.5)
COLUMNS = ["way", "texture", "color", "structure", "texture beside StyleID's", "structure beside StyleID's"]


class Way(NamedTuple):
    """`settings` of Transfer.stylize; ways of one `line` are connected in the plot."""
    line: str
    settings: dict

    @property
    def name(self) -> str:
        return f"{self.line}, gamma {self.settings['gamma']:g}"


def line(name: str, **settings) -> list[Way]:
    return [Way(name, settings | {"gamma": gamma}) for gamma in (1.0, *GAMMAS) if gamma < 1 or "weight" not in settings]


def joined(name: str, **settings) -> list[Way]:
    return [way for weight in WEIGHTS for way in line(f"{name}weight {weight:g}", weight=weight, **settings)]


WAYS = {
    "UNet": line("StyleID") + joined(""),
    "transformer": line("StyleID, aside", positions=ASIDE) + line("StyleID, on top", positions=ON_TOP)
    + joined("on top, ", positions=ON_TOP) + joined("on top by frequencies, ", positions=ON_TOP_FREQUENCIES),
}
REFERENCE = {"UNet": "StyleID, gamma 0.75", "transformer": "StyleID, aside, gamma 0.75"}
STRIP = {
    "UNet": ("StyleID, gamma 0.75", "StyleID, gamma 0.4", "weight 0.9, gamma 0.6", "weight 0.97, gamma 0.25"),
    "transformer": ("StyleID, aside, gamma 0.75", "StyleID, on top, gamma 0.75", "on top, weight 0.9, gamma 0.4",
                    "on top by frequencies, weight 0.97, gamma 0.25"),
}


def joint(each: list[Distances]) -> Distances:
    return Distances(*map(torch.cat, zip(*each)))


def beside(values: torch.Tensor, reference: torch.Tensor) -> str:
    """The mean difference of pairs, with its 95 % interval."""
    difference = values - reference
    return f"{difference.mean():+.3f} ± {1.96 * difference.std() / len(difference) ** 0.5:.3f}"


def row(way: str, found: Distances, reference: Distances) -> list[str]:
    means = found.means()
    return [way, f"{means.texture:.3f}", f"{means.color:.3f}", f"{means.structure:.3f}",
            beside(found.texture, reference.texture), beside(found.structure, reference.structure)]


@torch.inference_mode()
def measure(model: str, side: int, seeds: list[int]) -> dict[str, Distances]:
    """Of every way, over all pairs. Draws the strip, too."""
    torch.set_num_threads(1)  # beside the other model
    comfy.utils.set_progress_bar_enabled(False)
    transfer = Transfer(load_pack(), "ddim", steps=20, refine=1, flow=model == "transformer")
    draw_strip(model, transfer)
    all_pairs, found = [invert_pairs(transfer, STYLES, side, seed) for seed in seeds], {}
    for way in WAYS[model]:
        say(f"{model}: {way.name}")
        found[way.name] = joint([distances(pairs, stylized(transfer, pairs, **way.settings)) for pairs in all_pairs])
    return found


def draw_frontier(found: dict[str, dict[str, Distances]]):
    figure, axes = plt.subplots(1, len(found), figsize=(6 * len(found), 4.4), layout="constrained")
    for axis, (model, of_ways) in zip(axes, found.items()):
        for name in dict.fromkeys(way.line for way in WAYS[model]):
            means = [of_ways[way.name].means() for way in WAYS[model] if way.line == name]
            axis.plot([each.structure for each in means], [each.texture for each in means], "o-", label=name,
                      linestyle="--" if name.startswith("StyleID") else "-")
        axis.set(title=model, xlabel="structure: distance to the content",
                 ylabel="texture: what is left of the distance to the style")
        axis.legend(frameon=False, fontsize=8)
    save(figure, "frontier.png")


def draw_strip(model: str, transfer: Transfer):
    """Contents in the first style, by some of the ways."""
    pairs = invert_pairs(transfer, STYLES[:1], SIDE_SHOWN)
    by_name = {way.name: way for way in WAYS[model]}
    columns = [pairs.contents] + [stylized(transfer, pairs, **by_name[name].settings)[0] for name in STRIP[model]]
    rows = [[column[i:i + 1].movedim(1, -1) for column in columns] for i in CONTENTS_SHOWN]
    titles = [name.replace(", gamma", "\ngamma").replace(", weight", "\nweight") for name in STRIP[model]]
    save_grid(rows, ["content", *titles], f"frontier_{model.lower()}.jpg")


def main():
    parser = argparse.ArgumentParser(prog="python -m tools.bench.frontier", description=__doc__)
    parser.add_argument("--side", type=int, default=128, help="of the pictures, in pixels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9, 10], help="of the drawn styles")
    options = parser.parse_args()
    with ProcessPoolExecutor(len(WAYS), get_context("spawn")) as pool:
        runs = {model: pool.submit(measure, model, options.side, options.seeds) for model in WAYS}
        found = {model: run.result() for model, run in runs.items()}
    lines = []
    for model, of_ways in found.items():
        reference = of_ways[REFERENCE[model]]
        rows = [row(name, each, reference) for name, each in of_ways.items()]
        lines += [f"## {model}", "", f"Beside {REFERENCE[model]}:", "", *table(COLUMNS, rows), "",
                  f"![Contents by some of the ways](frontier_{model.lower()}.jpg)", ""]
    draw_frontier(found)
    head = ["# More of the content for the same style", "",
            f"{len(reference.texture)} pairs at {options.side} pixels, 20 steps of `ddim` with `refine` 1; mean "
            "differences with 95 % intervals over the pairs. *Texture* and *color* are the shares of the distance to "
            "the style that are left, *structure* is the distance to the content: lower is better everywhere. Made by "
            "`python -m tools.bench.frontier`.", "", "![Texture against structure](frontier.png)", ""]
    (FIGURES / "frontier.md").write_text("\n".join(head + lines), encoding="utf-8")
    say(f"Written: {FIGURES / 'frontier.md'}")


if __name__ == "__main__":
    main()
