"""What StyleID Sampler is set to, beside its pictures and its model."""

from typing import NamedTuple

from ...styleid_core.curves import Curve
from ...styleid_core.settings import InversionSettings
from . import checks

CFG_MAX_SIGMA = 5.42  # for data of unit deviation: Kynkäänniemi et al. 2024, arXiv 2404.07724, for SDXL


class Options(NamedTuple):
    """What few people change.

    negative, cfg        classifier-free guidance of the sampling, from the noise level `cfg_max_sigma` (for data of
                         unit deviation) down: above it, guidance would burn the colors that AdaIN set
    inversion_positive   CONDITIONING of both inversions; None: that of the sampling
    style_positive       of the style's inversion; None: that of the other, as `conditioning.for_style` makes it
    denoise, refine, method                    as in `InversionSettings`
    inject_into, start_percent, end_percent    as in `Style`
    feature_dtype, feature_device              as in `CaptureRequest`
    auto_temperature, *_curve                  as in `Style`, where temperature is tau
    """
    negative: list | None = None
    cfg: float = 1.0
    cfg_max_sigma: float = CFG_MAX_SIGMA
    inversion_positive: list | None = None
    style_positive: list | None = None
    denoise: float = 1.0
    inject_into: str = "both"
    start_percent: float = 0.0
    end_percent: float = 1.0
    feature_dtype: str = "auto"
    feature_device: str = "auto"
    auto_temperature: bool = False
    gamma_curve: Curve | None = None
    temperature_curve: Curve | None = None
    weight_curve: Curve | None = None
    refine: int = 0
    method: str = "ddim"

    def __repr__(self) -> str:
        """Short: with every error ComfyUI keeps the text of a node's inputs in its history, and prompts are tensors."""
        short = (f"{name}={value}" for name, value in self._asdict().items() if not isinstance(value, list))
        return f"Options({', '.join(short)})"

    def inversion(self, steps: int, schedule: str) -> InversionSettings:
        return InversionSettings(steps, schedule, self.denoise, self.refine, self.method)


def check_options(options: Options) -> Options:
    checks.require_span(options.start_percent, options.end_percent)
    checks.require_guidance(options.cfg, options.negative, options.inject_into)
    return options
