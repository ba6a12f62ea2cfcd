"""InjectStyleKV: the style's keys and values in the self-attention of any sampling run."""

from comfy_api.latest import io

from .inversion import FeaturesType
from .patcher import INJECT_INTO, Settings, check_settings, inject_style

GAMMA_TOOLTIP = ("Query preservation: how much of the content's own queries is kept. Higher holds the content's shapes, "
                 "lower follows the style. The paper uses 0.75; 0.3 to 0.6 for a strong style.")
TEMPERATURE_TOOLTIP = ("Attention temperature: a factor on the attention logits, which foreign keys make too flat. "
                       "The paper uses 1.5; 1 is off (blurred), higher is sharper.")
INJECT_INTO_TOOLTIP = ("With cfg above 1: inject into the calls with the positive prompt (cond), with the negative (uncond), or both. "
                       "With cond alone, guidance also pushes from the model's own drawing to the style's.")
START_TOOLTIP = ("When the injection begins: 0 with the first step, 0.2 after a fifth of the noise schedule, which keeps more of the "
                 "content's large shapes.")
END_TOOLTIP = "When the injection ends: 1 with the last step; lower leaves the finest details to the model."


class InjectStyleKV(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="InjectStyleKV",
            display_name="Inject Style K/V",
            category="styleid",
            description="Makes any sampler attend to the style: the style's keys and values take the place of the model's own "
                        "in the captured self-attention blocks, asked with queries mixed from content and result.",
            search_aliases=["styleid", "style injection", "style transfer", "attention injection"],
            inputs=[
                io.Model.Input("model", tooltip="The model that samples."),
                FeaturesType.Input("content_features", tooltip="From DDIM Invert of the content: gives the queries."),
                FeaturesType.Input("style_features", tooltip="From DDIM Invert of the style, of any size: gives keys and values."),
                io.Float.Input("gamma", default=0.75, min=0.0, max=1.0, step=0.01, tooltip=GAMMA_TOOLTIP),
                io.Float.Input("temperature", default=1.5, min=0.0, max=10.0, step=0.05, tooltip=TEMPERATURE_TOOLTIP),
                io.Combo.Input("inject_into", options=list(INJECT_INTO), default="both", optional=True, advanced=True,
                               tooltip=INJECT_INTO_TOOLTIP),
                io.String.Input("layers", default="", optional=True, advanced=True,
                                tooltip="Which of the captured blocks to inject into, as in Capture Self-Attention. Empty: all. "
                                        "Trying fewer runs only the sampling again."),
                io.Float.Input("start_percent", default=0.0, min=0.0, max=1.0, step=0.01, optional=True, advanced=True,
                               tooltip=START_TOOLTIP),
                io.Float.Input("end_percent", default=1.0, min=0.0, max=1.0, step=0.01, optional=True, advanced=True, tooltip=END_TOOLTIP),
            ],
            outputs=[io.Model.Output(tooltip="For SamplerCustom or KSampler (Advanced) with noise off, on the noise of DDIM Invert.")],
        )

    @classmethod
    def execute(cls, model, content_features, style_features, gamma=0.75, temperature=1.5, inject_into="both", layers="",
                start_percent=0.0, end_percent=1.0) -> io.NodeOutput:
        settings = check_settings(Settings(gamma, temperature, inject_into, start_percent, end_percent, layers))
        return io.NodeOutput(inject_style(model, content_features, style_features, settings))


NODES = [InjectStyleKV]
