"""Lists how the transformers of `joint` differ: one row for each class of ComfyUI's networks, found by its name."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn import Module

from .. import host
from .positions import Embedding, axes_embedding, video_embedding

REFERENCES = "styleid_references"  # among transformer_options: tokens of each picture that a model for editing is shown


def shown(network: Module, options: dict, tokens: int) -> int:
    """Tokens of all given references, for a model that takes all."""
    return sum(options.get(REFERENCES, ()))


def told(network: Module, options: dict, tokens: int) -> int:
    """Tokens of the references that ComfyUI tells of, for a model that may leave some out."""
    return sum(options.get(host.REFERENCE_TOKENS, ()))


def padding(network: Module, options: dict, tokens: int) -> int:
    return -tokens % network.pad_tokens_multiple if network.pad_tokens_multiple else 0


def one(network: Module, number: int) -> int:
    return 1


def self_attentions(network: Module, number: int) -> int:
    """Some blocks of SD 3.5 medium attend to the picture alone after they have attended to all."""
    return 1 + network.joint_blocks[number].x_block.x_block_self_attn


def at_the_origin(network: Module, context: Tensor, kwargs: dict) -> int:
    return 0


def after_the_prompt(network: Module, context: Tensor, kwargs: dict) -> int:
    """In Lumina 2 and Z-Image a picture stands behind its prompt, and behind Z-Image Omni's pictures and theirs."""
    shown, prompts = kwargs.get(host.CALL_REFERENCES) or (), kwargs.get(host.CALL_REFERENCE_PROMPTS) or ()
    unpadded = shown and getattr(network, "siglip_embedder", None) is not None
    multiple, at = network.pad_tokens_multiple or 1, 0
    for prompt in [*(prompts[i] if i < len(prompts) else None for i in range(len(shown))), context]:
        tokens = 0 if prompt is None else prompt.shape[1]
        at += tokens if unpadded else -(-max(tokens, 1) // multiple) * multiple
    return at + 1 + 2 * len(shown)


class Layout(NamedTuple):
    """Describes one class of networks.

    sides       {block_type that ComfyUI tells, "block" where it tells none: the network's attribute that lists those
                blocks}
    patch       network: edge of a token, in values of the latent
    width       network: channels of the queries of a token
    behind      network, transformer_options, tokens of the picture: how many tokens come after them
    attentions  network, number of a block: how many of its attentions are self-attention; they come first
    named       whether ComfyUI tells attention in which block it is
    embedding   network: its rotary positions, or None where places are absolute
    position    network, the prompt (batch, tokens, channels), what else the model is called with: the picture's on the
                first axis
    """
    sides: dict[str, str]
    patch: Callable[[Module], int]
    width: Callable[[Module], int]
    behind: Callable[[Module, dict, int], int] = told
    attentions: Callable[[Module, int], int] = one
    named: bool = True
    embedding: Callable[[Module], Embedding | None] = lambda network: axes_embedding(network.pe_embedder)
    position: Callable[[Module, Tensor, dict], int] = at_the_origin


def rope_embedding(network: Module) -> Embedding:
    return axes_embedding(network.rope_embedder)


FLUX = Layout({"double": "double_blocks", "single": "single_blocks"}, lambda network: network.patch_size,
              lambda network: network.hidden_size, shown)
COSMOS = Layout({"block": "blocks"}, lambda network: network.patch_spatial, lambda network: network.model_channels,
                embedding=lambda network: video_embedding(network.pos_embedder))
LAYOUTS = {
    "Flux": FLUX,  # Flux.1, Flux.2, LongCat
    "Chroma": FLUX._replace(behind=told),
    "QwenImageTransformer2DModel": Layout({"double": "transformer_blocks"}, lambda network: network.patch_size,
                                          lambda network: network.inner_dim, shown),
    "NextDiT": Layout({"double": "layers"}, lambda network: network.patch_size, lambda network: network.dim, padding,
                      embedding=rope_embedding, position=after_the_prompt),  # Lumina 2, Z-Image
    "OpenAISignatureMMDITWrapper": Layout({"double": "joint_blocks"}, lambda network: network.patch_size,
                                          lambda network: network.hidden_size, attentions=self_attentions, named=False,
                                          embedding=lambda network: None),  # SD 3, SD 3.5
    "SingleStreamDiT": Layout({"single": "blocks"}, lambda network: network.patch,
                              lambda network: network.first.out_features),  # Krea 2
    "MiniTrainDIT": COSMOS,  # Cosmos-Predict 2, Anima
    "WanModel": Layout({"double": "blocks"}, lambda network: network.patch_size[-1], lambda network: network.dim,
                       embedding=rope_embedding),
}


def is_ming(network: Module) -> bool:
    """Whether a NextDiT is Ming-Image, whose references come behind its picture."""
    return bool(getattr(network, "masked_pad_multiple", None))


def layout_of(network: Module) -> Layout | None:
    if is_ming(network):
        return None
    return next((LAYOUTS[kind.__name__] for kind in type(network).__mro__ if kind.__name__ in LAYOUTS), None)
