"""What the model calls of one injected sampling share."""

from uuid import UUID

import torch
from comfy.model_patcher import ModelPatcher

from ...styleid_core.features import batch_slice
from ...styleid_core.style import INJECT_INTO, Style
from . import checks, host
from .call import Call
from .compilation import execute
from .families import family_of
from .regions import Regions
from .sources import Sources
from .tally import Tally


class Run:
    """Serves one sampling of MODEL with `styles`, from several threads where ComfyUI shares it out to several GPUs."""

    def __init__(self, model: ModelPatcher, styles: list[Style], batch: int, sides: dict[UUID, str]):
        self.model, self.family, self.styles = model, family_of(model), styles
        self.batch = batch  # of the sampled latent
        self.sides = sides  # "cond" or "uncond" of each prompt
        self.ranges = [sigma_range(model, style.start, style.end) for style in styles]
        captured = {block for style in styles for block in style.content.blocks}
        self.blocks = [block for block in self.family.blocks(model) if block in captured]
        self.regions = Regions(model, self.family, self.blocks)
        self.sources = Sources(model, self.blocks)
        self.tally = Tally()
        self.pending: dict[torch.device, list[torch.Tensor]] = {}  # see `check_later`
        self.execute, self.compiled = execute, False

    def model_call(self, executor, x, *arguments, **kwargs):
        """The wrapper of each call of the model."""
        *arguments, options = arguments
        sigma = self.start_of_call(options)
        sides, uuids = options[host.COND_OR_UNCOND], options[host.UUIDS]
        active = [self.active(sigma, side, uuid) for side, uuid in zip(sides, uuids)]
        if all(same(styles, active[0]) for styles in active):
            return self.uniform_call(executor, active[0], sigma, [x, *arguments], options, kwargs)
        # Each part of the batch alone: they attend to different styles, so their numbers of keys may differ.
        outputs, width = [], len(x) // len(active)
        for i, styles in enumerate(active):
            part, part_kwargs = batch_slice([[x, *arguments], kwargs], slice(i * width, (i + 1) * width), len(x))
            part_options = options | {host.COND_OR_UNCOND: [sides[i]], host.UUIDS: [uuids[i]]}
            outputs.append(self.uniform_call(executor, styles, sigma, part, part_options, part_kwargs))
        return torch.cat(outputs)

    def active(self, sigma: float, side: int, uuid: UUID) -> list[Style]:
        """The styles that are injected into a call for the prompt `uuid`. Where another node made that up, its `side`
        tells, 0 or 1 as in ComfyUI's cond_or_uncond.
        """
        side = self.sides.get(uuid, "uncond" if side else "cond")
        return [style for style, (highest, lowest) in zip(self.styles, self.ranges)
                if lowest <= sigma <= highest and side in INJECT_INTO[style.inject_into]]

    def uniform_call(self, executor, styles: list[Style], sigma: float, arguments: list, options: dict, kwargs: dict):
        """With the same styles for all of the batch."""
        if not styles:
            return self.execute(executor, *arguments, options, **kwargs)
        x, frames = arguments[0], host.frames_of(options, self.batch)
        self.check(x, styles, frames, options)
        wanted = [features for style in styles for features in (style.content, style.features)]
        call = Call(styles=styles, regions=self.regions, sigma=sigma, device=x.device,
                    dtype=self.model.model.get_dtype_inference(), batch=len(x), frames=frames,
                    position=self.family.position(self.model, arguments, kwargs),
                    features=self.sources.at(sigma, wanted, executor, x.device, options),
                    compiled=self.compiled, check_later=self.check_later, reached={})
        try:
            options = self.family.for_call(self.model, options, kwargs, call)
            output = self.execute(executor, *arguments, options, **kwargs)
        finally:
            call.close()
        self.tally.add(sigma, call.expected(), set(call.reached), self.family.above(options))
        return output

    def check(self, x: torch.Tensor, styles: list[Style], frames: list[int] | None, options: dict):
        checks.require_whole_picture(tuple(x.shape[-2:]), styles[0].content.size)
        batched = [each for style in styles for each in (style.content.latent, style.features.latent, style.mask)]
        if any(each is not None and len(each) > 1 for each in batched):
            latents = self.batch if frames is None else len(frames)
            checks.require_whole_batch(len(x), len(options[host.COND_OR_UNCOND]), latents)

    def start_of_call(self, options: dict) -> float:
        """The sigma of a model call. ValueError for what the last call on this device left to be checked: both are
        fetched at once, as each fetch waits for the device.
        """
        sigma = options[host.SIGMAS][0]
        pending = self.pending.pop(sigma.device, [])
        if pending:
            sigma, *even = torch.stack([sigma, *(each.to(sigma) for each in pending)]).tolist()
            checks.require_even_masks(all(even))
        sigma = float(sigma)
        self.tally.check(at_work=sigma)
        return sigma

    def check_later(self, even: torch.Tensor):
        """Checks at the next call whether masks were `even`, as the device is still working it out."""
        self.pending.setdefault(even.device, []).append(even)

    def finish(self):
        """ValueError for what the last calls left to be checked."""
        checks.require_even_masks(all(bool(each) for pending in self.pending.values() for each in pending))
        self.tally.check()


def same(a: list, b: list) -> bool:
    """Whether two lists hold the same objects."""
    return [id(item) for item in a] == [id(item) for item in b]


def sigma_range(model: ModelPatcher, start: float, end: float) -> tuple[float, float]:
    """(highest, lowest) sigma at which to inject, of a part of the sampling as in `Style`."""
    sampling = model.get_model_object("model_sampling")
    return float(sampling.percent_to_sigma(start)), float(sampling.percent_to_sigma(end))
