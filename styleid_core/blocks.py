"""The grammar in which a user names blocks: "6-11", "6,7,9-11", "0-2 @ 6-9, 3-5", "double 5-18, single 0-37"."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple


class Block(NamedTuple):
    """Where a self-attention sits, as ComfyUI addresses it: ("output", number of the block, index of the self-attention
    in it).
    """
    side: str
    number: int
    index: int


class Item(NamedTuple):
    """One item of the grammar: blocks of a side (None: the only one) by their numbers, and of each the self-attentions
    with these indices (None: all).
    """
    side: str | None
    numbers: range
    indices: range | None

    def __contains__(self, block: Block) -> bool:
        here = block.side == self.side and block.number in self.numbers
        return here and (self.indices is None or block.index in self.indices)


_NUMBER = r"(\d{1,4})"
_RANGE = rf"{_NUMBER}(?:[-\N{{HYPHEN}}-\N{{EM DASH}}\N{{MINUS SIGN}}]{_NUMBER})?"
_ITEM = re.compile(rf"([a-z]+)?{_RANGE}(?:@{_RANGE})?")
_SEPARATOR = re.compile(r"\s*[,;\n]\s*")
LONGEST_QUOTE = 40


def parse_blocks(text: str) -> list[Item]:
    """The items of a list of blocks "N" or "N-M", each with "@ I" or "@ I-J" for some of its self-attentions, and with
    a word for their side before it or before an earlier one.

    Commas, semicolons and lines separate. Any dash will do, as word processors replace the hyphen. Raises ValueError
    quoting the item that is none of these, or whose range runs backwards.
    """
    items, side = [], None
    for item in _SEPARATOR.split(text.strip(",; \t\n")):
        items.append(parse_item(item, text, side))
        side = items[-1].side
    return items


def quote(text: str) -> str:
    """`text` in quotation marks, cut where it is longer than a sentence bears."""
    text = " ".join(text.split())
    return f'"{text[:LONGEST_QUOTE]}…"' if len(text) > LONGEST_QUOTE else f'"{text}"'


def parse_item(item: str, text: str, side: str | None) -> Item:
    match = _ITEM.fullmatch("".join(item.lower().split()))
    if match:
        word, *numbers = match.groups()
        first, last, first_index, last_index = (int(number) if number else None for number in numbers)
        numbers = span(first, last)
        indices = None if first_index is None else span(first_index, last_index)
        if numbers and (indices is None or indices):
            return Item(word or side, numbers, indices)
    raise ValueError(f"blocks {quote(text)}: {quote(item)} is not a block number or a range like 6-11. "
                     'Write for example "6-11", "6,7,9-11" or, for some transformers of a block, "0-2 @ 6-9".')


def choose(text: str, available: list[Block]) -> list[Block]:
    """Those of a model's self-attentions, `available`, that `text` names; ValueError for a part that names none."""
    sides = list(dict.fromkeys(block.side for block in available))
    count = Counter(block[:2] for block in available)
    items = []
    for item in parse_blocks(text):
        if item.side is None and len(sides) > 1:
            raise ValueError(f"blocks {quote(text)}: this model has {listed(available)}. Write {' or '.join(sides)} "
                             "before the numbers.")
        item = item._replace(side=item.side or sides[0])
        for number in item.numbers:
            if (item.side, number) not in count:
                raise ValueError(f"blocks {quote(text)}: {item.side} block {number} of this model has no "
                                 "self-attention. "
                                 f'Choose from {listed(available)}, or write "auto".')
            if item.indices and item.indices[-1] >= count[item.side, number]:
                raise ValueError(f"blocks {quote(text)}: the transformers in {item.side} block {number} of this model "
                                 f"are numbered 0 to {count[item.side, number] - 1}.")
        items.append(item)
    return [block for block in available if any(block in item for item in items)]


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
