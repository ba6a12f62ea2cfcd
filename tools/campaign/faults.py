"""Places in a transfer where something can go wrong, and what is raised there."""

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from typing import NamedTuple
from unittest.mock import patch

import comfy.model_management
import latent_preview
import torch
from comfy.patcher_extension import WrappersMP

from ..host import ROOT


class InjectedError(RuntimeError):
    """Nobody else raises this."""


def interrupt():
    """What pressing Cancel does; ComfyUI raises it at its next look."""
    comfy.model_management.interrupt_current_processing(True)
    comfy.model_management.throw_exception_if_processing_interrupted()


def out_of_memory():
    raise torch.cuda.OutOfMemoryError("injected: out of memory")


def error():
    raise InjectedError("injected: another node fails")


ERRORS = {"interrupt": (interrupt, comfy.model_management.InterruptProcessingException),
          "out of memory": (out_of_memory, torch.cuda.OutOfMemoryError),
          "error": (error, InjectedError)}


class Fault(NamedTuple):
    """`error` (one of ERRORS) at `place` (one of PLACES), when the share `when` (0..1) of its events is over.

    `layer` is the module that the place "a layer" means.
    """
    error: str
    place: str
    layer: str
    when: float


class Trigger:
    """Counts the events of a place, and raises at the chosen one."""

    def __init__(self, raises: Callable | None = None, at: int = 0):
        self.raises, self.at, self.count = raises, at, 0

    def __call__(self, *_, **__):
        self.count += 1
        if self.count == self.at:
            self.raises()


@contextmanager
def at_model_calls(model, trigger, layer):
    with model.model.diffusion_model.register_forward_pre_hook(lambda *_: trigger()):
        yield model


@contextmanager
def at_a_layer(model, trigger, layer):
    with model.model.diffusion_model.get_submodule(layer).register_forward_hook(lambda *_: trigger()):
        yield model


@contextmanager
def in_an_attention_patch(model, trigger, layer):
    m = model.clone()

    def attention_patch(n, context, value, extra_options):
        trigger()
        return n, context, value

    m.set_model_attn1_patch(attention_patch)
    m.set_model_attn2_patch(attention_patch)
    yield m


@contextmanager
def in_a_wrapper(model, trigger, layer):
    def wrapper(executor, *args, **kwargs):
        trigger()
        result = executor(*args, **kwargs)
        trigger()
        return result

    m = model.clone()
    # Not of the UNet's own call, which feature_device recompute could not repeat: those are refused.
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.SAMPLER_SAMPLE, WrappersMP.APPLY_MODEL):
        m.add_wrapper_with_key(kind, "campaign", wrapper)
    yield m


@contextmanager
def after_guidance(model, trigger, layer):
    def post_cfg(args):
        trigger()
        return args["denoised"]

    m = model.clone()
    m.set_model_sampler_post_cfg_function(post_cfg)
    yield m


@contextmanager
def in_the_callback(model, trigger, layer):
    prepare = latent_preview.prepare_callback

    def prepared(*args, **kwargs):
        callback = prepare(*args, **kwargs)

        def triggering(*arguments):
            trigger()
            callback(*arguments)

        return triggering

    with patch.object(latent_preview, "prepare_callback", prepared):
        yield model


@contextmanager
def while_the_model_loads(model, trigger, layer):
    load = comfy.model_management.load_models_gpu

    def loading(*args, **kwargs):
        trigger()
        load(*args, **kwargs)
        trigger()

    with patch.object(comfy.model_management, "load_models_gpu", loading):
        yield model


@contextmanager
def at_a_line_of_the_pack(model, trigger, layer):
    """Any line of our own modules, whatever it does, but of the trial of a sampler: how another pack's sampler fails
    there is no error.
    """
    folders = tuple(str(ROOT / name) for name in ("nodes", "styleid_core"))

    def in_line(frame, event, argument):
        if event == "line":
            trigger()
        return in_line

    def in_frame(frame, event, argument):
        name = frame.f_code.co_filename
        return in_line if name.startswith(folders) and not name.endswith("engine/samplers.py") else None

    sys.settrace(in_frame)
    try:
        yield model
    finally:
        sys.settrace(None)


# Each is called with (MODEL, trigger, layer), and gives the MODEL to run with.
PLACES = {"a model call": at_model_calls, "a layer": at_a_layer, "an attention patch": in_an_attention_patch,
          "a wrapper": in_a_wrapper, "the guidance": after_guidance, "the sampler callback": in_the_callback,
          "loading the model": while_the_model_loads, "a line of the pack": at_a_line_of_the_pack}


def called_layers(model, run: Callable) -> list[str]:
    """Names of the UNet's modules that `run()` calls, each once in every call of the UNet; others only hold modules."""
    called: list[str] = []
    with ExitStack() as stack:
        for name, module in model.model.diffusion_model.named_modules():
            stack.enter_context(module.register_forward_hook(lambda *_, name=name: called.append(name)))
        run()
    return [name for name, count in Counter(called).items() if name and count == 1]
