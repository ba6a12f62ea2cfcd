"""Which tokens attend to which style: masks and weights on the grid of each block."""

from types import ModuleType

import torch
from comfy.model_patcher import ModelPatcher

from ...styleid_core.attend import Division, divided
from ...styleid_core.blocks import Block
from ...styleid_core.features import Tokens
from ...styleid_core.masks import kept_tokens, on_grid
from ...styleid_core.storage import map_tensors
from ...styleid_core.style import Style
from . import checks


class Regions:
    """Owned by one sampling run, which also holds the styles. Keeps results by grid and weights, as blocks and steps
    share them.
    """

    def __init__(self, model: ModelPatcher, family: ModuleType, blocks: list[Block]):
        self.model, self.family, self.blocks = model, family, blocks
        self.known: dict[tuple, object] = {}

    def grid(self, block: Block, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the tokens that `block` sees of a latent of `size`."""
        if size not in self.known:
            shapes = self.family.token_shapes(self.model, self.blocks, size)
            self.known[size] = {block: (height, width) for block, (height, width, _) in zip(self.blocks, shapes)}
        return self.known[size][block]

    def kept(self, style: Style, block: Block, value: torch.Tensor | Tokens) -> torch.Tensor | Tokens:
        """The style's features of a block, without the keys and values of tokens outside its mask."""
        if style.style_mask is None:
            return value
        grid = self.grid(block, style.features.size)
        checks.require_grid(value.shape[1], grid)
        device = value.q.device if isinstance(value, Tokens) else value.device
        key = ("kept", id(style), grid, device)
        if key not in self.known:
            self.known[key] = kept_tokens(style.style_mask, grid).to(device)
        tokens = self.known[key]
        if isinstance(value, Tokens):
            return value._replace(k=value.k[:, tokens], v=value.v[:, tokens])
        return value[:, tokens]

    def division(self, weights: list[tuple[Style, float]], block: Block, tokens: int,
                 device: torch.device) -> Division | None:
        """Of a block's tokens among styles with these weights, as `attend.divided`, on `device`."""
        grid = self.grid(block, weights[0][0].content.size)
        key = ("division", grid, device, *((id(style), weight) for style, weight in weights))
        if key not in self.known:
            found = divided([weight * mask_of(style, grid).flatten(1)[..., None] for style, weight in weights])
            self.known[key] = map_tensors(lambda tensor: tensor.to(device), found)
        if self.known[key] and self.known[key].own is not None:
            checks.require_grid(tokens, grid)
        return self.known[key]


def mask_of(style: Style, grid: tuple[int, int]) -> torch.Tensor:
    return torch.ones(1, *grid) if style.mask is None else on_grid(style.mask, grid)
