"""The grammar in which a user names decoder blocks: "6-11", "6,7,9-11", "output 0-2 @ 6-9, 3-5"."""

import re
from collections.abc import Iterable
from typing import NamedTuple


class Block(NamedTuple):
    """Where a self-attention sits, as ComfyUI addresses it: ("output", number of the block, index of the transformer in it)."""
    side: str
    number: int
    index: int


class Item(NamedTuple):
    """One item of the grammar: blocks by their numbers, and of each the transformers with these indices (None: all)."""
    numbers: range
    indices: range | None

    def __contains__(self, block: Block) -> bool:
        return block.number in self.numbers and (self.indices is None or block.index in self.indices)


_NUMBER = r"(\d{1,4})"
_RANGE = rf"{_NUMBER}(?:[-\N{{HYPHEN}}-\N{{EM DASH}}\N{{MINUS SIGN}}]{_NUMBER})?"
_ITEM = re.compile(rf"(?:output)?{_RANGE}(?:@{_RANGE})?", re.IGNORECASE)
_SEPARATOR = re.compile(r"\s*[,;\n]\s*")
LONGEST_QUOTE = 40


def parse_blocks(text: str) -> list[Item]:
    """The items of a list of blocks "N" or "N-M", each with "@ I" or "@ I-J" for some of its transformers.

    Commas, semicolons and lines separate. Any dash will do, as word processors replace the hyphen. Raises ValueError quoting the item
    that is none of these, or whose range runs backwards.
    """
    return [parse_item(item, text) for item in _SEPARATOR.split(text.strip(",; \t\n"))]


def quote(text: str) -> str:
    """`text` in quotation marks, cut where it is longer than a sentence bears."""
    text = " ".join(text.split())
    return f'"{text[:LONGEST_QUOTE]}…"' if len(text) > LONGEST_QUOTE else f'"{text}"'


def parse_item(item: str, text: str) -> Item:
    match = _ITEM.fullmatch("".join(item.split()))
    if match:
        first, last, first_index, last_index = (int(group) if group else None for group in match.groups())
        numbers = span(first, last)
        indices = None if first_index is None else span(first_index, last_index)
        if numbers and (indices is None or indices):
            return Item(numbers, indices)
    raise ValueError(f"blocks {quote(text)}: {quote(item)} is not a block number or a range like 6-11. "
                     'Write for example "6-11", "6,7,9-11" or, for some transformers of a block, "0-2 @ 6-9".')


def span(first: int, last: int | None) -> range:
    """first to last, both included; last is first where it is None."""
    return range(first, (first if last is None else last) + 1)


def listed(blocks: Iterable[Block]) -> str:
    """The blocks as the grammar names them, without their transformers: "output 6-8, 11"."""
    sides = {}
    for side, number, _ in sorted(set(blocks)):
        sides.setdefault(side, []).append(number)
    return ", ".join(f"{side} {', '.join(ranges(numbers))}" for side, numbers in sides.items()) or "none"


def ranges(numbers: list[int]) -> list[str]:
    """Ascending numbers as "N" or "N-M"."""
    runs = []
    for number in numbers:
        if runs and number <= runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return [f"{first}-{last}" if last > first else f"{first}" for first, last in runs]
