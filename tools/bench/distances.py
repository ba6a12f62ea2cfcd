"""How far transfers are from their contents and styles: photographs in drawn styles of broad strokes."""

from typing import NamedTuple

import torch
from PIL import Image

import tools.in_process  # noqa: F401

# isort: split
from ..demo.draw_style import STYLES, broader, draw
from ..demo.measures import color_distance, share_left, structure_distance, texture_distance
from ..demo.transfer import Inverted, Transfer, as_image
from ..host import ROOT


class Pairs(NamedTuple):
    """Contents (B, 3, H, W) in 0..1 and styles, each (1, 3, H, W), with what inverting them gave."""
    contents: torch.Tensor
    styles: list[torch.Tensor]
    content: Inverted
    inverted_styles: list[Inverted]


class Distances(NamedTuple):
    """Of each pair (pairs,), or means. Of the distance to the style, what is left in `texture` and `color`; `structure`
    to the content and `structure_to_style`, where 1 is chance.
    """
    texture: torch.Tensor
    color: torch.Tensor
    structure: torch.Tensor
    structure_to_style: torch.Tensor

    def means(self) -> "Distances":
        return Distances(*(each.mean() for each in self))


def invert_pairs(transfer: Transfer, styles: tuple[str, ...], side: int, seed: int = 7) -> Pairs:
    """The tests' pictures and the styles of these names, drawn from `seed`, as squares of `side` pixels."""
    pictures = torch.cat([as_image(Image.open(path), side)
                          for path in sorted((ROOT / "tests" / "pictures").glob("*.jpg"))])
    painted = [as_image(draw(broader(STYLES[name]), seed), side) for name in styles]
    return Pairs(pictures.movedim(-1, 1), [style.movedim(-1, 1) for style in painted], transfer.invert(pictures),
                 [transfer.invert(style) for style in painted])


def stylized(transfer: Transfer, pairs: Pairs, **way) -> list[torch.Tensor]:
    """Results (B, 3, H, W) for each style; `way` are settings of Transfer.stylize."""
    return [transfer.decode(transfer.stylize(pairs.content, style, **way)).movedim(-1, 1)
            for style in pairs.inverted_styles]


def distances(pairs: Pairs, results: list[torch.Tensor]) -> Distances:
    of_styles = [torch.stack([share_left(texture_distance, pairs.contents, result, style),
                              share_left(color_distance, pairs.contents, result, style),
                              structure_distance(result, pairs.contents),
                              structure_distance(result, style.expand_as(result))])
                 for result, style in zip(results, pairs.styles)]
    return Distances(*torch.cat(of_styles, 1))
