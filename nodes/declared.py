"""Checks what arrives at a node against its schema.

ComfyUI checks types where nodes are linked, and ranges where a widget is set. But a prompt may carry a literal where a
link belongs, a link may carry any number, and an old graph may have inputs that are gone.
"""

import inspect
import math
from functools import wraps
from numbers import Integral, Real

import torch
from comfy_api.latest import io

from ..styleid_core.blocks import quote
from ..styleid_core.features import Features
from .engine.options import Options

LINKED = {  # {type of an input: whether a value can be one}
    "MODEL": lambda value: hasattr(value, "model_options"),
    "LATENT": lambda value: isinstance(value, dict) and "samples" in value,
    "CONDITIONING": lambda value: isinstance(value, list),
    "MASK": lambda value: isinstance(value, torch.Tensor),
    "IMAGE": lambda value: isinstance(value, torch.Tensor),
    "SIGMAS": lambda value: isinstance(value, torch.Tensor),
    # Also as the Curve Editor saves one.
    "CURVE": lambda value: hasattr(value, "interp") or isinstance(value, (list, tuple, dict)),
    "STYLEID_FEATURES": lambda value: isinstance(value, Features),
    "STYLEID_OPTIONS": lambda value: isinstance(value, Options),
}
SET = {"INT": Integral, "FLOAT": Real, "STRING": str, "BOOLEAN": bool}  # by the type of a widget


def declared(execute):
    """`execute` of a node, with a ValueError for an input or a value that its schema does not allow."""
    parameters = inspect.signature(execute)

    @wraps(execute)
    def checked(cls, *values, **named):
        schema = cls.define_schema()
        unknown = [name for name in named if name not in parameters.parameters]
        if unknown:
            raise ValueError(f"There is no input {unknown[0]} in {schema.display_name}: the graph was made with "
                             "another version. Add the node again.")
        arrived = parameters.bind(cls, *values, **named).arguments
        for each in schema.inputs:
            if arrived.get(each.id) is not None or each.id in arrived and not each.optional:
                check(each, arrived[each.id])
        return execute(cls, *values, **named)

    return checked


def check(each: io.Input, value):
    kind = each.get_io_type()
    if kind in LINKED:
        if not LINKED[kind](value):
            raise ValueError(f"The input {each.id} is {shown(value)}, and a link of the type {kind} belongs there. "
                             "Connect one.")
    elif kind == "COMBO":
        if value not in each.options:
            raise ValueError(f"The setting {each.id} is {shown(value)}. Choose from "
                             f"{', '.join(map(str, each.options))}.")
    elif not isinstance(value, SET[kind]):
        raise ValueError(f"The setting {each.id} is {shown(value)}, and its type is {kind}.")
    elif kind in ("INT", "FLOAT") and not each.min <= value <= each.max:
        unlike = "" if math.isfinite(value) else ", which is not a number"
        raise ValueError(f"The setting {each.id} is {value:g}{unlike}. Set it to one from {each.min:g} to "
                         f"{each.max:g}.")


def shown(value) -> str:
    if isinstance(value, str):
        return quote(value)
    return repr(value) if isinstance(value, (Real, type(None))) else f"a {type(value).__name__}"
