import { app } from "../../scripts/app.js";

const SAYS = {
    en: (title) => `${title}: this graph was made with another version, whose values are in another order. Add the node again.`,
    zh: (title) => `${title}：此工作流由其他版本制作，数值的顺序不同。请重新添加该节点。`,
};

/** A saved node has its values by their order alone. Where they do not fit its widgets, the page says so, once for each node. */
app.registerExtension({
    name: "styleid.older_graphs",
    beforeRegisterNodeDef(nodeType, nodeData) {
        const ours = nodeData.search_aliases?.includes("styleid");
        if (!ours || nodeData.name === "LoadStyleIDFeatures") return;  // whose file may be gone
        const onConfigure = nodeType.prototype.onConfigure;
        nodeType.prototype.onConfigure = function (...args) {
            onConfigure?.apply(this, args);
            if ((this.widgets ?? []).every(fits)) return;
            const language = app.ui.settings.getSettingValue("Comfy.Locale");
            const detail = (SAYS[language] ?? SAYS.en)(this.title);
            app.extensionManager.toast.add({ severity: "warn", summary: "StyleID", detail, life: 20000 });
        };
    },
});

function fits({ type, value, options }) {
    const choices = typeof options?.values === "function" ? options.values() : options?.values;
    if (type === "combo") return !Array.isArray(choices) || choices.includes(value);
    if (type === "number") return Number.isFinite(value);
    return type !== "toggle" || typeof value === "boolean";
}
