"""Where the trained transformer sees the style, and what comes of it: python -m tools.bench.positions"""

import torch
from PIL import Image

import tools.in_process  # noqa: F401

# isort: split
from ..demo.draw_style import STYLES, broader, draw
from ..demo.figures import PLACES
from ..demo.measures import color_distance, share_left, structure_distance, texture_distance
from ..demo.transfer import Transfer, as_image
from ..host import ROOT
from ..pack import load_pack
from .recipes import print_table

SIDES, SHOWN = (128, 192, 256), ("swirls", "hatching", "waves", "embers")
HEAD = "| side | place | texture | color | structure to the content | structure to the style |"


@torch.inference_mode()
def main():
    transfer = Transfer(load_pack(), steps=20, refine=1, flow=True)
    for side in SIDES:
        images = torch.cat([as_image(Image.open(path), side)
                            for path in sorted((ROOT / "tests" / "pictures").glob("*.jpg"))])
        painted = [as_image(draw(broader(STYLES[name])), side) for name in SHOWN]
        contents, content = images.movedim(-1, 1), transfer.invert(images)
        styles = [transfer.invert(style) for style in painted]
        rows = []
        for name, place in PLACES.items():
            distances = []
            for style, picture in zip(styles, painted):
                result = transfer.decode(transfer.stylize(content, style, positions=place)).movedim(-1, 1)
                wanted = picture.movedim(-1, 1)
                left = [share_left(distance, contents, result, wanted)
                        for distance in (texture_distance, color_distance)]
                structure = [structure_distance(result, each) for each in (contents, wanted.expand_as(result))]
                distances.append(torch.stack([*left, *structure]).mean(1))
            rows.append([str(side), name, *(f"{value:.2f}" for value in torch.stack(distances).mean(0).tolist())])
        print_table(HEAD, rows)


if __name__ == "__main__":
    main()
