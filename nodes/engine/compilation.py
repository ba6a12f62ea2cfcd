"""torch.compile in a run whose patches are its own: graphs apart from those of other runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from comfy.patcher_extension import WrappersMP

from . import host


def execute(executor, *args, **kwargs):
    return executor(*args, **kwargs)


@contextmanager
def own_graphs(model_options: dict, wrappers: dict) -> Iterator[Callable]:
    """Yields the function that makes one run's model calls: `execute`, compiled if TorchCompileModel is among the run's
    own `wrappers`, and removes it there.

    That node's graphs do not look at patches, so that a run would go on with those of the last. These do, and later
    runs find them again, also with another gamma. Models compiled in any other way are run uncompiled.
    """
    if wrappers.get(WrappersMP.APPLY_MODEL, {}).pop(host.COMPILE, None) is None:
        with host.uncompiled():
            yield execute
    else:
        kwargs = model_options[host.COMPILE_KWARGS]
        options = {name: value for name, value in (kwargs["options"] or {}).items() if name != "guard_filter_fn"}
        backend = own_backend(kwargs["backend"], kwargs["mode"], tuple(options.items()), kwargs["dynamic"])
        yield torch.compile(execute, backend=backend, fullgraph=kwargs["fullgraph"], dynamic=kwargs["dynamic"])


@cache
def own_backend(*arguments) -> Callable:
    """`host.compiler_of`, one function for the same arguments: torch keeps and finds graphs by it."""
    return host.compiler_of(*arguments)
