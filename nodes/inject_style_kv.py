"""InjectStyleKV: the style's keys and values in the self-attention of any sampling run."""

from comfy_api.latest import io

from . import inputs
from .engine.transfer import inject_captured


class InjectStyleKV(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="InjectStyleKV",
            display_name="Inject Style K/V",
            category="styleid",
            description="Makes any sampler attend to the style: in the captured self-attention blocks, the style's keys and values "
                        "replace the model's own, and the queries are mixed from content and result.",
            search_aliases=["styleid", "style injection", "style transfer", "attention injection"],
            inputs=[
                io.Model.Input("model", tooltip="The model that samples."),
                inputs.FeaturesType.Input("content_features", tooltip="From DDIM Invert of the content: gives the queries."),
                inputs.FeaturesType.Input("style_features", tooltip="From DDIM Invert of the style, of any size: gives keys and values."),
                inputs.gamma(),
                inputs.temperature(),
                inputs.blocks("Which of the captured blocks to inject into: auto takes all; a change reruns only the sampling.",
                              optional=True, advanced=True),
                inputs.inject_into(advanced=True),
                inputs.start_percent(advanced=True),
                inputs.end_percent(advanced=True),
            ],
            outputs=[io.Model.Output(tooltip="For SamplerCustom or KSampler (Advanced) with noise off, on the noise of DDIM Invert.")],
        )

    @classmethod
    def execute(cls, model, content_features, style_features, gamma=0.75, temperature=1.5, blocks="auto", inject_into="both",
                start_percent=0.0, end_percent=1.0) -> io.NodeOutput:
        return io.NodeOutput(inject_captured(model, content_features, style_features, blocks, gamma, temperature, inject_into,
                                             start_percent, end_percent))
