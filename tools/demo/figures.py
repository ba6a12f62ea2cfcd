"""Draw the README's pictures with the trained models. Called by dev.py figures."""

from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from PIL import Image, ImageOps

import tools.in_process  # noqa: F401

# isort: split
from ..host import ROOT, say
from ..pack import load_pack
from .draw_style import STYLES, Style, broader, draw
from .transfer import Inverted, Transfer, as_image

FIGURES = ROOT / "docs"
SIDE, FLOW_SIDE = 384, 320
CONTENTS = ("astronaut", "chelsea", "coffee")
SHOWN = ("swirls", "embers", "waves")
ABLATION = {"StyleID": {}, "no injection": {"inject": False}, "no AdaIN": {"color_strength": 0.0},
            "temperature 1": {"temperature": 1.0}}
PLACES = {"same place": ("same", 1.0, 1.0), "beside": ("beside", 1.0, 1.0), "diagonal": ("diagonal", 1.0, 1.0),
          "frequencies": ("same", 0.5, 1.5), "diagonal, frequencies": ("diagonal", 0.5, 1.5)}
GAMMAS = (0.0, 0.3, 0.5, 0.75, 1.0)


def save_grid(rows: list[list[torch.Tensor]], titles: list[str], name: str):
    """Pictures (1, H, W, 3) in rows, a title above each column."""
    size = 2.2 * len(titles), 2.2 * len(rows) + 0.25
    figure, axes = plt.subplots(len(rows), len(titles), figsize=size, squeeze=False, layout="constrained")
    for row, pictures in zip(axes, rows):
        for axis, picture in zip(row, pictures):
            axis.imshow(picture[0].clamp(0, 1))
            axis.axis("off")
    for axis, title in zip(axes[0], titles):
        axis.set_title(title, fontsize=10)
    save(figure, name)


def save(figure, name: str):
    figure.savefig(FIGURES / name, dpi=130, pil_kwargs={"quality": 90} if name.endswith("jpg") else None)
    plt.close(figure)
    say(f"Drawn: {FIGURES / name}")


def draw_for_the_registry(style: torch.Tensor, pair: list[torch.Tensor]):
    """A square icon of a style, and a content beside its result, all (1, H, W, 3), as a banner of 21:9."""
    for name, picture, size in (("icon.jpg", style, (256, 256)), ("banner.jpg", torch.cat(pair, 2), (768, 330))):
        image = Image.fromarray((picture[0].clamp(0, 1) * 255).round().byte().numpy())
        ImageOps.fit(image, size, Image.Resampling.LANCZOS).save(FIGURES / name, quality=88)
        say(f"Drawn: {FIGURES / name}")


def draw_deviations(transfer: Transfer, content, style):
    figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for label, options in (("own keys", {"inject": False}), ("style's keys, temperature 1", {"temperature": 1.0}),
                           ("style's keys, temperature 1.5", {}),
                           ("style's keys, auto_temperature", {"auto_temperature": True})):
        values = list(transfer.logit_deviations(content, style, **options).values())
        axis.plot(range(1, len(values) + 1), values, label=label)
    axis.set(xlabel="sampling step", ylabel="deviation of attention logits")
    axis.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    save(figure, "temperature.png")


class Drawn(NamedTuple):
    """The first content and style, as pictures and inverted, and the content in that style."""
    picture: torch.Tensor
    painted: torch.Tensor
    content: Inverted
    style: Inverted
    result: torch.Tensor


def draw_grids(transfer: Transfer, styles: list[Style], side: int, names: tuple[str, str, str]) -> Drawn:
    """Contents in styles, gammas, and what each part of the method does, as files of these `names`."""
    pictures = [as_image(Image.open(ROOT / "tests" / "pictures" / f"{name}.jpg"), side) for name in CONTENTS]
    painted = [as_image(draw(style), side) for style in styles]
    contents, inverted = ([transfer.invert(image) for image in images] for images in (pictures, painted))

    def stylize(content, style, **options):
        return transfer.decode(transfer.stylize(content, style, **options))

    transfers = [[picture, *(stylize(content, style) for style in inverted)]
                 for picture, content in zip(pictures, contents)]
    content, style = contents[0], inverted[0]
    save_grid([[torch.ones_like(pictures[0]), *painted], *transfers], ["", *SHOWN], names[0])
    save_grid([[stylize(content, style, gamma=gamma) for gamma in GAMMAS]], [f"gamma {gamma:g}" for gamma in GAMMAS],
              names[1])
    save_grid([[stylize(content, style, **options) for options in ABLATION.values()]], list(ABLATION), names[2])
    return Drawn(pictures[0], painted[0], content, style, transfers[0][1])


def main():
    FIGURES.mkdir(exist_ok=True)
    pack, styles = load_pack(), [broader(STYLES[name]) for name in SHOWN]
    transfer = Transfer(pack, steps=20, refine=1, flow=True)
    drawn = draw_grids(transfer, styles, FLOW_SIDE, ("transformer.jpg", "transformer_gamma.jpg",
                                                     "transformer_ablation.jpg"))
    save_grid([[transfer.decode(transfer.stylize(drawn.content, drawn.style, positions=place))
                for place in PLACES.values()]], list(PLACES),
              "transformer_places.jpg")
    transfer = Transfer(pack, "ddim", steps=20, refine=1)
    drawn = draw_grids(transfer, styles, SIDE, ("transfers.jpg", "gamma.jpg", "ablation.jpg"))
    draw_for_the_registry(drawn.painted, [drawn.picture, drawn.result])
    draw_deviations(transfer, drawn.content, drawn.style)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
