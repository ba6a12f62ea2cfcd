import { app } from "../../scripts/app.js";

const CUSTOM = "custom";

/** A preset of StyleID Sampler fills in the values that it stands for, and a value that is changed makes it custom. */
app.registerExtension({
    name: "styleid.presets",
    beforeRegisterNodeDef(nodeType, nodeData) {
        if (nodeData.name !== "StyleIDSampler") return;
        const { presets } = nodeData.input.optional.preset[1];
        const onNodeCreated = nodeType.prototype.onNodeCreated;
        nodeType.prototype.onNodeCreated = function (...args) {
            onNodeCreated?.apply(this, args);
            const widget = (name) => this.widgets.find((each) => each.name === name);
            const preset = widget("preset");
            afterCallback(preset, () => {
                for (const [name, value] of Object.entries(presets[preset.value] ?? {})) widget(name).value = value;
            });
            for (const name of Object.keys(presets.paper)) {
                afterCallback(widget(name), () => {
                    if (presets[preset.value]?.[name] !== widget(name).value) preset.value = CUSTOM;
                });
            }
        };
    },
});

function afterCallback(widget, then) {
    const callback = widget.callback;
    widget.callback = function (...args) {
        callback?.apply(this, args);
        then();
    };
}
