"""StyleIDSweep: one run of the graph for each combination of gamma and temperature."""

from comfy_api.latest import io

from .declared import declared
from .engine.sweep import combined, values


class StyleIDSweep(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StyleIDSweep",
            display_name="StyleID Sweep",
            category="styleid",
            description="Runs the graph behind it for each combination of gamma and temperature, for a grid of "
                        "results. Both pictures are inverted once.",
            search_aliases=["styleid", "xy plot", "grid", "compare settings"],
            inputs=[
                io.String.Input("gamma", default="0.3, 0.5, 0.75", tooltip="Values of gamma, the columns."),
                io.String.Input("temperature", default="1, 1.5, 2", tooltip="Values of the temperature, the rows."),
            ],
            outputs=[
                io.Float.Output(display_name="gamma", is_output_list=True,
                                tooltip="For gamma of Inject Style K/V or StyleID Sampler."),
                io.Float.Output(display_name="temperature", is_output_list=True,
                                tooltip="For temperature of the same node."),
                io.String.Output(display_name="label", is_output_list=True,
                                 tooltip="For Draw Text Overlay, of each result."),
                io.Int.Output(display_name="columns", tooltip="For Make Image Grid."),
            ],
        )

    @classmethod
    @declared
    def execute(cls, gamma="0.3, 0.5, 0.75", temperature="1, 1.5, 2") -> io.NodeOutput:
        gammas, temperatures = values("gamma", gamma, 1), values("temperature", temperature, 10)
        return io.NodeOutput(*combined(gammas, temperatures), len(gammas))
