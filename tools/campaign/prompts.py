"""Prompts for ComfyUI's API, drawn by Hypothesis: the pack's nodes among ComfyUI's own, on the built-in models."""

from hypothesis import strategies as st

OURS = ("CaptureSelfAttention", "DDIMInvert", "LatentAdaIN", "InjectStyleKV", "StyleIDSampler", "StyleIDOptions",
        "StyleIDCurve", "StyleIDStartFrequencies", "StyleIDPositions")
CHANNELS = {"flux": "16", "flux2": "128", "chroma": "16", "qwen_image": "16,1", "z_image": "16", "sd35": "16",
            "wan": "16,1"}  # of the small transformers' latents, with their frame
ODD_SHAPES = ("0,8,8,8", "1,8,1,1", "1,8,2,3", "1,16,8,8", "1,3,8,8", "8,8,8", "1,8,1,8,8", "1,8,8,0", "1,8,64,4",
              "5,8,8,8", "1,8")
ODD_FILLS = ("zeros", "nan", "infinite", "constant", "huge", "half")
ODD_MASKS = ("two", "nan", "empty", "four", "small")
# Of inputs that take long, contradict each other or refuse nearly all values; the most usual first.
USUAL = {"steps": (2, 1, 3, 5), "cfg": (1.0, 3.0), "start_percent": (0.0, 0.2), "end_percent": (1.0, 0.8),
         "denoise": (1.0, 1.0, 0.6), "cfg_max_sigma": (5.42, 0.1), "refine": (0, 0, 1), "inversion": ("ddim",),
         "preset": ("custom", "custom", "custom", "paper", "strong"), "weight": (1.0, 0.4),
         "inject_into": ("both", "cond")}
UNET_BLOCKS = ("auto", "6-11", "7", "6,7,9-11 @ 0")
ANYTHING = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.just({}))
ODD_TEXT = st.one_of(st.text("0123456789-,@ auto\u2013\u0666", max_size=9), st.sampled_from(("9" * 4300, "6," * 9999)))
EDGE_STEPS = (50, 333)  # more would take minutes


def inputs_of(info: dict) -> dict[str, tuple]:
    """{name: (kind, options)} of a node's inputs as /object_info describes them; `kind` is a list for a choice."""
    described = info["input"].get("required", {}) | info["input"].get("optional", {})
    inputs = {name: (spec[0], spec[1] if len(spec) > 1 else {}) for name, spec in described.items()}
    return {name: (options["options"] if kind == "COMBO" else kind, options) for name, (kind, options) in
            inputs.items()}


def usual(values: dict[str, tuple], name: str, kind, options: dict) -> st.SearchStrategy | None:
    """What people give to a widget, by its name or by its kind; None for an input that takes a link."""
    if name in values:
        return st.sampled_from(values[name])
    if isinstance(kind, list):
        return st.sampled_from(kind)
    ranges = {"INT": st.integers, "FLOAT": st.floats}
    if kind in ranges:
        return ranges[kind](options["min"], options["max"])
    return {"BOOLEAN": st.booleans(), "STRING": st.just("")}.get(kind)


def unusual(name: str, kind, options: dict) -> st.SearchStrategy:
    """The edges, and what nobody should send."""
    if kind in ("INT", "FLOAT"):
        edges = EDGE_STEPS if name == "steps" else (options["min"], options["max"])
        return st.sampled_from(edges) | ANYTHING
    return ODD_TEXT | ANYTHING if kind == "STRING" else ANYTHING


