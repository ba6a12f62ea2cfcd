import math

import pytest

from styleid_core.curves import SHAPES, progress, shaped

SIGMAS = [0.1, 0.2, 0.8, 10.0]


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_rise_from_start_to_end(shape):
    values = [shaped(shape, 0.2, 0.9)(i / 20) for i in range(21)]
    assert math.isclose(values[0], 0.2) and math.isclose(values[-1], 0.9) and values == sorted(values)


@pytest.mark.parametrize(("shape", "middle"), [("linear", 0.5), ("quadratic", 0.25), ("sqrt", 0.5 ** 0.5),
                                               ("cosine", 0.5), ("exponential", (math.e ** 0.5 - 1) / (math.e - 1))])
def test_shapes_are_the_published_ones(shape, middle):
    assert math.isclose(shaped(shape, 0.0, 1.0)(0.5), middle)


@pytest.mark.parametrize(("sigma", "x"), [(10.0, 0.0), (0.8, 1 / 3), (0.2, 2 / 3), (0.1, 1.0), (0.4, 0.5), (0.01, 1.0),
                                          (100.0, 0.0)])
def test_the_place_in_the_inversions_grid(sigma, x):
    assert math.isclose(progress(SIGMAS, sigma), x, abs_tol=1e-12)


def test_a_single_step_is_the_start():
    assert progress([1.0], 0.5) == 0.0
