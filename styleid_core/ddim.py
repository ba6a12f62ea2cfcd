"""DDIM inversion and sampling (Song et al., arXiv 2010.02502) with the k-diffusion sampler signature.

In x = z * sqrt(1 + sigma^2) a deterministic DDIM step is one Euler step along eps.
"""

from torch import Tensor
from tqdm.auto import trange


def predict_eps(model, x: Tensor, sigma: Tensor, extra_args: dict) -> tuple[Tensor, Tensor]:
    """(eps, denoised), both like x (B, C, H, W), of a `model(x, sigmas, **extra_args)` that returns denoised."""
    denoised = model(x, sigma * x.new_ones([x.shape[0]]), **extra_args)
    return (x - denoised) / sigma, denoised


def sample_ddim(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """DDIM with eta 0 from x at sigmas[0] to sigmas[-1]; sigmas (N + 1,) descending."""
    for i in trange(len(sigmas) - 1, disable=disable):
        eps, denoised = predict_eps(model, x, sigmas[i], extra_args or {})
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        x = x + eps * (sigmas[i + 1] - sigmas[i])
    return x


def sample_ddim_inversion(model, x, sigmas, extra_args=None,  # noqa: PLR0913  k-diffusion's
                          callback=None, disable=None, *, evaluated, path, refine=()):
    """DDIM inversion from x at sigmas[0] up to sigmas[-1]; sigmas (N + 1,) ascending.

    Step i evaluates the model at evaluated[i] (N,), with z unchanged along `path`: see `Schedule` and `paths`. With
    `refine`, a `Refine` for each step, it asks again at sigmas[i + 1] for the x that it has just found, and goes along
    a mean of what it was told. The callback gets x after its step.
    """
    evaluated = evaluated.to(sigmas)
    for i in trange(len(sigmas) - 1, disable=disable):
        eps, denoised = predict_eps(model, path.carried(x, sigmas[i], evaluated[i]), evaluated[i], extra_args or {})
        if refine:
            predictions = [eps]
            for _ in range(refine[i].rounds):
                reached = x + eps * (sigmas[i + 1] - sigmas[i])
                eps, denoised = predict_eps(model, reached, sigmas[i + 1], extra_args or {})
                predictions.append(eps)
            eps = refine[i].mean(predictions)
        x = x + eps * (sigmas[i + 1] - sigmas[i])
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i + 1], "sigma_hat": evaluated[i], "denoised": denoised})
    return x


def sample_fireflow(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """FireFlow (Deng et al., arXiv 2412.07517) from x at sigmas[0] to sigmas[-1], up or down: (N + 1,).

    A step goes along the prediction at its middle, where the prediction of the last step's middle has led. The first
    one asks twice.
    """
    eps = None
    for i in trange(len(sigmas) - 1, disable=disable):
        middle, step = (sigmas[i] + sigmas[i + 1]) / 2, sigmas[i + 1] - sigmas[i]
        if eps is None:
            eps, _ = predict_eps(model, x, middle, extra_args or {})
        eps, denoised = predict_eps(model, x + eps * step / 2, middle, extra_args or {})
        x = x + eps * step
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i + 1], "sigma_hat": middle, "denoised": denoised})
    return x
