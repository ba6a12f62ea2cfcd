"""Whether an error reads as a sentence of ours, and whose it is."""

import re
import traceback
from typing import NamedTuple

from ..host import ROOT

OURS = re.compile(r'File "[^"]*/(?:nodes|styleid_core)/[\w/]+\.py"')
HOST = re.compile(r'File "[^"]*/(?:ComfyUI[^"/]*|comfy|comfy_extras|site-packages)/[^"]*"')
LONGEST = 1000  # characters; a sentence that repeats a user's whole text is none


class Error(NamedTuple):
    """`kind` is the class name, `frames` the traceback as `traceback.format_tb` gives it, outermost first."""
    kind: str
    message: str
    frames: list[str]


def error_of(exception: BaseException) -> Error:
    return Error(type(exception).__name__, str(exception), traceback.format_tb(exception.__traceback__))


def is_ours(frame: str) -> bool:
    return bool(OURS.search(frame)) and (str(ROOT) in frame or "custom_nodes" in frame) and "site-packages" not in frame


def is_sentence(message: str) -> bool:
    """Begins as a sentence or with the name of a setting, says something, and ends with a full stop."""
    begins = re.match(r'[A-Z][a-z]* \w+|[a-z_]+ ["\d\-]|"', message)
    return bool(begins) and message.rstrip().endswith((".", "?",
                                                       "!")) and len(message.split()) >= 5 and len(message) <= LONGEST


def is_refusal(error: Error) -> bool:
    """A ValueError that our code raises itself, in a sentence."""
    ours = bool(error.frames) and is_ours(error.frames[-1])
    return ours and error.kind == "ValueError" and is_sentence(error.message)


def told(error: Error) -> str:
    """The error and the last place of ours that it passed."""
    places = [frame.strip().splitlines()[0] for frame in error.frames if is_ours(frame)]
    place = re.sub(r'File "[^"]*?((?:nodes|styleid_core)/[^"]*)", line (\d+), in (\w+)', r"\1:\2 \3",
                   places[-1]) if places else "elsewhere"
    return f"{error.kind}: {error.message} [{place}]"
