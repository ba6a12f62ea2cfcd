"""LatentAdaIN: re-color the content's noise with the style's."""

from comfy_api.latest import io

from . import inputs
from .declared import declared
from .engine.latents import recolor


class LatentAdaIN(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LatentAdaIN",
            display_name="Latent AdaIN",
            category="styleid",
            description="Gives a latent the channel means and standard deviations of another. Between the inverted "
                        "content and style it transfers the colors (StyleID's initial latent AdaIN).",
            search_aliases=["styleid", "adaptive instance normalization", "color transfer", "match colors"],
            inputs=[
                io.Latent.Input("content", tooltip="The noise of the inverted content, whose shapes are kept."),
                io.Latent.Input("style", tooltip="The noise of the inverted style, which gives the colors, of any "
                                                 "size; one for all, or one for each."),
                inputs.color_strength(),
                io.Mask.Input("mask", optional=True,
                              tooltip="Where in the content colors are taken, and measured; chain several for several "
                                      "regions."),
                io.Mask.Input("style_mask", optional=True,
                              tooltip="The part of the style picture whose colors are measured."),
            ],
            outputs=[io.Latent.Output(tooltip="Sample it with the sigmas of DDIM Invert.")],
        )

    @classmethod
    @declared
    def execute(cls, content, style, color_strength=1.0, mask=None, style_mask=None) -> io.NodeOutput:
        return io.NodeOutput(recolor(content, style, color_strength, mask, style_mask))
