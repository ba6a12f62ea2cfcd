"""What a model is: one file a family, which answers all that the engine asks about its models.

NAME                                 the family as an error calls it
WRAPPED                              the kind of ComfyUI's wrappers through which a run meets each of its calls of the model
IN_LOCKSTEP                          whether features can be recomputed while they are injected, block by block; else all before
matches(model)                       whether a MODEL is of the family
path(model)                          how the model mixes noise in, see `styleid_core.paths`; ValueError for one that cannot be inverted
inversion_prompt(model, prompt)      the CONDITIONING to invert with, of the one that is given
select(model, text)                  the self-attentions that a user's text names, as a list of Block; ValueError for a part that names none
blocks(model)                        all that can be named
token_shapes(model, blocks, size)    (height, width, channels) of the features that each of them gives of a latent of `size` (H, W)
place(model, arguments, kwargs)      where the picture of a call with these arguments stands, an integer with which the features differ
at_place(model, n, by)               features n (batch, tokens, channels) of a picture that stands so much further
record(model, options, blocks, seen, shape)    let calls with these transformer_options, for latents of `shape` (batch, H, W), put the
                                     features of each of `blocks` into the dict `seen`; a ValueError where others cut them into tiles
inject(options, injection)           let a run with these transformer_options attend as the `Injection` says
call_options(model, options, kwargs, injection)    the transformer_options of one recorded call, whose other arguments are `kwargs`, or of
                                     one with an `injection`
"""

from types import ModuleType

from comfy.model_patcher import ModelPatcher

from . import joint, unet

FAMILIES = [unet, joint]


def family_of(model: ModelPatcher) -> ModuleType:
    """The one of FAMILIES that MODEL is of; ValueError for none."""
    for family in FAMILIES:
        if family.matches(model):
            return family
    raise ValueError(f"StyleID needs {' or '.join(family.NAME for family in FAMILIES)}, and this model is a "
                     f"{type(model.model.diffusion_model).__name__}. Load a checkpoint of one of those families.")
