"""All combinations of some values, for graphs that run once for each."""

from itertools import product

from ...styleid_core.blocks import quote


def values(name: str, text: str, highest: float) -> list[float]:
    """The numbers in `text`, from 0 to `highest`; ValueError for anything else."""
    try:
        found = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        found = []
    if not found or not all(0 <= value <= highest for value in found):
        raise ValueError(f"{name} {quote(text)} is no list of numbers from 0 to {highest:g}. Write for example 0.3, "
                         "0.75.")
    return found


def combined(gammas: list[float], temperatures: list[float]) -> tuple[list[float], list[float], list[str]]:
    """(gammas, temperatures, labels) of all cells of a grid, row by row: a row for each temperature."""
    cells = [(gamma, temperature) for temperature, gamma in product(temperatures, gammas)]
    labels = [f"gamma {gamma:g}, temperature {temperature:g}" for gamma, temperature in cells]
    return [gamma for gamma, _ in cells], [temperature for _, temperature in cells], labels
