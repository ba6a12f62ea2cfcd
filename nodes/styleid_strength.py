"""StyleIDStrength: gamma and weight from one slider."""

from comfy_api.latest import io

from .declared import declared
from .engine.presets import at_strength


class StyleIDStrength(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StyleIDStrength",
            display_name="StyleID Strength",
            category="styleid",
            description="One slider from the content to as much style as there is: sets gamma and weight together, "
                        "along what was measured to keep most of the content for the same style.",
            search_aliases=["styleid", "style strength", "amount of style"],
            inputs=[
                io.Model.Input("model", tooltip="The model that samples: UNets and transformers take other values."),
                io.Float.Input("strength", default=0.5, min=0.0, max=1.0, step=0.01,
                               tooltip="0 is without the style's attention, 0.5 keeps more of the content and of the "
                                       "style than the paper's settings, 1 is as much style as there is."),
            ],
            outputs=[
                io.Float.Output(display_name="gamma", tooltip="For gamma of Inject Style K/V or StyleID Sampler."),
                io.Float.Output(display_name="weight", tooltip="For weight of the same node."),
            ],
        )

    @classmethod
    @declared
    def execute(cls, model, strength=0.5) -> io.NodeOutput:
        return io.NodeOutput(*at_strength(model, strength))
