"""StyleIDOptions: what few people change about StyleID Sampler."""

from comfy_api.latest import io

from . import inputs
from .declared import declared
from .engine.curves import curve_of
from .engine.options import CFG_MAX_SIGMA, Options, check_options


class StyleIDOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StyleIDOptions",
            display_name="StyleID Options",
            category="styleid",
            description="The less common settings of StyleID Sampler: guidance with a prompt, how far to invert, where "
                        "to inject, and how features are kept.",
            search_aliases=["styleid", "advanced", "cfg", "negative prompt", "low vram"],
            inputs=[
                io.Conditioning.Input("negative", optional=True,
                                      tooltip="What the result should not show; works with cfg above 1."),
                io.Float.Input("cfg", default=1.0, min=0.0, max=100.0, step=0.1, round=0.01,
                               tooltip="Classifier-free guidance of the sampling: 1 (the paper) is off and twice as "
                                       "fast, higher follows the prompts more."),
                io.Float.Input("cfg_max_sigma", default=CFG_MAX_SIGMA, min=0.0, max=10000.0, step=0.01,
                               tooltip="Noise level below which cfg works: above 5.42, guidance would burn the style's "
                                       "colors."),
                io.Conditioning.Input("inversion_positive", optional=True,
                                      tooltip="Conditioning of both inversions instead of positive: with a prompt in "
                                              "positive, connect an empty one here."),
                io.Conditioning.Input("style_positive", optional=True,
                                      tooltip="Conditioning of the style's inversion alone, where that of the content "
                                              "holds a picture: a ControlNet's, a masked one, one to edit. Without it "
                                              "the style is inverted with its own picture there, or none."),
                inputs.denoise(),
                inputs.inject_into(),
                inputs.start_percent(),
                inputs.end_percent(),
                inputs.feature_dtype(),
                inputs.feature_device(),
                inputs.auto_temperature(),
                inputs.curve("gamma_curve", "gamma"),
                inputs.curve("temperature_curve", "the temperature"),
                inputs.curve("weight_curve", "the weight"),
                inputs.refine(),
                inputs.inversion(),
            ],
            outputs=[inputs.OptionsType.Output(display_name="options", tooltip="For StyleID Sampler.")],
        )

    @classmethod
    @declared
    def execute(cls, negative=None, cfg=1.0, cfg_max_sigma=CFG_MAX_SIGMA, inversion_positive=None, style_positive=None,
                denoise=1.0, inject_into="both", start_percent=0.0, end_percent=1.0, feature_dtype="auto",
                feature_device="auto", auto_temperature=False, gamma_curve=None, temperature_curve=None,
                weight_curve=None, refine=0, inversion="ddim") -> io.NodeOutput:
        return io.NodeOutput(check_options(Options(
            negative=negative, cfg=cfg, cfg_max_sigma=cfg_max_sigma, inversion_positive=inversion_positive,
            style_positive=style_positive, denoise=denoise, inject_into=inject_into, start_percent=start_percent,
            end_percent=end_percent, feature_dtype=feature_dtype, feature_device=feature_device,
            auto_temperature=auto_temperature, gamma_curve=curve_of("gamma_curve", gamma_curve),
            temperature_curve=curve_of("temperature_curve", temperature_curve),
            weight_curve=curve_of("weight_curve", weight_curve), refine=refine, method=inversion)))