class Prompt:
    """A prompt in the making: `add` gives the id of a new node, [id, n] is its n-th output.

    `draw` is Hypothesis's, `info` the server's /object_info; `odd` asks for unusual values and inputs too.
    """

    def __init__(self, draw, info: dict, odd: bool):
        self.draw, self.info, self.odd, self.nodes = draw, info, odd, {}
        family = self.pick(*[None] * 9, *CHANNELS)
        if family:
            self.loader, self.channels = self.add("StyleIDDemoTransformer", family=family), CHANNELS[family]
            self.patches = ("LoraLoaderModelOnly", "StyleIDPositions")
        else:
            self.loader, self.channels = self.add(self.pick("StyleIDDemoModel", "StyleIDDemoSDXL")), "8"
            self.patches = ("LoraLoaderModelOnly", "FreeU", "ModelSamplingDiscrete")
        self.usual = USUAL | {"blocks": ("auto",) if family else UNET_BLOCKS}

    def pick(self, *choices):
        return self.draw(st.sampled_from(choices))

    def seldom(self) -> bool:
        return self.pick(*[False] * 4, True)

    def rarely(self) -> bool:
        """For what is unusual."""
        return self.odd and self.pick(*[False] * 24, True)

    def add(self, kind: str, **inputs) -> str:
        name = f"{kind} {len(self.nodes)}"
        self.nodes[name] = {"class_type": kind, "inputs": inputs}
        return name

    def ours(self, kind: str, **links) -> str:
        widgets = {}
        for name, (value, options) in inputs_of(self.info[kind]).items():
            strategy = usual(self.usual, name, value, options)
            if strategy is not None:
                widgets[name] = self.draw(unusual(name, value, options) if self.rarely() else strategy)
        return self.add(kind, **widgets | links)

    def latent(self) -> list:
        height, width = self.pick(8, 9, 16), self.pick(8, 11, 16)
        shape = self.pick(*ODD_SHAPES) if self.rarely() else f"{self.pick(1, 2)},{self.channels},{height},{width}"
        fill = self.pick(*ODD_FILLS) if self.rarely() else "noise"
        mask = self.pick(*ODD_MASKS) if self.rarely() else self.pick("none", "none", "left", "flat")
        link = [self.add("CampaignLatent", shape=shape, fill=fill, mask=mask, seed=self.pick(1, 2)), 0]
        return [self.add("RebatchLatents", latents=link, batch_size=1), 0] if self.seldom() else link

    def conditioning(self) -> list:
        link = [self.loader, 1]
        change = self.pick("two", "area", "late", "nan", "batch") if self.rarely() else None
        return [self.add("CampaignPrompt", conditioning=link, change=change), 0] if change else link

    def model(self) -> list:
        """The loader's, or with another node's patch."""
        link = [self.loader, 0]
        kind = self.pick(*[None] * 4, *self.patches)
        if kind == "FreeU":
            return [self.add(kind, model=link, b1=1.1, b2=1.2, s1=0.9, s2=0.2), 0]
        if kind == "LoraLoaderModelOnly":
            return [self.add(kind, model=link, lora_name="style_lora.safetensors", strength_model=0.7), 0]
        if kind == "ModelSamplingDiscrete":
            return [self.add(kind, model=link, sampling=self.pick("eps", "v_prediction", "lcm"), zsnr=False), 0]
        return [self.ours(kind, model=link), 0] if kind else link

    def some(self, masks: tuple[str, ...] = (), curves: tuple[str, ...] = ()) -> dict[str, list]:
        """Links for some of these inputs."""
        links = {}
        for name in masks:
            if self.seldom():
                mask = self.pick(*ODD_MASKS) if self.rarely() else self.pick("left", "ones", "zeros", "flat")
                links[name] = [self.add("CampaignMask", mask=mask, height=64, width=self.pick(64, 40)), 0]
        for name in curves:
            if self.seldom():
                links[name] = [self.ours("StyleIDCurve"), 0]
        return links


def one_node(prompt: Prompt) -> list:
    """The output that tells how the prompt went."""
    links = {"options": [prompt.ours("StyleIDOptions", negative=prompt.conditioning(),
                                     **prompt.some(curves=("gamma_curve", "temperature_curve"))), 0]}
    return [prompt.ours("StyleIDSampler", model=prompt.model(), content=prompt.latent(), style=prompt.latent(),
                        positive=prompt.conditioning(), **({} if prompt.seldom() else links)), 0]


