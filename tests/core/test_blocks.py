import pytest

from styleid_core.blocks import parse_layers


@pytest.mark.parametrize(("layers", "numbers"), [
    ("6-11", [6, 7, 8, 9, 10, 11]), ("6,7,9-11", [6, 7, 9, 10, 11]), (" 11 , 6 - 7, 7", [6, 7, 11]), ("5", [5])])
def test_numbers_and_ranges(layers, numbers):
    assert parse_layers(layers) == numbers


@pytest.mark.parametrize(("layers", "quoted"), [
    ("6-x", '"6-x"'), ("11-6", '"11-6"'), ("", '""'), ("6,,7", '""'), ("6..11", '"6..11"'), ("-3", '"-3"')])
def test_anything_else_is_quoted_back(layers, quoted):
    with pytest.raises(ValueError, match="6-11") as error:
        parse_layers(layers)
    assert quoted in str(error.value)
