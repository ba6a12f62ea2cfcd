"""From a workflow as the frontend saves it to the prompt that ComfyUI's API takes. Standard library only."""

import json
from itertools import chain, repeat
from pathlib import Path

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR"}
NOTES = {"Note", "MarkdownNote"}
MUTED = 2  # a node's mode
SHOWING = {"IMAGECOMPARE": {"__value__": ["", ""]}}  # widgets that hold no value, and what the page sends for them


def load_prompt(path: Path, object_info: dict, muted: bool = False) -> dict:
    """API prompt {id: {class_type, inputs}} of a UI workflow without subgraphs, with what is `muted` or without;
    `object_info` is the server's answer to that.
    """
    workflow = json.loads(path.read_text(encoding="utf-8"))
    origins = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    return {str(node["id"]): {"class_type": node["type"],
                              "inputs": node_inputs(node, object_info[node["type"]], origins)}
            for node in workflow["nodes"] if node["type"] not in NOTES and (muted or node["mode"] != MUTED)}


def node_inputs(node: dict, info: dict, origins: dict) -> dict:
    """A saved node lists its widgets' values without names, in the order of the node's definition; it may lack newer
    ones.
    """
    names, showing = [], {}
    for name, (kind, *options) in (info["input"].get("required", {}) | info["input"].get("optional", {})).items():
        if isinstance(kind, list) or kind in WIDGETS:
            names.append(name)
            if options and options[0].get("control_after_generate"):
                names.append(None)
        elif kind in SHOWING:
            showing[name] = SHOWING[kind]
    values = {name: value for name, value in zip(names, node.get("widgets_values", [])) if name}
    links = {slot["name"]: origins[slot["link"]] for slot in node["inputs"] if slot["link"] is not None}
    return values | showing | links


def find(prompt: dict, class_type: str) -> list[dict]:
    """The inputs of every node of a class, in the order of the workflow, to read or change in place."""
    return [node["inputs"] for node in prompt.values() if node["class_type"] == class_type]


def saving(inversion: str, prefix: str) -> dict:
    """A node that saves what the DDIMInvert with that id gives."""
    links = {name: [inversion, i] for i, name in enumerate(("noise", "features", "sigmas"))}
    return {"class_type": "SaveStyleIDFeatures", "inputs": {**links, "filename_prefix": prefix}}


def use_pictures(prompt: dict, names: tuple[str, ...], megapixels: float | None = None) -> dict:
    """The same prompt, changed in place: content and styles by their names in ComfyUI's input folder, scaled to so many
    megapixels.

    What is loaded beyond the names gets the last.
    """
    for inputs, name in zip(find(prompt, "LoadImage"), chain(names, repeat(names[-1]))):
        inputs["image"] = name
    if megapixels is not None:
        for inputs in find(prompt, "ImageScaleToTotalPixels"):
            inputs["megapixels"] = megapixels
    return prompt


def use_demo_model(prompt: dict) -> dict:
    """The same prompt with the demo's models in place of what is loaded from files, and of the prompts that CLIP
    encodes.
    """
    kinds = {id: node["class_type"] for id, node in prompt.items()}
    [loader] = (id for id, kind in kinds.items() if kind in ("CheckpointLoaderSimple", "UNETLoader"))
    xl = "xl" in prompt[loader]["inputs"].get("ckpt_name", "")
    demo = "StyleIDDemoSDXL" if xl else "StyleIDDemoModel"
    if kinds[loader] == "UNETLoader":
        demo = "StyleIDDemoTransformer"
    outputs = {"CLIPTextEncode": 1, "VAELoader": 2}  # of the demo's loader, in place of a node's
    prompt = {id: node for id, node in prompt.items() if kinds[id] not in (*outputs, "CLIPLoader")}
    prompt[loader] = {"class_type": demo, "inputs": {}}
    for node in prompt.values():
        node["inputs"] = {name: [loader, outputs[kinds[value[0]]]] if isinstance(value, list)
                          and kinds.get(value[0]) in outputs else value
                          for name, value in node["inputs"].items()}
        if node["class_type"] == "ControlNetLoader":
            node |= {"class_type": "StyleIDDemoControlNet", "inputs": {"xl": xl}}
        elif node["class_type"] == "LoraLoader":
            names = ("model", "lora_name", "strength_model")
            node |= {"class_type": "LoraLoaderModelOnly", "inputs": {name: node["inputs"][name] for name in names}}
    return prompt
