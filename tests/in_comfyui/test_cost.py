"""What the pack adds to a model call, in operators and host synchronizations: of the same number on any device, but for
the copies that a GPU makes of features in RAM.
"""

from collections import Counter

import pytest
import torch
from cases import invert_both
from comfy.cli_args import args as comfyui
from torch.utils._python_dispatch import TorchDispatchMode

from tools.demo.transfer import sample_custom
from tools.miniature.transformers import latent, load_transformer, prompt

MOST = 1.05 if comfyui.cpu else 1.06  # as many operators as a call without the pack
STEPS = 5  # of which, and of twice as many, the official timesteps have as many
# What float(tensor), `if tensor` and torch.equal become.
WAITING = ("item", "is_nonzero", "_local_scalar_dense", "equal")


class Counting(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self):
        super().__init__()
        self.operators = Counter()
        self.tolist = torch.Tensor.tolist

    def __enter__(self):
        def tolist(tensor):  # no operator, on a CPU
            self.operators["item"] += 1
            return self.tolist(tensor)

        torch.Tensor.tolist = tolist
        return super().__enter__()

    def __exit__(self, *error):
        torch.Tensor.tolist = self.tolist
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operators[func.overloadpacket.__name__] += 1
        return func(*args, **kwargs or {})


def per_call(run) -> tuple[float, float]:
    """(operators, synchronizations) of each model call of run(steps), without what a run has once."""
    counts = []
    for steps in (STEPS, 2 * STEPS):
        with Counting() as counting:
            run(steps)
        counts.append((counting.operators.total(), sum(counting.operators[name] for name in WAITING)))
    return tuple((long - short) / STEPS for short, long in zip(*counts))


@pytest.fixture(scope="module")
def inverted(pack, model, case):
    with torch.inference_mode():
        return invert_both(pack, model, case, "ddim", steps=2 * STEPS)


@pytest.fixture
def plain(model, case, inverted):
    (noise, _, sigmas), _ = inverted
    return per_call(lambda steps: sample_custom(model, case.positive, sigmas[:steps + 1], noise))


def test_the_cost_of_injection(pack, model, case, inverted, plain):
    (noise, content, sigmas), (_, style, _) = inverted
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    operators, waits = per_call(lambda steps: sample_custom(m, case.positive, sigmas[:steps + 1], noise))
    assert operators <= MOST * plain[0] and waits == plain[1] + 1


@pytest.mark.parametrize("device", ["auto", "recompute"])
def test_the_cost_of_recording(pack, model, case, plain, device):
    [recording] = pack.CaptureSelfAttention(model=model, blocks="6-11", feature_device=device)
    operators, waits = per_call(lambda steps: pack.DDIMInvert(model=recording, latent=case.content,
                                                              positive=case.positive, steps=steps, schedule="official"))
    assert operators <= MOST * plain[0] and waits == plain[1] + 1


def test_the_cost_of_the_one_node(pack, model, case, plain):
    """An inversion of both pictures and the sampling: two model calls for each step."""
    inputs = dict(model=model, content=case.content, style=case.style, positive=case.positive)
    operators, waits = per_call(lambda steps: pack.StyleIDSampler(steps=steps, **inputs))
    assert operators <= 2 * MOST * plain[0] and waits == 2 * (plain[1] + 1)


LAST = {"flux": "single 1", "chroma": "single 1", "qwen_image": "2", "z_image": "2"}


@pytest.mark.parametrize("family", LAST)
@pytest.mark.parametrize("blocks", ["auto", "last"])
def test_the_cost_of_injection_into_a_transformer(pack, family, blocks):
    """With a mask over the prompt too, which is looked at without waiting, and only where something is injected."""
    model, size = load_transformer(family), (16, 12)
    mask = torch.ones(1, 7, dtype=torch.long)
    mask[:, -2:] = 0
    positive = [[text, entry | {"attention_mask": mask}] for text, entry in prompt(family, 7)]
    [recording] = pack.CaptureSelfAttention(model=model, blocks="auto" if blocks == "auto" else LAST[family])
    (noise, content, sigmas), (_, style, _) = (pack.DDIMInvert(model=recording, latent=latent(family, size, seed),
                                                               positive=positive, steps=2 * STEPS) for seed in (1, 2))
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    (plain, plain_waits), (injected, waits) = (
        per_call(lambda steps, m=m: sample_custom(m, positive, sigmas[:steps + 1], noise)) for m in (model, m))
    assert injected > plain and waits == plain_waits + 1
