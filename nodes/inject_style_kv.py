"""InjectStyleKV: the style's keys and values in the self-attention of any sampling run."""

from comfy_api.latest import io

from ..styleid_core.style import Style
from . import inputs
from .declared import declared
from .engine.curves import curve_of
from .engine.injection import inject_captured


class InjectStyleKV(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="InjectStyleKV",
            display_name="Inject Style K/V",
            category="styleid",
            description="Makes any sampler attend to the style: in the captured self-attention blocks, the style's "
                        "keys and values replace the model's own or, by weight, stand beside them, and the queries are "
                        "mixed from content and result. A second one adds a style.",
            search_aliases=["styleid", "style injection", "style transfer", "attention injection"],
            inputs=[
                io.Model.Input("model", tooltip="The model that samples."),
                inputs.FeaturesType.Input("content_features",
                                          tooltip="From DDIM Invert of the content: gives the queries."),
                inputs.FeaturesType.Input("style_features",
                                          tooltip="From DDIM Invert of the style, of any size: gives keys and values."),
                inputs.gamma(),
                inputs.temperature(),
                inputs.weight(),
                io.Mask.Input("mask", optional=True,
                              tooltip="Where in the picture the style is injected; gray counts as a lower weight."),
                io.Mask.Input("style_mask", optional=True,
                              tooltip="The part of the style picture that is used; all of it without a mask."),
                inputs.blocks("Which of the captured blocks to inject into: auto takes all; a change reruns only the "
                              "sampling.",
                              optional=True, advanced=True),
                inputs.inject_into(advanced=True),
                inputs.start_percent(advanced=True),
                inputs.end_percent(advanced=True),
                inputs.auto_temperature(advanced=True),
                inputs.curve("gamma_curve", "gamma"),
                inputs.curve("temperature_curve", "the temperature"),
                inputs.curve("weight_curve", "the weight"),
            ],
            outputs=[io.Model.Output(tooltip="For SamplerCustom or KSampler (Advanced) with noise off, on the noise of "
                                             "DDIM Invert.")],
        )

    @classmethod
    @declared
    def execute(cls, model, content_features, style_features, gamma=0.75, temperature=1.5, weight=1.0, mask=None,
                style_mask=None, blocks="auto", inject_into="both", start_percent=0.0, end_percent=1.0,
                auto_temperature=False, gamma_curve=None, temperature_curve=None, weight_curve=None) -> io.NodeOutput:
        return io.NodeOutput(inject_captured(model, blocks, Style(
            content=content_features, features=style_features, gamma=gamma, tau=temperature, inject_into=inject_into,
            start=start_percent, end=end_percent, weight=weight, mask=mask, style_mask=style_mask,
            auto_tau=auto_temperature, gamma_curve=curve_of("gamma_curve", gamma_curve),
            tau_curve=curve_of("temperature_curve", temperature_curve),
            weight_curve=curve_of("weight_curve", weight_curve))))
