"""Shared by the three tiers: core (plain torch), in_comfyui (ComfyUI's classes in this process), over_http (a server)."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

# Last, because nodes/ here would otherwise hide ComfyUI's nodes.py.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT] + [str(ROOT)]

torch.set_num_threads(2)

parity_errors = pytest.StashKey[list[tuple[str, float, float]]]()
measured_values = pytest.StashKey[list[tuple[str, float, str]]]()


@pytest.fixture(scope="session")
def relative_error():
    return lambda a, b: ((a - b).norm() / b.norm()).item()


@pytest.fixture
def assert_parity(request, relative_error):
    """assert_parity(name, value, expected, limit): holds a value to a golden one and adds a line to the table at the end."""
    errors = request.config.stash.setdefault(parity_errors, [])

    def check(name, value, expected, limit):
        error = relative_error(value, expected)
        errors.append((name, error, limit))
        assert error <= limit, f"{name}: relative error {error:.2e} is above {limit:.0e}"

    return check


@pytest.fixture
def measured(request):
    """measured(name, value, at_least=..., or at_most=...): holds a value to its limit and adds a line to the table at the end."""
    values = request.config.stash.setdefault(measured_values, [])

    def check(name, value, at_least=float("-inf"), at_most=float("inf")):
        limits = [f"{words} {limit:.3g}" for words, limit in (("at least", at_least), ("at most", at_most)) if abs(limit) < float("inf")]
        limit = " and ".join(limits) or "no limit"
        values.append((name, value, limit))
        assert at_least <= value <= at_most, f"{name}: {value:.4g} is not {limit}"

    return check


def pytest_terminal_summary(terminalreporter, config):
    errors = config.stash.get(parity_errors, [])
    if errors:
        terminalreporter.section("golden parity, relative error against the authors' code")
        for name, error, limit in errors:
            terminalreporter.line(f"{name:<66} {error:9.2e}   (at most {limit:.0e})")
    values = config.stash.get(measured_values, [])
    if values:
        terminalreporter.section("the trained model on pictures it never saw")
        for name, value, limit in values:
            terminalreporter.line(f"{name:<75} {value:8.3f}   ({limit})")
