"""Curves over the sampling, as ComfyUI's type CURVE carries them."""

import math

from ...styleid_core.curves import Curve, shaped

try:
    from comfy_api.input import CurveInput
except ImportError:  # ComfyUI before its Curve Editor
    CurveInput = object

POINTS = 33  # of a drawing


class ShapedCurve(CurveInput):
    """One of `curves.SHAPES`, exact everywhere."""

    def __init__(self, shape: str, start: float, end: float):
        self.value = shaped(shape, start, end)

    def interp(self, x: float) -> float:
        return self.value(x)

    @property
    def points(self) -> list[tuple[float, float]]:
        return [(i / (POINTS - 1), self.interp(i / (POINTS - 1))) for i in range(POINTS)]


def curve_of(name: str, value) -> Curve | None:
    """What a CURVE input carries, as a function of the progress of the sampling; ValueError for none, or NaN."""
    if value is None:
        return None
    if not hasattr(value, "interp") and hasattr(CurveInput, "from_raw"):
        value = CurveInput.from_raw(value)
    if not hasattr(value, "interp"):
        raise ValueError(f"The {name} is no curve. Connect StyleID Curve or Curve Editor.")
    if not all(math.isfinite(value.interp(i / (POINTS - 1))) for i in range(POINTS)):
        raise ValueError(f"The {name} has NaN or infinity. Connect another curve.")
    return value.interp
