"""Files that a user names. Standard library only."""

import os
from pathlib import Path

from .host import HostError

SAFETENSORS, TORCH = (".safetensors", ".sft"), (".ckpt", ".pt", ".pth", ".bin")


def existing_file(text: str) -> Path:
    if not os.path.isfile(text):  # also of a name that is too long, for which Path.is_file raises
        raise HostError(f"There is no file {text}.")
    return Path(text).resolve()


def existing_folder(text: str) -> Path:
    if not os.path.isdir(text):
        raise HostError(f"There is no folder {text}.")
    return Path(text).resolve()


def checkpoint_file(text: str) -> Path:
    """An existing file that begins as its suffix says: safetensors with the length of a header, torch as a zip or a
    pickle.
    """
    path = existing_file(text)
    with path.open("rb") as file:
        start = file.read(9)
    suffix = path.suffix.lower()
    if suffix in SAFETENSORS and start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return path
    if suffix in TORCH and start.startswith((b"PK", b"\x80")):
        return path
    raise HostError(f"{path} is not a checkpoint, neither of safetensors ({', '.join(SAFETENSORS)}) nor of torch "
                    f"({', '.join(TORCH)}).")
