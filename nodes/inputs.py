"""What several nodes ask for: the pack's wire types, and every shared input with its one default and tooltip."""

from comfy_api.latest import io

from ..styleid_core.schedules import METHODS
from ..styleid_core.storage import STORAGES
from ..styleid_core.style import INJECT_INTO
from .engine.capture import DEVICES
from .engine.inversion import SCHEDULES

FeaturesType = io.Custom("STYLEID_FEATURES")  # styleid_core.features.Features, which tells its shapes
OptionsType = io.Custom("STYLEID_OPTIONS")  # engine.options.Options
# ComfyUI's own, of its Curve Editor; io.Curve.Input would show an editor where nothing is connected.
CurveType = io.Custom("CURVE")


def positive() -> io.Input:
    return io.Conditioning.Input("positive", tooltip="Conditioning of every model call. The paper uses an empty "
                                                     "prompt.")


def steps(tooltip: str) -> io.Input:
    return io.Int.Input("steps", default=50, min=1, max=1000, tooltip=tooltip)


def schedule() -> io.Input:
    return io.Combo.Input("schedule", options=SCHEDULES, default="official",
                          tooltip="official follows the authors' code, ddim reconstructs the picture most closely, and "
                                  "the others use ComfyUI's scheduler of that name.")


def denoise(**options) -> io.Input:
    return io.Float.Input("denoise", default=1.0, min=0.001, max=1.0, step=0.01, optional=True, **options,
                          tooltip="1 inverts to pure noise; lower stops on the way, as in KSampler, and stays closer "
                                  "to the content.")


def refine(**options) -> io.Input:
    return io.Int.Input("refine", default=0, min=0, max=20, optional=True, **options,
                        tooltip="How often each step of the inversion asks the model again, for a truer inversion in "
                                "few steps: 1 or 2 are enough, with the schedule ddim.")


def inversion(**options) -> io.Input:
    return io.Combo.Input("inversion", options=list(METHODS), default="ddim", optional=True, **options,
                          tooltip="fireflow is truer in as many calls, for flow models, and needs its own sampler "
                                  "(StyleID Sampler has it).")


def gamma() -> io.Input:
    return io.Float.Input("gamma", default=0.75, min=0.0, max=1.0, step=0.01,
                          tooltip="Query preservation: higher keeps the content's shapes, lower (0.3 to 0.6) follows "
                                  "the style.")


def temperature() -> io.Input:
    return io.Float.Input("temperature", default=1.5, min=0.0, max=10.0, step=0.05,
                          tooltip="Sharpness of the attention to the style: 1 is off (blurry), higher is sharper.")


def weight() -> io.Input:
    return io.Float.Input("weight", default=1.0, min=0.0, max=1.0, step=0.01, optional=True,
                          tooltip="The style's part of the attention: 1 (the paper) sees the style alone, 0.8 to 0.97 "
                                  "sees the picture beside it and keeps its faces and shapes, 0 is without the style.")


def auto_temperature(**options) -> io.Input:
    return io.Boolean.Input("auto_temperature", default=False, optional=True, **options,
                            tooltip="Finds the temperature by itself, for each block, head and step, in place of the "
                                    "number: the attention to the style becomes as sharp as that to the picture "
                                    "itself.")


def color_strength() -> io.Input:
    return io.Float.Input("color_strength", default=1.0, min=0.0, max=1.0, step=0.01,
                          tooltip="Latent AdaIN: 0 keeps the content's colors, 1 (the paper) takes all of the style's.")


def blocks(tooltip: str = "Which self-attention: auto (blocks 6-11 of the decoder in SD 1.x, 0-5 in SDXL, all but the "
                          "first quarter of a transformer), or numbers and ranges such as 6,7,9-11, or double 5-18, "
                          "single 0-37.", **options) -> io.Input:
    return io.String.Input("blocks", default="auto", tooltip=tooltip, **options)


def inject_into(**options) -> io.Input:
    return io.Combo.Input("inject_into", options=list(INJECT_INTO), default="both", optional=True, **options,
                          tooltip="With cfg above 1: inject into the calls with the positive prompt (cond), with the "
                                  "negative (uncond), or both.")


def start_percent(**options) -> io.Input:
    return io.Float.Input("start_percent", default=0.0, min=0.0, max=1.0, step=0.01, optional=True, **options,
                          tooltip="When the injection begins: 0 with the first step; later keeps more of the content's "
                                  "large shapes.")


def end_percent(**options) -> io.Input:
    return io.Float.Input("end_percent", default=1.0, min=0.0, max=1.0, step=0.01, optional=True, **options,
                          tooltip="When the injection ends: 1 with the last step; earlier leaves the finest details to "
                                  "the model.")


def curve(name: str, of: str) -> io.Input:
    return CurveType.Input(name, optional=True, advanced=True, extra_dict={"forceInput": True},
                           tooltip=f"Multiplies {of} over the sampling, from pure noise (left) to the picture (right): "
                                   "from StyleID Curve or Curve Editor.")


def feature_dtype(**options) -> io.Input:
    return io.Combo.Input("feature_dtype", options=list(STORAGES), default="auto", optional=True, **options,
                          tooltip="Precision in which features are kept: auto is the model's; int8 takes half the "
                                  "memory of fp16 and changes the result by less than 1%.")


def feature_device(**options) -> io.Input:
    return io.Combo.Input("feature_device", options=DEVICES, default="auto", optional=True, **options,
                          tooltip="Where features are kept: auto takes RAM, from where a GPU gets them in time, and "
                                  "the GPU if RAM is short; recompute keeps none and takes 1.7 times as long.")
