import re

import pytest

from styleid_core.blocks import Block, choose, listed, parse_blocks

# Decoders of SD 1.x and of SDXL, as (block, transformers in it)
SD1 = [Block("output", number, 0) for number in range(3, 12)]
SDXL = [Block("output", number, index) for number in range(6) for index in range(10 if number < 3 else 2)]


def selected(text, decoder):
    return [block[1:] for block in choose(text, decoder)]


@pytest.mark.parametrize(("text", "numbers"), [
    ("6-11", [6, 7, 8, 9, 10, 11]), ("6,7,9-11", [6, 7, 9, 10, 11]), (" 11 , 6 - 7, 7", [6, 7, 11]), ("5", [5]),
    ("output 5-6", [5, 6])])
def test_numbers_and_ranges(text, numbers):
    assert selected(text, SD1) == [(number, 0) for number in numbers]


@pytest.mark.parametrize(("text", "blocks"), [
    ("output 0-1 @ 6-7", [(0, 6), (0, 7), (1, 6), (1, 7)]), ("2 @ 9, 4-5", [(2, 9), (4, 0), (4, 1), (5, 0), (5, 1)])])
def test_transformers_inside_a_block(text, blocks):
    assert selected(text, SDXL) == blocks


@pytest.mark.parametrize(("text", "quoted"), [
    ("6-x", '"6-x"'), ("11-6", '"11-6"'), ("", '""'), ("6,,7", '""'), ("6..11", '"6..11"'), ("-3", '"-3"'),
    ("1 @", '"1 @"'), ("0 @ 9-6", '"0 @ 9-6"'), ("in put-3", '"in put-3"')])
def test_anything_else_is_quoted_back(text, quoted):
    with pytest.raises(ValueError, match="6-11") as error:
        parse_blocks(text)
    assert quoted in str(error.value)


FLUX = [*(Block("double", number, 0) for number in range(19)), *(Block("single", number, 0) for number in range(38))]


@pytest.mark.parametrize(("text", "blocks"), [
    ("double 5-6, single 0-1", ["double 5", "double 6", "single 0", "single 1"]),
    ("Single 37, double 0, 2", ["double 0", "double 2", "single 37"]), ("double 18 @ 0", ["double 18"])])
def test_sides(text, blocks):
    assert [f"{side} {number}" for side, number, _ in choose(text, FLUX)] == blocks


@pytest.mark.parametrize(("text", "blocks", "words"), [
    ("3", FLUX, "double 0-18, single 0-37. Write double or single before the numbers"),
    ("output 3", FLUX, "output block 3 of this model has no self-attention. Choose from double 0-18, single 0-37"),
    ("double 19", FLUX, "double block 19"), ("input 3", SD1, "input block 3 of this model has no self-attention. "
                                                             "Choose from output 3-11"),
    ("1 @ 10", SDXL, "transformers in output block 1 of this model are numbered 0 to 9")])
def test_blocks_that_a_model_has_not(text, blocks, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        choose(text, blocks)


@pytest.mark.parametrize("text", ["output 6", "output 6-8, 10", "output 0-2, 11"])
def test_blocks_are_listed_as_they_are_written(text):
    blocks = [Block("output", *numbers)
              for numbers in selected(text, [Block("output", number, i) for number in range(12) for i in (0, 1)])]
    assert listed(reversed(blocks)) == text


def test_no_blocks_and_blocks_of_two_kinds():
    assert listed([]) == "none"
    assert listed([Block("output", 3, 0), Block("double", 5, 0), Block("double", 6, 0)]) == "double 5-6, output 3"
