"""The grammar in which a user names decoder blocks: "6-11", "6,7,9-11"."""

import re

# Where a self-attention sits, as ComfyUI addresses it: ("output", block number, transformer index inside the block)
Block = tuple[str, int, int]

_ITEM = re.compile(r"(\d+)(?:-(\d+))?")


def parse_layers(layers: str) -> list[int]:
    """Block numbers, ascending and without repeats, of a comma separated list of numbers and ranges.

    Raises ValueError quoting the part that is neither "N" nor "N-M" with N <= M.
    """
    numbers = set()
    for item in layers.split(","):
        match = _ITEM.fullmatch(item.replace(" ", ""))
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise ValueError(f'layers "{layers}": "{item.strip()}" is not a block number or a range like 6-11. '
                             'Write for example "6-11" or "6,7,9-11".')
        numbers.update(range(first, last + 1))
    return sorted(numbers)
