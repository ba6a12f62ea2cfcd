"""StyleIDSampler: the whole of StyleID in one node."""

from comfy_api.latest import io

from . import inputs
from .declared import declared
from .engine.options import Options
from .engine.presets import CUSTOM, PRESETS, Look, filled_in
from .engine.transfer import Pictures, stylize


class StyleIDSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StyleIDSampler",
            display_name="StyleID Sampler",
            category="styleid",
            description="Draws the content picture in the style of another, without training: inverts both, re-colors "
                        "the content's noise and samples it with the style's self-attention (StyleID, CVPR 2024).",
            search_aliases=["styleid", "style transfer", "style injection", "artistic style", "neural style"],
            inputs=[
                io.Model.Input("model", tooltip="A UNet (SD 1.x, SD 2.x, SDXL) or a transformer (Flux, Chroma, "
                                                "Qwen-Image, Z-Image, SD 3.5, Krea 2, and others)."),
                io.Latent.Input("content", tooltip="The encoded picture, or a batch, whose shapes are kept; a mask on "
                                                   "it limits what is stylized."),
                io.Latent.Input("style", tooltip="The encoded picture whose style is taken, of any size; one for all, "
                                                 "or one for each."),
                inputs.positive(),
                inputs.steps("Steps of each inversion and of the sampling, so three times as many model calls. The "
                             "paper uses 50."),
                inputs.gamma(),
                inputs.temperature(),
                inputs.color_strength(),
                inputs.blocks(),
                inputs.schedule(),
                io.Combo.Input("preset", options=[CUSTOM, *PRESETS], default=CUSTOM, optional=True,
                               extra_dict={"presets": {name: preset._asdict() for name, preset in PRESETS.items()}},
                               tooltip="Fills in gamma, temperature, color_strength, blocks and weight; what is "
                                       "linked there counts. custom leaves them to you."),
                inputs.weight(),
                inputs.FeaturesType.Input("style_features", optional=True,
                                          tooltip="From Load StyleID Features, with its noise in style: the style is "
                                                  "not inverted again."),
                inputs.OptionsType.Input("options", optional=True,
                                         tooltip="From StyleID Options: guidance, denoise, memory, and more."),
            ],
            outputs=[io.Latent.Output(tooltip="The stylized picture, for VAE Decode.")],
        )

    @classmethod
    @declared
    @filled_in
    def execute(cls, model, content, style, positive, steps=50, gamma=0.75, temperature=1.5, color_strength=1.0,
                blocks="auto", schedule="official", preset=CUSTOM, weight=1.0, style_features=None,
                options=None) -> io.NodeOutput:
        options, pictures = options or Options(), Pictures(content, style, style_features)
        look = Look(gamma, temperature, color_strength, blocks, weight)
        return io.NodeOutput(stylize(model, pictures, positive, options.inversion(steps, schedule), look, options))
