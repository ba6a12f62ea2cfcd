"""What a model is: one file a family, which answers all that the engine asks about its models.

NAME            the family as an error calls it
WRAPPED         the kind of ComfyUI's wrappers that wraps each model call
IN_LOCKSTEP     whether features can be recomputed block by block, during the call that they are injected into
TENSORS         how many tensors its features are for each block; their widths are equal or less

LEAST_GAMMA     at which it takes as much of a style as there is, without losing all of the content

matches(model)                     whether a MODEL is of the family
path(model)                        how the model mixes noise in, see `styleid_core.paths`; ValueError for one that
                                   cannot be inverted
inversion_prompt(model, prompt)    the CONDITIONING to invert with, of the one that is given
select(model, text)                the self-attentions that a user's text names, as a list of Block; ValueError for a
                                   part that names none
blocks(model)                      all that can be named
token_shapes(model, blocks, size)  (height, width, channels of all tensors) of the features of each, for a latent of
                                   `size` (H, W)
embedding(model)                   its rotary positions, see `positions`; None where it has none
position(model, arguments, kwargs)
                                   the picture's index on the first axis of positions, in a call with these
                                   arguments: features from another have to be `moved`
moved(model, features, by)         the same, `by` so much further on the first axis of positions
as_captured(kept)                  features as they were captured, whatever version of a file they come from

record(model, options, blocks, seen, shape)
                                   let calls with these transformer_options, for latents of `shape` (batch, H, W), put
                                   the features of each of `blocks` into the dict `seen`; nothing, or a ValueError,
                                   where others cut them into tiles
inject(model, options, blocks, size)
                                   let calls with these transformer_options, for latents of `size` (H, W), attend in
                                   `blocks` as their `Call` says
for_call(model, options, kwargs, call)
                                   the transformer_options of one call; without a `Call` it is only recorded.
                                   `kwargs` are its other arguments
above(options)                     the name of another node's attention, if any, that may leave the injection out
"""

import importlib
from collections.abc import Iterator
from types import ModuleType

from comfy.model_patcher import ModelPatcher
from torch.nn import Module

from .. import logger
from .layouts import is_ming


def attends_over_time(network: Module) -> bool:
    return any(hasattr(each, "time_stack") for each in network.modules())


LOOKALIKES = {  # networks that look as if they were served
    "attention over time, as models of videos have it": attends_over_time,
    "references behind its picture, as Ming-Image has them": is_ming,
}


def importable(*names: str) -> Iterator[ModuleType]:
    """The families by the names of their files, less those that need what this ComfyUI does not have."""
    for name in names:
        try:
            yield importlib.import_module(f".{name}", __name__)
        except (ImportError, AttributeError) as error:
            logger.warning("Models of the family %s are not served: %s", name, error)


FAMILIES = list(importable("unet", "joint"))


def family_of(model: ModelPatcher) -> ModuleType:
    """The one of FAMILIES that MODEL is of; ValueError for none."""
    for family in FAMILIES:
        if family.matches(model):
            return family
    network = model.model.diffusion_model
    unlike = "".join(f" with {words}" for words, has in LOOKALIKES.items() if has(network))
    raise ValueError(f"StyleID needs {' or '.join(family.NAME for family in FAMILIES)}, and this model is a "
                     f"{type(network).__name__}{unlike}. Load a checkpoint of one of those families.")
