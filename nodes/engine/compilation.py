"""torch.compile in a run whose patches are its own: graphs apart from those of other runs."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache

import torch
from comfy.patcher_extension import WrappersMP

COMPILE = "torch.compile"  # key of the wrapper that ComfyUI's TorchCompileModel adds, and nodes of other packs with its help
KWARGS = "torch_compile_kwargs"  # among model_options: how it compiles


def execute(executor, *args, **kwargs):
    return executor(*args, **kwargs)


@contextmanager
def own_graphs(model_options: dict, wrappers: dict) -> Iterator[Callable]:
    """What makes the model calls of one run: `execute`, or that compiled as TorchCompileModel asks for in the run's own `wrappers`.

    That node's graphs do not look at patches, so that a run would go on with those of the last. These do, and the next run finds them
    again, also with another gamma. Models compiled in any other way are run uncompiled.
    """
    if wrappers.get(WrappersMP.APPLY_MODEL, {}).pop(COMPILE, None) is None:
        with uncompiled():
            yield execute
    else:
        kwargs = model_options[KWARGS]
        options = {name: value for name, value in (kwargs["options"] or {}).items() if name != "guard_filter_fn"}
        backend = apart(kwargs["backend"], kwargs["mode"], tuple(options.items()), kwargs["dynamic"])
        yield torch.compile(execute, backend=backend, fullgraph=kwargs["fullgraph"], dynamic=kwargs["dynamic"])


@cache
def apart(backend: str | Callable, mode: str | None, options: tuple, dynamic: bool | None) -> Callable:
    """The same backend under another identity, by which torch keeps graphs apart."""
    kwargs = {}
    if backend == "inductor":
        modes = torch._inductor.list_mode_options(mode, dynamic) if mode else {}
        kwargs["config_patches"] = modes | dict(options)
    elif options:
        kwargs["options"] = dict(options)
    compiler = torch._dynamo.lookup_backend(backend)
    return lambda graph, inputs: compiler(graph, inputs, **kwargs)


def uncompiled() -> AbstractContextManager:
    """Without torch.compile, whose graphs might go on without the patches of this run, or with those of the last.

    torch before 2.6 cannot be told so; there a run that reached nothing still ends in an error.
    """
    stances = "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")
    return torch.compiler.set_stance("force_eager") if stances else nullcontext()
