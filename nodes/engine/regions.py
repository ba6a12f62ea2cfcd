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

    def check(self, style: Style, block: Block, n_content: torch.Tensor, n_style: torch.Tensor):
        """ValueError for features of another number of tokens than the masks are worked out for."""
        for features, n in ((style.content, n_content), (style.features, n_style)):
            checks.grid(n.shape[1], self.grid(block, features.size))

    def kept(self, style: Style, block: Block, x: torch.Tensor) -> torch.Tensor | None:
        """Indices of the style's tokens that give keys, on x's device; None: all."""
        if style.style_mask is None:
            return None
        grid = self.grid(block, style.features.size)
        key = ("kept", id(style), grid)
        if key not in self.known:
            self.known[key] = kept_tokens(style.style_mask, grid).to(x.device)
        return self.known[key]

    def parts(self, weights: list[tuple[Style, float]], block: Block, x: torch.Tensor) -> list:
        """`plan.parts` of styles with these weights, on the device of x."""
        grid = self.grid(block, weights[0][0].content.size)
        key = ("parts", grid, *((id(style), weight) for style, weight in weights))
        if key not in self.known:
            masks = [torch.ones(1, *grid) if style.mask is None else on_grid(style.mask, grid) for style, _ in weights]
            found = parts([weight * mask.flatten(1)[..., None] for mask, (_, weight) in zip(masks, weights)])
            self.known[key] = [part and map_tensors(lambda tensor: tensor.to(x.device), list(part)) for part in found]
        return self.known[key]
