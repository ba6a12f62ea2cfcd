"""How a picture is inverted, and so how it is sampled again: one value on wires, in files and among what is remembered.
"""

from typing import NamedTuple


class InversionSettings(NamedTuple):
    """
    steps      of the inversion, and of the sampling
    schedule   "official", "ddim", or a scheduler of ComfyUI
    denoise    below 1 only the last `steps` of steps / denoise
    refine     how often each step of the inversion asks the model again, as in `schedules.refined`
    method     one of `schedules.METHODS`
    """
    steps: int = 50
    schedule: str = "official"
    denoise: float = 1.0
    refine: int = 0
    method: str = "ddim"

    @property
    def total(self) -> int:
        """Steps of the whole noise schedule."""
        return int(self.steps / self.denoise)

    def __str__(self) -> str:
        return (f"{self.steps} steps of the schedule {self.schedule}, denoise {self.denoise:g}, refine {self.refine}, "
                f"inversion {self.method}")