def five_nodes(prompt: Prompt) -> list:
    """Both inversions with the same settings for the most part, then one or two injections, sampled in several ways."""
    recording = [prompt.ours("CaptureSelfAttention", model=prompt.model()), 0]
    content, style = (prompt.ours("DDIMInvert", model=recording, latent=prompt.latent(),
                                  positive=prompt.conditioning()) for _ in range(2))
    if not prompt.seldom():
        prompt.nodes[style]["inputs"] |= {
            name: prompt.nodes[content]["inputs"][name]
            for name in ("steps", "schedule", "denoise", "refine", "inversion")}
    start, model = [content, 0], prompt.model()
    if prompt.seldom():
        start = [prompt.ours("StyleIDStartFrequencies", noise=start), 0]
    for _ in range(prompt.pick(1, 1, 2)):  # a second one adds the same style, elsewhere or in another way
        start = [prompt.ours("LatentAdaIN", content=start, style=[style, 0],
                             **prompt.some(masks=("mask", "style_mask"))), 0]
        model = [prompt.ours("InjectStyleKV", model=model, content_features=[content, 1], style_features=[style, 1],
                             **prompt.some(("mask", "style_mask"), ("gamma_curve", "temperature_curve",
                                                                    "weight_curve"))), 0]
    return sampled(prompt, model, start, [content, 2])


def sampled(prompt: Prompt, model: list, start: list, sigmas: list) -> list:
    prompts = {"positive": prompt.conditioning(), "negative": prompt.conditioning()}
    names = inputs_of(prompt.info["KSamplerSelect"])["sampler_name"][0]
    name = prompt.pick(*names) if prompt.rarely() else prompt.pick("euler", "ddim", "heun", "dpmpp_2m")
    sampler = [prompt.add("KSamplerSelect", sampler_name=name), 0]
    if prompt.rarely():
        sigmas = [prompt.add("BasicScheduler", model=model, scheduler=prompt.pick("karras", "simple", "ddim_uniform"),
                             steps=prompt.pick(1, 3, 5), denoise=prompt.pick(1.0, 0.5)), 0]
    elif prompt.seldom():
        sigmas = [prompt.add("SplitSigmas", sigmas=sigmas, step=prompt.pick(0, 1, 2)), prompt.pick(0, 1)]
    return [prompt.add("SamplerCustom", model=model, add_noise=prompt.rarely(), noise_seed=0, cfg=prompt.pick(1.0, 4.0),
                       sampler=sampler, sigmas=sigmas, latent_image=start, **prompts), prompt.pick(0, 1)]


def break_link(prompt: Prompt):
    """Take one input of our nodes away, link it to what does not belong there, or add one that nobody knows."""
    ours = [node["inputs"] for node in prompt.nodes.values() if node["class_type"] in OURS]
    inputs = prompt.pick(*ours)
    target = prompt.pick(*sorted(inputs))
    links = [[name, number] for name in sorted(prompt.nodes) for number in (0, 1, 3)]
    link = prompt.pick(None, *links, [prompt.loader, 99], ["nobody", 0])
    if link is None:
        del inputs[target]
    else:
        inputs[target] = link
    if prompt.seldom():
        inputs["surplus"] = "value"


@st.composite
def prompts(draw, info: dict) -> tuple[str, dict]:
    """(kind of prompt, the prompt), of which a CampaignReport tells how it went."""
    odd = draw(st.sampled_from((False, True, True)))
    make = draw(st.sampled_from((one_node, five_nodes)))
    prompt = Prompt(draw, info, odd)
    prompt.add("CampaignReport", value=make(prompt), salt=draw(st.integers(0, 2 ** 30)))
    broken = prompt.seldom()
    if broken:
        break_link(prompt)
    kind = "a broken link" if broken else "odd values" if odd else "usual values"
    return f"{kind} in {make.__name__.replace('_', ' ')}", prompt.nodes
