"""What a conditioning must be, told before the first model call."""

from collections.abc import Callable


def covers(entry: dict, sigma: float, percent_to_sigma: Callable[[float], float]) -> bool:
    """Whether ComfyUI evaluates an entry of a conditioning at `sigma`: its timestep range, and that of a scheduled text encoder."""
    start = max(entry.get("start_percent", 0.0), entry.get("clip_start_percent", 0.0))
    end = min(entry.get("end_percent", 1.0), entry.get("clip_end_percent", 1.0))
    return percent_to_sigma(end) <= sigma <= percent_to_sigma(start)


def entries_of(conditioning: list) -> list[dict]:
    """What is set on each of the prompts in a CONDITIONING."""
    return [entry for _, entry in conditioning]


def check_areas(name: str, entries: list[dict]):
    """ValueError where one of the prompts is for an area of the picture."""
    if any("area" in entry or entry.get("set_area_to_bounds") for entry in entries):
        raise ValueError(f"The conditioning {name} has an area, so the model would see only a part of the picture, where StyleID's content "
                         "features do not fit. Remove Conditioning (Set Area), or limit a prompt by Conditioning (Set Mask) with the "
                         "default area.")


def check_sampled(model, name: str, entries: list[dict], sigmas: list[float]):
    """ValueError unless the prompts are evaluated for the whole picture at each of `sigmas`."""
    if not entries:
        raise ValueError(f"The conditioning {name} is empty. Connect a CLIP Text Encode: the paper's prompt is an empty text.")
    check_areas(name, entries)
    percent_to_sigma = model.get_model_object("model_sampling").percent_to_sigma
    for sigma in sigmas:
        if not any("default" in entry or covers(entry, sigma, percent_to_sigma) for entry in entries):
            raise ValueError(f"The conditioning {name} has no prompt at sigma {sigma:.4g}: its timestep ranges leave a gap. "
                             "Let ConditioningSetTimestepRange cover all of 0 to 1.")


def check_inverted(model, name: str, entries: list[dict], sigmas: list[float]):
    """The same for an inversion, which follows one prediction for the whole picture."""
    check_sampled(model, name, entries, sigmas)
    if any("mask" in entry for entry in entries):
        raise ValueError(f"The conditioning {name} has a mask, and an inversion needs the prediction of the whole picture. "
                         "Remove Conditioning (Set Mask).")
    percent_to_sigma = model.get_model_object("model_sampling").percent_to_sigma
    own = [entry for entry in entries if "default" not in entry]
    if any(sum(covers(entry, sigma, percent_to_sigma) for entry in own) > 1 for sigma in sigmas):
        raise ValueError(f"An inversion needs one conditioning for the whole picture, and several are connected to {name}. "
                         "Give it a single prompt (the paper's is empty), not a combined or regional one.")
