"""Whether an error has to do with us: ComfyUI's own nodes in place of the pack's, to see what they do alone."""

from .graphs import OURS

PASSED_ON = {"CaptureSelfAttention": "model", "InjectStyleKV": "model", "LatentAdaIN": "content",
             "DDIMInvert": "latent",
             "StyleIDStartFrequencies": "noise", "StyleIDPositions": "model"}


def without_us(prompt: dict) -> dict:
    """What our nodes make of an input is that input; KSampler samples for StyleIDSampler."""
    control = {name: node | {"inputs": {key: past_us(prompt, value) for key, value in node["inputs"].items()}}
               for name, node in prompt.items() if node["class_type"] not in OURS}
    for name, node in prompt.items():
        inputs = {key: past_us(prompt, node["inputs"].get(key)) for key in ("model", "content", "positive")}
        if node["class_type"] == "StyleIDSampler":
            control[name] = {"class_type": "KSampler", "inputs": dict(
                model=inputs["model"], seed=0, steps=2, cfg=1.0, sampler_name="euler", scheduler="normal",
                positive=inputs["positive"], negative=inputs["positive"], latent_image=inputs["content"], denoise=1.0)}
        elif node["class_type"] == "DDIMInvert":
            control[sigmas_of(name)] = {"class_type": "BasicScheduler", "inputs": dict(
                model=inputs["model"], scheduler="ddim_uniform", steps=2, denoise=1.0)}
    return control


def behind_us(prompt: dict, name: str) -> bool:
    """Whether the node `name` is one of ours, or is given what one of ours has made."""
    seen, new = set(), {name}
    while new:
        seen |= new
        links = (value for node in new for value in prompt[node]["inputs"].values() if isinstance(value, list)
                 and value)
        new = {str(name) for name, *_ in links} & prompt.keys() - seen
    return any(prompt[node]["class_type"] in OURS for node in seen)


def sigmas_of(name: str) -> str:
    return f"sigmas of {name}"


def past_us(prompt: dict, value):
    """The link that `value` becomes without our nodes between."""
    for _ in prompt:  # or a circle of nodes would go on for ever
        if not (isinstance(value, list) and len(value) == 2 and str(value[0]) in prompt):
            break
        node = prompt[value[0]]
        if node["class_type"] == "DDIMInvert" and value[1] == 2:
            return [sigmas_of(value[0]), 0]
        if node["class_type"] not in PASSED_ON:
            break
        value = node["inputs"].get(PASSED_ON[node["class_type"]])
    return value
