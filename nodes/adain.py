"""LatentAdaIN: re-colour the content's noise with the style's."""

from comfy_api.latest import io

from ..styleid_core.adain import adain
from .sampling import check_numbers, image_latents, warn_of_mask


class LatentAdaIN(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LatentAdaIN",
            display_name="Latent AdaIN",
            category="styleid",
            description="Gives a latent the channel means and deviations of another. Between the inverted content and style "
                        "it transfers the colours (StyleID's initial latent AdaIN).",
            search_aliases=["styleid", "adaptive instance normalization", "color transfer", "match colors"],
            inputs=[
                io.Latent.Input("content", tooltip="Keeps its shapes: the noise of the inverted content."),
                io.Latent.Input("style", tooltip="Gives the colours: the style's noise, of any size; one for all, or one for each."),
                io.Float.Input("strength", default=1.0, min=0.0, max=1.0, step=0.01,
                               tooltip="0 keeps the content's colours, 1 (the paper) takes all of the style's."),
            ],
            outputs=[io.Latent.Output(tooltip="Sample it with the sigmas of DDIM Invert.")],
        )

    @classmethod
    def execute(cls, content, style, strength=1.0) -> io.NodeOutput:
        warn_of_mask(style, "style")
        check_numbers(strength=strength)
        z_content, z_style = image_latents(content, style)
        if z_content.shape[1] != z_style.shape[1]:
            raise ValueError(f"The content latent has {z_content.shape[1]} channels and the style latent {z_style.shape[1]}. "
                             "Encode both with the VAE of the same checkpoint.")
        return io.NodeOutput(content | {"samples": adain(z_content, z_style, strength)})


NODES = [LatentAdaIN]
