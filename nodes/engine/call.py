"""What one model call attends to."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from ...styleid_core.attend import Share, Shared
from ...styleid_core.blocks import Block
from ...styleid_core.features import Features, Tokens, repeat_batch
from ...styleid_core.storage import map_tensors, restore
from ...styleid_core.style import Amounts, Style
from .lockstep import Companion
from .regions import Regions

CALL = "styleid_call"  # among transformer_options


class Call(NamedTuple):
    """Holds what one model call attends to. ComfyUI hands it to each attention of this call, in the call's own
    transformer_options. Attentions of other calls never see it.

    styles         those that are injected into it
    regions        where they are, of the whole sampling
    sigma          at which it is made
    device, dtype  of the model's tensors
    batch          length of the call's batch: the `frames`, once for each conditioning
    frames         which latents of the sampled batch it is for; None: all
    position       where the pictures stand among the model's positions, as `Features.position`
    features       {id of a source: {block: its features, as `storage.store` keeps them}}, or a Companion for a dict
    compiled       whether torch.compile sees it
    check_later    `check_later(even)` refuses masks that turn out not to be `even`, without a wait for the device
    reached        {block: True} where the injected attention has run
    prepared       {block: result of `shared`}; filled before the call by a UNet, empty for a transformer
    """
    styles: list[Style]
    regions: Regions
    sigma: float
    device: torch.device
    dtype: torch.dtype
    batch: int
    frames: list[int] | None
    position: int
    features: dict[int, dict]
    compiled: bool
    check_later: Callable[[torch.Tensor], None]
    reached: dict[Block, bool]
    prepared: dict[Block, Shared | None] = {}

    def close(self):
        """Ends what computes features beside this call."""
        for each in self.features.values():
            if isinstance(each, Companion):
                each.close()

    def expected(self) -> set[Block]:
        """The blocks that have to be reached."""
        return {block for block in self.regions.blocks if self.weighted(block)}

    def weighted(self, block: Block) -> list[tuple[Style, Amounts]]:
        """The styles that have a weight in `block`, and their amounts."""
        amounts = [(style, style.at(self.sigma)) for style in self.styles if block in style.content.blocks]
        return [(style, each) for style, each in amounts if each.weight]

    def shared(self, block: Block) -> Shared | None:
        """What the queries of `block` attend to; None where no style has a weight."""
        weighted = self.weighted(block)
        if not weighted:
            return None
        captured = {}  # by source: styles that are injected into one content share its features
        for features in [each for style, _ in weighted for each in (style.content, style.features)]:
            if id(features.source) not in captured:
                captured[id(features.source)] = self.captured(features, block)
        first, _ = weighted[0]
        tokens = captured[id(first.content.source)].shape[1]
        weights = [(style, amounts.weight) for style, amounts in weighted]
        division = self.regions.division(weights, block, tokens, self.device)
        if division is None:
            return None
        if division.own is not None:
            own, *styles = map(self.for_batch, [division.own, *division.styles])
            division = division._replace(own=own, styles=styles)
        return Shared(division, [self.share(style, amounts, block, captured) for style, amounts in weighted])

    def share(self, style: Style, amounts: Amounts, block: Block, captured: dict) -> Share:
        content, features = captured[id(style.content.source)], captured[id(style.features.source)]
        gamma, tau = amounts.gamma, amounts.tau
        if self.compiled:  # torch.compile would bake numbers in as constants
            gamma, tau = torch.tensor(gamma).to(self.device, self.dtype), torch.tensor(tau, device=self.device)
        return Share(content=content.q if isinstance(content, Tokens) else content,
                     style=self.regions.kept(style, block, features), gamma=gamma, tau=tau, auto=style.auto_tau)

    def captured(self, features: Features, block: Block) -> torch.Tensor | Tokens:
        """The features of `block`, restored, of the frames of this call and at its position."""
        model, family = self.regions.model, self.regions.family
        value = family.as_captured(restore(self.features[id(features.source)][block], self.device, self.dtype))
        return map_tensors(self.for_batch, family.moved(model, value, self.position - features.position))

    def for_batch(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor (latents or 1, ...) repeated to the batch of the call."""
        if self.frames is not None and len(tensor) > 1:
            tensor = tensor[self.frames]
        return repeat_batch(tensor, self.batch)
