"""What a CONDITIONING holds of one picture, and what stands in its place when another picture is inverted with it.

A prompt may go with any picture. A ControlNet's hint, the masked picture of an inpainting model and the references of
an editing model go with one.
"""

import torch
from torch import Tensor

from ...styleid_core.storage import map_tensors, tensors_in
from . import checks, host, logger

WHOLE = torch.ones(1, 1, 64, 64)  # a mask of all of a picture, which ComfyUI scales


def for_style(name: str, conditioning: list, z_content: Tensor, z_style: Tensor) -> list:
    """The CONDITIONING `name`, made for the content, to invert the style with; the same object where it goes with any
    picture.

    The content's own latent becomes the style's. An inpainting model gets the style's and a mask of all of it. Hints,
    and references of something else, are left out, as the model can do without. ValueError for another picture.
    """
    entries = [entry_for_style(entry, z_content, z_style) for _, entry in conditioning]
    changed = {key for entry, (_, old) in zip(entries, conditioning) for key in old if entry.get(key) is not old[key]}
    held = [(key, value) for entry in entries for key, value in entry.items() if holds_picture(value)]
    others = {key for key, value in held if key != host.LLAMA and value is not WHOLE and not is_of(value, z_style)}
    checks.require_only_prompts(name, others)
    if not changed:
        return conditioning
    logger.info("The style is inverted with its own picture, or none, in place of what %s has of the content: %s. "
                "StyleID Options can give it a conditioning of its own.", name, ", ".join(sorted(changed)))
    return [[prompt, entry] for (prompt, _), entry in zip(conditioning, entries)]


def entry_for_style(entry: dict, z_content: Tensor, z_style: Tensor) -> dict:
    entry = {key: value for key, value in entry.items() if key not in host.HINTS}
    if host.PICTURE_MASK in entry:
        entry |= {host.MASKED_PICTURE: z_style, host.PICTURE_MASK: WHOLE}
    if host.REFERENCES in entry and (host.SHOWN in entry or not is_of(entry[host.REFERENCES], z_content)):
        entry = {key: value for key, value in entry.items() if key not in host.OF_REFERENCES}
    return {key: map_tensors(lambda _: z_style, value) if is_of(value, z_content) else value
            for key, value in entry.items()}


def is_of(value, z: Tensor) -> bool:
    """Whether what an entry holds is the latent z, or a list of nothing else."""
    if isinstance(value, list):
        return bool(value) and all(is_of(each, z) for each in value)
    return isinstance(value, Tensor) and value.shape == z.shape and torch.equal(value.cpu(), z.cpu())


def holds_picture(value) -> bool:
    return any(tensor.ndim > 3 for tensor in tensors_in(value))
