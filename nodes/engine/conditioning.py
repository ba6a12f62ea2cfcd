"""Adapts the content's CONDITIONING to the inversion of the style.

A prompt may go with any picture. A ControlNet's hint, the masked picture of an inpainting model and the references of
an editing model go with one.
"""

import torch
from torch import Tensor

from ...styleid_core.storage import map_tensors, tensors_in
from . import checks, host, logger

FULL_MASK = torch.ones(1, 1, 64, 64)  # a mask of all of a picture, which ComfyUI scales


def for_style(name: str, conditioning: list, z_content: Tensor, z_style: Tensor) -> list:
    """The content's CONDITIONING, adapted to the style; the same object if it holds no picture. `name` is for errors.

    The content's own latent becomes the style's. An inpainting model gets the style's latent and a full mask. Hints
    and other references are left out: the model can do without. ValueError if any other picture remains.
    """
    entries = [entry_for_style(entry, z_content, z_style) for _, entry in conditioning]
    changed = {key for entry, (_, old) in zip(entries, conditioning) for key in old if entry.get(key) is not old[key]}
    held = [(key, value) for entry in entries for key, value in entry.items() if holds_picture(value)]
    others = {key for key, value in held if key != host.LLAMA and value is not FULL_MASK and not is_of(value, z_style)}
    checks.require_only_prompts(name, others)
    if not changed:
        return conditioning
    logger.info("The style is inverted with its own picture, or none, in place of what %s has of the content: %s. "
                "StyleID Options can give it a conditioning of its own.", name, ", ".join(sorted(changed)))
    return [[prompt, entry] for (prompt, _), entry in zip(conditioning, entries)]


def entry_for_style(entry: dict, z_content: Tensor, z_style: Tensor) -> dict:
    """What is set on one prompt, as `for_style`. References that CLIP Vision has seen too cannot be exchanged."""
    entry = {key: value for key, value in entry.items() if key not in host.HINTS}
    if host.PICTURE_MASK in entry:
        entry |= {host.MASKED_PICTURE: z_style, host.PICTURE_MASK: FULL_MASK}
    if host.REFERENCES in entry and (host.SHOWN in entry or not is_of(entry[host.REFERENCES], z_content)):
        entry = {key: value for key, value in entry.items() if key not in host.OF_REFERENCES}
    return {key: map_tensors(lambda _: z_style, value) if is_of(value, z_content) else value
            for key, value in entry.items()}


def is_of(value, z: Tensor) -> bool:
    """Whether `value` is the latent z, or a list of only z."""
    if isinstance(value, list):
        return bool(value) and all(is_of(each, z) for each in value)
    return isinstance(value, Tensor) and value.shape == z.shape and torch.equal(value.cpu(), z.cpu())


def holds_picture(value) -> bool:
    return any(tensor.ndim > 3 for tensor in tensors_in(value))
