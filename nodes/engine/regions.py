"""Which tokens attend to which style: masks and weights on the grid of each block."""

from types import ModuleType

import torch
from comfy.model_patcher import ModelPatcher

from ...styleid_core.blocks import Block
from ...styleid_core.masks import kept_tokens, on_grid
from ...styleid_core.plan import parts
from ...styleid_core.storage import map_tensors
from ...styleid_core.style import Style
from . import checks


class Regions:
    """Owned by one sampling run. What was worked out for a grid and for weights serves all blocks and steps that have them too."""

    def __init__(self, model: ModelPatcher, family: ModuleType, blocks: list[Block]):
        self.model, self.family, self.blocks = model, family, blocks
        self.known: dict[tuple, object] = {}

    def grid(self, block: Block, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the tokens that `block` sees of a latent of `size`."""
        if size not in self.known:
            shapes = self.family.token_shapes(self.model, self.blocks, size)
            self.known[size] = {block: (height, width) for block, (height, width, _) in zip(self.blocks, shapes)}
        return self.known[size][block]

    def kept(self, style: Style, block: Block, n_style: torch.Tensor) -> torch.Tensor:
        """Those of the style's n_style (batch, tokens, channels) that give keys."""
        if style.style_mask is None:
            return n_style
        grid = self.grid(block, style.features.size)
        checks.grid(n_style.shape[1], grid)
        key = ("kept", id(style), grid)
        if key not in self.known:
            self.known[key] = kept_tokens(style.style_mask, grid).to(n_style.device)
        return n_style[:, self.known[key]]

    def parts(self, weights: list[tuple[Style, float]], block: Block, n_content: torch.Tensor) -> list:
        """`plan.parts` of styles with these weights, on the device of n_content (batch, tokens, channels)."""
        grid = self.grid(block, weights[0][0].content.size)
        key = ("parts", grid, *((id(style), weight) for style, weight in weights))
        if key not in self.known:
            masks = [torch.ones(1, *grid) if style.mask is None else on_grid(style.mask, grid) for style, _ in weights]
            found = parts([weight * mask.flatten(1)[..., None] for mask, (_, weight) in zip(masks, weights)])
            self.known[key] = [part and map_tensors(lambda tensor: tensor.to(n_content.device), list(part)) for part in found]
        if any(part and part[0] is not None for part in self.known[key]):
            checks.grid(n_content.shape[1], grid)
        return self.known[key]
