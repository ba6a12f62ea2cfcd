"""Small transformers with seeded weights: ComfyUI's own classes in real layouts, widths and depths reduced."""

from typing import NamedTuple

import comfy.supported_models
import torch

from .unet import new_unet, seeded_tensor

TEXT = 24  # channels of a prompt's tokens
POOLED = 12
OUTPUT = ("final_layer.linear", "final_layer.1", "proj_out", "last.linear", "head.head")  # what gives the prediction


class Small(NamedTuple):
    """A family: its class in comfy.supported_models, the network's configuration, channels of the latent, whether that
    has frames, and channels of a prompt's tokens.
    """
    supported: str
    config: dict
    channels: int = 16
    frames: bool = False
    text: int = TEXT


FLUX = dict(image_model="flux", in_channels=16, out_channels=16, vec_in_dim=POOLED, context_in_dim=TEXT,
            hidden_size=64, mlp_ratio=2.0, num_heads=2, depth=2, depth_single_blocks=2, axes_dim=[8, 12, 12],
            theta=10000, patch_size=2, qkv_bias=True, guidance_embed=True, txt_ids_dims=[])
COSMOS = dict(image_model="cosmos_predict2", max_img_h=240, max_img_w=240, max_frames=128, in_channels=16,
              out_channels=16, patch_spatial=2, patch_temporal=1, model_channels=64, num_blocks=3, num_heads=2,
              mlp_ratio=2.0, crossattn_emb_channels=TEXT, pos_emb_cls="rope3d", use_adaln_lora=True, adaln_lora_dim=8,
              rope_enable_fps_modulation=False)
SMALL = {
    "flux": Small("Flux", FLUX),
    "flux_schnell": Small("FluxSchnell", FLUX | dict(guidance_embed=False)),
    "flux2": Small("Flux2", FLUX | dict(
        image_model="flux2", in_channels=128, out_channels=128, vec_in_dim=None, axes_dim=[8, 8, 8, 8], theta=2000,
        patch_size=1, qkv_bias=False, txt_ids_dims=[3], global_modulation=True, mlp_silu_act=True, ops_bias=False,
        default_ref_method="index", ref_index_scale=10.0), channels=128),
    "chroma": Small("Chroma", {key: value for key, value in FLUX.items() if key != "guidance_embed"} | dict(
        image_model="chroma", in_channels=64, out_channels=64, in_dim=64, out_dim=64, hidden_dim=48, n_layers=2)),
    "qwen_image": Small("QwenImage", dict(
        image_model="qwen_image", in_channels=64, out_channels=16, num_layers=3, attention_head_dim=32,
        num_attention_heads=2, joint_attention_dim=TEXT, axes_dims_rope=(8, 12, 12)), frames=True),
    "z_image": Small("ZImage", dict(
        image_model="lumina2", patch_size=2, in_channels=16, dim=256, n_layers=3, n_refiner_layers=1, n_heads=4,
        n_kv_heads=4, multiple_of=16, ffn_dim_multiplier=0.5, qk_norm=True, cap_feat_dim=TEXT, axes_dims=[16, 24, 24],
        axes_lens=[64, 64, 64], rope_theta=256.0, z_image_modulation=True, time_scale=1000.0, pad_tokens_multiple=32)),
    "lumina2": Small("Lumina2", dict(
        image_model="lumina2", patch_size=2, in_channels=16, dim=64, n_layers=3, n_refiner_layers=1, n_heads=4,
        n_kv_heads=2, multiple_of=16, ffn_dim_multiplier=2.0, qk_norm=True, cap_feat_dim=TEXT, axes_dims=[4, 6, 6],
        axes_lens=[64, 64, 64])),
    "sd35": Small("SD3", dict(
        in_channels=16, input_size=None, patch_size=2, depth=2, adm_in_channels=POOLED, num_patches=256,
        pos_embed_max_size=16, context_embedder_config={"target": "torch.nn.Linear",
                                                        "params": {"in_features": TEXT, "out_features": 128}},
        qk_norm="rms", num_blocks=3, x_block_self_attn_layers=[0, 1])),
    "krea2": Small("Krea2", dict(
        image_model="krea2", features=64, tdim=16, txtdim=TEXT, heads=4, kvheads=2, multiplier=1, layers=3,
        channels=16, txtlayers=2, txtheads=2, txtkvheads=2), frames=True, text=2 * TEXT),
    "cosmos_predict2": Small("CosmosT2IPredict2", COSMOS, frames=True),
    "anima": Small("Anima", COSMOS | dict(image_model="anima"), frames=True),
    "wan": Small("WAN21_T2V", dict(
        image_model="wan2.1", model_type="t2v", dim=64, ffn_dim=96, freq_dim=16, text_dim=TEXT, num_heads=2,
        num_layers=3, in_dim=16, out_dim=16, text_len=512), frames=True),
}


def load_transformer(name: str, output_gain: float = 0.3, **config):
    """A MODEL of one of SMALL; `output_gain` scales the predicted velocity, `config` changes the network's
    configuration.
    """
    small = SMALL[name]
    patcher = new_unet(small.config | {"dtype": torch.float32} | config,
                       getattr(comfy.supported_models, small.supported))
    network = patcher.model.diffusion_model
    network.load_state_dict({key: seeded_tensor(key, tuple(tensor.shape), 0,
                                                1.0) * (output_gain if key.startswith(OUTPUT) else 1.0)
                             for key, tensor in network.state_dict().items()})
    network.eval().requires_grad_(False)
    return patcher


def latent(name: str, size: tuple[int, int], seed: int, batch: int = 1) -> dict:
    """A random LATENT as the family's VAE gives it, of `size` (H, W)."""
    small = SMALL[name]
    shape = (batch, small.channels, *((1,) if small.frames else ()), *size)
    return {"samples": torch.randn(shape, generator=torch.Generator().manual_seed(seed))}


def prompt(name: str, tokens: int = 7, seed: int = 0) -> list:
    """CONDITIONING, at the guidance at which a model with distilled guidance is inverted."""
    entry = {"pooled_output": seeded_tensor("pooled", (1, POOLED), 0, 1.0)}
    if SMALL[name].config.get("guidance_embed"):
        entry["guidance"] = 1.0
    return [[seeded_tensor(f"prompt {seed}", (1, tokens, SMALL[name].text), 0, 1.0), entry]]
