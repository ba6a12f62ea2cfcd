"""StyleIDPositions: where a transformer sees the style beside the picture."""

from comfy_api.latest import io

from .declared import declared
from .engine.families.positions import SHIFTS, Positions
from .engine.injection import with_positions

DEFAULT = Positions()


class StyleIDPositions(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StyleIDPositions",
            display_name="StyleID Positions",
            category="styleid",
            description="Where a transformer (Flux, Qwen-Image, Z-Image) sees the style: the closer to the picture's "
                        "own places, the more of the style's layout is copied. Without this node it is on top of it. "
                        "UNets and SD 3.5 have no such positions, and are refused.",
            search_aliases=["styleid", "rope", "untwisting rope", "position"],
            inputs=[
                io.Model.Input("model", tooltip="For Inject Style K/V or StyleID Sampler."),
                io.Combo.Input("place", options=list(SHIFTS), default=DEFAULT.place,
                               tooltip="diagonal: below the picture and to the right; beside: to the right; same: on "
                                       "top of it, where each part looks first at its own place in the style."),
                io.Float.Input("high_frequencies", default=DEFAULT.high, min=0.0, max=4.0, step=0.05,
                               tooltip="Factor on the highest frequency of the style's positions. Lower looks less at "
                                       "the same place and keeps more of the content's shapes; 1 is the model's own."),
                io.Float.Input("low_frequencies", default=DEFAULT.low, min=0.0, max=4.0, step=0.05,
                               tooltip="Factor on the lowest frequency, which sees what is alike wherever it is. "
                                       "Higher takes more of the style's strokes; 1 is the model's own."),
            ],
            outputs=[io.Model.Output(tooltip="The same model, which sees styles there.")],
        )

    @classmethod
    @declared
    def execute(cls, model, place=DEFAULT.place, high_frequencies=DEFAULT.high,
                low_frequencies=DEFAULT.low) -> io.NodeOutput:
        return io.NodeOutput(with_positions(model, Positions(place, high_frequencies, low_frequencies)))
