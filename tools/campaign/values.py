"""Values for the inputs of a node, as /object_info describes them: usual ones, the edges, and what nobody should send.
"""

import random

BLOCKS = ("auto", "auto", "auto", "6-11", "6-11", "7", "6,7,9-11 @ 0", "")
BAD_BLOCKS = ("6-12", "11-6", "-1", "six", "AUTO", "6\u201311", "6-11,", ",", "6 @", "@ 0", "6-11\n", "6;7", "\u0666",
              "6\u00b2", "None", "6.5", "0x6", "6 @ 0-5", "auto, 6", "9" * 4300, "9" * 20, "6," * 10000, "\u2603",
              "output", "6-11 @ 0-0-0",
              "99999999999-99999999999", "0-99999999999")
NUMBERS_AND_TEXT = ("INT", "FLOAT", "STRING", "BOOLEAN")
# Of the inputs that contradict each other, take long or refuse nearly all values
CENTRES = {"steps": (1, 2, 3, 4, 5), "cfg": (1.0, 1.0, 3.0, 7.5), "start_percent": (0.0, 0.0, 0.2),
           "end_percent": (0.8, 1.0, 1.0), "denoise": (1.0, 1.0, 0.6, 0.31),
           "cfg_max_sigma": (5.42, 5.42, 0.1, 1000.0), "refine": (0, 0, 0, 1, 2), "inversion": ("ddim",
           ) * 5 + ("fireflow",), "preset": ("custom",) * 7 + ("paper", "strong", "colors only"),
           "weight": (1.0, 1.0, 0.0, 0.4)}
BIG_STEPS = (50, 333, 501, 1000)
NUMBERS_TO_REFUSE = (-1, 0, 10 ** 30, -10 ** 9, "", "many", None, True, [], {}, "NaN", 1e308, "1e999", [["x"]], "0x10",
                     "\u0665")
NOT_A_CHOICE = ("", "none", "OFFICIAL", 7, None, "\u2603" * 50, ["a", "b", "c"], {"a": 1})


def widgets(info: dict) -> dict[str, tuple]:
    """{name: (kind, options)} of the inputs that are no links; `kind` is a list for a choice."""
    inputs = info["input"].get("required", {}) | info["input"].get("optional", {})
    described = {name: (spec[0], spec[1] if len(spec) > 1 else {}) for name, spec in inputs.items()}
    choices = {name: (options["options"] if kind == "COMBO" else kind, options)
               for name, (kind, options) in described.items()}
    return {name: (kind, options) for name, (kind, options) in choices.items() if isinstance(kind, list)
            or kind in NUMBERS_AND_TEXT}


def usual(rng: random.Random, name: str, kind, options: dict):
    if name in CENTRES:
        return rng.choice(CENTRES[name])
    if isinstance(kind, list):
        return rng.choice(kind)
    if kind == "STRING":
        return rng.choice(BLOCKS)
    if kind == "BOOLEAN":
        return rng.random() < 0.3
    if kind == "INT":
        return rng.randint(options["min"], options["max"])
    return round(rng.uniform(options["min"], options["max"]), 2)


def edge(rng: random.Random, name: str, kind, options: dict):
    if name == "steps":
        return rng.choice(BIG_STEPS) if rng.random() < 0.1 else options["min"]
    if kind in ("INT", "FLOAT"):
        return rng.choice((options["min"], options["max"], options["default"]))
    return usual(rng, name, kind, options)


def garbage(rng: random.Random, name: str, kind, options: dict):
    if isinstance(kind, list):
        return rng.choice(NOT_A_CHOICE)
    if kind == "STRING":
        return rng.choice((*BAD_BLOCKS, None, 7, [], {}))
    return rng.choice(NUMBERS_TO_REFUSE if kind == "BOOLEAN" else (*NUMBERS_TO_REFUSE, options["max"] + 1))


def inputs_of(rng: random.Random, info: dict, wild: float) -> dict:
    """Values for every widget of a node, of which a share of about `wild` (0..1) are edges or garbage."""
    def draw(name, kind, options):
        how = rng.choices((usual, edge, garbage), (1 - wild, 0.7 * wild, 0.3 * wild))[0]
        return how(rng, name, kind, options)

    return {name: draw(name, kind, options) for name, (kind, options) in widgets(info).items()}


def links(info: dict) -> set[str]:
    """Names of a node's inputs that take a link only."""
    inputs = info["input"].get("required", {}) | info["input"].get("optional", {})
    return {name for name, (kind, *_) in inputs.items() if isinstance(kind, str)
            and kind not in (*NUMBERS_AND_TEXT, "COMBO")}
