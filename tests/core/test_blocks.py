import pytest

from styleid_core.blocks import parse_layers

# Decoders of SD 1.x and of SDXL, as (block, transformers in it)
SD1 = [("output", number, 0) for number in range(3, 12)]
SDXL = [("output", number, index) for number in range(6) for index in range(10 if number < 3 else 2)]


def selected(layers, decoder):
    return [block[1:] for block in decoder if any(block in item for item in parse_layers(layers))]


@pytest.mark.parametrize(("layers", "numbers"), [
    ("6-11", [6, 7, 8, 9, 10, 11]), ("6,7,9-11", [6, 7, 9, 10, 11]), (" 11 , 6 - 7, 7", [6, 7, 11]), ("5", [5]), ("output 5-6", [5, 6])])
def test_numbers_and_ranges(layers, numbers):
    assert selected(layers, SD1) == [(number, 0) for number in numbers]


@pytest.mark.parametrize(("layers", "blocks"), [
    ("output 0-1 @ 6-7", [(0, 6), (0, 7), (1, 6), (1, 7)]), ("2 @ 9, 4-5", [(2, 9), (4, 0), (4, 1), (5, 0), (5, 1)])])
def test_transformers_inside_a_block(layers, blocks):
    assert selected(layers, SDXL) == blocks


@pytest.mark.parametrize(("layers", "quoted"), [
    ("6-x", '"6-x"'), ("11-6", '"11-6"'), ("", '""'), ("6,,7", '""'), ("6..11", '"6..11"'), ("-3", '"-3"'), ("1 @", '"1 @"'),
    ("0 @ 9-6", '"0 @ 9-6"'), ("input 3", '"input 3"')])
def test_anything_else_is_quoted_back(layers, quoted):
    with pytest.raises(ValueError, match="6-11") as error:
        parse_layers(layers)
    assert quoted in str(error.value)
