"""Nodes that a campaign's private server gets besides the pack: inputs of any shape, and a look at what comes out.

Never shipped: linked into the server's own folder.
"""

import gc
import hashlib

import torch

CATEGORY = "styleid/campaign"


class CampaignLatent:
    """LATENT of a shape such as "1,4,8,8", filled as FILLS say, with a mask as MASKS say."""
    FILLS = {
        "noise": lambda z: z,
        "zeros": lambda z: z * 0,
        "constant": lambda z: z * 0 + 1,
        "nan": lambda z: z.where(torch.arange(z.shape[-1]) > 0, float("nan")),
        "infinite": lambda z: z / 0,
        "huge": lambda z: z * 1e6,
        "half": lambda z: z.half(),
    }
    MASKS = {
        "none": None,
        "left": lambda h, w: (torch.arange(w) < w // 2).float().expand(1, h, w),
        "zeros": lambda h, w: torch.zeros(1, h, w),
        "ones": lambda h, w: torch.ones(1, h, w),
        "two": lambda h, w: torch.rand(2, h, w),
        "flat": torch.rand,
        "nan": lambda h, w: torch.full((1, h, w), float("nan")),
        "empty": lambda h, w: torch.zeros(0, h, w),
        "four": lambda h, w: torch.rand(1, 1, h, w),
        "small": lambda h, w: torch.rand(1, 3, 5),
    }
    RETURN_TYPES, FUNCTION, CATEGORY = ("LATENT",), "make", CATEGORY

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"shape": ("STRING", {}), "fill": (list(cls.FILLS), {}), "mask": (list(cls.MASKS), {}),
                             "seed": ("INT", {})}}

    def make(self, shape, fill, mask, seed):
        sides = [int(side) for side in shape.split(",")]
        latent = {"samples": self.FILLS[fill](torch.randn(sides, generator=torch.Generator().manual_seed(seed)))}
        if self.MASKS[mask]:
            latent["noise_mask"] = self.MASKS[mask](8 * sides[-2], 8 * sides[-1])
        return (latent,)


class CampaignMask:
    """MASK as CampaignLatent has it."""
    RETURN_TYPES, FUNCTION, CATEGORY = ("MASK",), "make", CATEGORY

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        masks = [name for name, make in CampaignLatent.MASKS.items() if make]
        return {"required": {"mask": (masks, {}), "height": ("INT", {}), "width": ("INT", {})}}

    def make(self, mask, height, width):
        return (CampaignLatent.MASKS[mask](height, width),)


class CampaignPrompt:
    """CONDITIONING made unusual."""
    CHANGES = {
        "two": lambda tensor, options: [[tensor, options]] * 2,
        "area": lambda tensor, options: [[tensor, options | {"area": (4, 4, 0, 0), "strength": 1.0}]],
        "late": lambda tensor, options: [[tensor, options | {"start_percent": 0.5}]],
        "nan": lambda tensor, options: [[tensor * float("nan"), options]],
        "batch": lambda tensor, options: [[tensor.repeat(2, 1, 1), options]],
    }
    RETURN_TYPES, FUNCTION, CATEGORY = ("CONDITIONING",), "make", CATEGORY

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"conditioning": ("CONDITIONING",), "change": (list(cls.CHANGES), {})}}

    def make(self, conditioning, change):
        return (self.CHANGES[change](*conditioning[0]),)


class Anything(str):
    def __ne__(self, other):
        return False


class CampaignReport:
    """Tells of a LATENT or a number whether it is finite, its shape and a digest; `salt` keeps ComfyUI from a cached
    answer.
    """
    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "report", CATEGORY, True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"value": (Anything("*"),), "salt": ("INT", {"max": 2 ** 40})}}

    def report(self, value, salt):
        tensor = torch.as_tensor(value["samples"] if isinstance(value, dict) else value)
        told = {"finite": bool(tensor.isfinite().all()), "shape": list(tensor.shape),
                "digest": hashlib.sha1(tensor.float().contiguous().numpy().tobytes()).hexdigest()}
        return {"ui": {"report": [told]}}


class CampaignHealth:
    """How many tensors the process holds."""
    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "report", CATEGORY, True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"salt": ("INT", {"max": 2 ** 40})}}

    def report(self, salt):
        gc.collect()
        tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
        return {"ui": {"health": [{"tensors": tensors}]}}


NODE_CLASS_MAPPINGS = {cls.__name__: cls for cls in (
    CampaignLatent, CampaignMask, CampaignPrompt, CampaignReport, CampaignHealth)}
