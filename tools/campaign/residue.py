"""What a transfer may leave behind: tensors, changes of the model it was given, changes of what that model draws."""

import gc

import torch
from comfy.samplers import sampler_object
from comfy_extras.nodes_custom_sampler import SamplerCustom

from .transfers import conditioning_of, digest, small_model


class Bench:
    """A model, and how it was before anything was tried with it."""

    def __init__(self):
        gc.collect()
        gc.freeze()  # what is imported by now is not looked at again
        self.model = small_model()

    def settle(self):
        """Take the present for what has to stay."""
        self.picture = self.draw()
        self.tensors, self.state = live_tensors(), state_of(self.model)

    def draw(self) -> str:
        """What the untouched model makes of fixed noise."""
        x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        positive = conditioning_of("positive")
        sampled = SamplerCustom.execute(self.model, False, 0, 1.0, positive, positive, sampler_object("euler"),
                                        torch.tensor([9.0, 0.0]), {"samples": x})
        return digest(sampled.result[0]["samples"])

    def residue(self) -> str:
        """What was left behind since `settle`; empty for nothing."""
        found = ["the untouched model draws something else"] if self.draw() != self.picture else []
        tensors, state = live_tensors(), state_of(self.model)
        if sum(tensors.values()) > sum(self.tensors.values()):
            more = {shape: count - self.tensors.get(shape, 0) for shape, count in tensors.items()
                    if count > self.tensors.get(shape, 0)}
            found.append(f"tensors stay alive: {more}")
        found += [f"{name} of the model changed" for name in state if state[name] != self.state[name]]
        return ", ".join(found)


def live_tensors() -> dict[tuple, int]:
    """How many tensors of each shape live, besides those that existed before the model."""
    gc.collect()
    shapes: dict[tuple, int] = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor):
            shape = tuple(thing.shape)
            shapes[shape] = shapes.get(shape, 0) + 1
    return shapes


def state_of(model) -> dict[str, object]:
    """All that another node may have put on a MODEL, in what can be compared after it has gone."""
    names = ("model_options", "patches", "object_patches", "wrappers", "callbacks", "attachments", "injections",
             "additional_models",
             "hook_patches", "forced_hooks")
    hooks = [(name, key) for name, module in model.model.named_modules() for key in module.__dict__
             if key.endswith("_hooks") and module.__dict__[key]]
    own = [(name, sorted(module.__dict__)) for name, module in model.model.named_modules()]
    return {name: frozen(getattr(model, name, None)) for name in names} | {"hooks": hooks, "attributes": own}


def frozen(value):
    """Containers by their content, everything else by what it is."""
    if isinstance(value, dict):
        return [(frozen(key), frozen(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple, set)):
        return [frozen(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else (type(value).__name__, id(value))
