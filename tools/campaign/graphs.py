"""Random prompts for ComfyUI's API: the pack's nodes among ComfyUI's own, with the demo model."""

import random

from .values import NOT_A_CHOICE, inputs_of

OURS = ("CaptureSelfAttention", "DDIMInvert", "LatentAdaIN", "InjectStyleKV", "StyleIDSampler", "StyleIDOptions",
        "StyleIDCurve", "StyleIDStartFrequencies", "StyleIDPositions", "StyleIDScores")
SIDES = (8, 8, 8, 9, 11, 16)
STYLES = (1,) * 7 + (2,)  # how many of them in a batch
TRANSFORMERS = {"flux": "16", "flux2": "128", "chroma": "16", "qwen_image": "16,1", "z_image": "16", "sd35": "16",
                "wan": "16,1"}
ODD_SHAPES = ("0,8,8,8", "1,8,1,1", "1,8,2,3", "1,16,8,8", "1,3,8,8", "8,8,8", "1,8,1,8,8", "1,8,8,0", "1,8,64,4",
              "5,8,8,8", "1,8")
ODD_FILLS = ("zeros", "nan", "infinite", "constant", "huge", "half")
MASKS = ("left", "zeros", "ones", "two", "flat", "nan", "empty", "four", "small")
REGIONS, CURVES = ("mask", "style_mask"), ("gamma_curve", "temperature_curve", "weight_curve")
PROMPT_CHANGES = ("empty", "two", "area", "late", "wide", "nan", "long", "batch")


class Graph:
    """A prompt in the making: `add` gives the id of a new node, [id, n] is its n-th output."""

    def __init__(self, rng: random.Random, info: dict, wild: float):
        self.rng, self.info, self.wild, self.prompt = rng, info, wild, {}
        self.channels = "8"  # of a latent, with its frame where it has one
        chance = rng.random()
        if chance < 0.2:
            family, self.channels = rng.choice(list(TRANSFORMERS.items()))
            self.loader = self.add("StyleIDDemoTransformer", family=family)
        else:
            self.loader = self.add("StyleIDDemoSDXL" if chance < 0.3 else "StyleIDDemoModel")
        self.model = [self.loader, 0]

    def add(self, kind: str, **inputs) -> str:
        name = f"{kind} {len(self.prompt)}"
        self.prompt[name] = {"class_type": kind, "inputs": inputs}
        return name

    def ours(self, kind: str, **links) -> str:
        return self.add(kind, **inputs_of(self.rng, self.info[kind], self.wild) | links)

    def odd(self) -> bool:
        return self.rng.random() < self.wild

    def latent(self, batches: tuple[int, ...] = (1, 1, 1, 2, 3)) -> list:
        batch = self.rng.choice(batches)
        shape = f"{batch},{self.channels},{self.rng.choice(SIDES)},{self.rng.choice(SIDES)}"
        shape = self.rng.choice(ODD_SHAPES) if self.odd() else shape
        fill = self.rng.choice(ODD_FILLS) if self.odd() else "noise"
        mask = self.rng.choice(MASKS) if self.odd() else self.rng.choice(("none", "none", "left"))
        link = [self.add("CampaignLatent", shape=shape, fill=fill, mask=mask, seed=self.rng.randrange(99)), 0]
        change = self.rng.randrange(12)
        if change == 0:
            link = [self.add("RepeatLatentBatch", samples=link, amount=2), 0]
        elif change == 1:
            link = [self.add("LatentBlend", samples1=link, samples2=link, blend_factor=0.3), 0]
        elif change == 2:
            link = [self.add("RebatchLatents", latents=link, batch_size=1), 0]
        elif change == 3:
            link = [self.add("VAEEncode", pixels=[self.add("CampaignPicture", shape="1,72,64,3", fill="noise", seed=3),
                                                  0],
                             vae=[self.loader, 2]), 0]
        return link

    def some(self, masks: tuple[str, ...] = (), curves: tuple[str, ...] = ()) -> dict:
        """Links for some of these inputs."""
        links = {}
        for name in masks:
            if self.rng.random() < 0.2:
                kind = self.rng.choice(MASKS if self.odd() else ("left", "left", "ones", "zeros", "flat"))
                links[name] = [self.add("CampaignMask", mask=kind, height=64, width=self.rng.choice((64, 40))), 0]
        for name in curves:
            if self.rng.random() < 0.2:
                links[name] = [self.ours("StyleIDCurve"), 0]
        return links

    def conditioning(self) -> list:
        link = [self.loader, 1]
        if self.odd():
            link = [self.add("CampaignPrompt", conditioning=link, change=self.rng.choice(PROMPT_CHANGES)), 0]
        return link

    def any_model(self) -> list:
        """The demo's model, or with another node's patch."""
        change = self.rng.randrange(12)
        if change == 0:
            return [self.add("FreeU", model=self.model, b1=1.1, b2=1.2, s1=0.9, s2=0.2), 0]
        if change == 1:
            return [self.add("LoraLoaderModelOnly", model=self.model, lora_name="style_lora.safetensors",
                             strength_model=0.7), 0]
        if change == 2 and self.wild:
            return [self.add("HyperTile", model=self.model, tile_size=32, swap_size=2, max_depth=0, scale_depth=False),
                    0]
        if change == 3:
            kind = self.rng.choice(("eps", "v_prediction", "lcm"))
            return [self.add("ModelSamplingDiscrete", model=self.model, sampling=kind, zsnr=False), 0]
        if change == 4:
            return [self.ours("StyleIDPositions", model=self.model), 0]
        return self.model


def report(graph: Graph, link: list) -> dict:
    graph.add("CampaignReport", value=link, salt=graph.rng.randrange(2 ** 30))
    return graph.prompt


def one_node(graph: Graph) -> dict:
    optional = {} if graph.odd() else {"negative": graph.conditioning()}
    if graph.rng.random() < 0.3:
        optional["inversion_positive"] = graph.conditioning()
    optional |= graph.some(curves=CURVES[:2])
    options = {"options": [graph.ours("StyleIDOptions", **optional), 0]} if graph.rng.random() < 0.8 else {}
    sampler = graph.ours("StyleIDSampler", model=graph.any_model(), content=graph.latent(), style=graph.latent(STYLES),
                         positive=graph.conditioning(), **options)
    return report(graph, [sampler, 0])


def five_nodes(graph: Graph) -> dict:
    """Both inversions with the same settings for the most part, then one of several ways to sample."""
    rng = graph.rng
    recording = graph.ours("CaptureSelfAttention", model=graph.any_model())
    graph.prompt[recording]["inputs"]["blocks"] = graph.prompt[recording]["inputs"]["blocks"] or "auto"
    content = graph.ours("DDIMInvert", model=[recording, 0], latent=graph.latent(), positive=graph.conditioning())
    style = graph.ours("DDIMInvert", model=[recording, 0], latent=graph.latent(STYLES), positive=graph.conditioning())
    if rng.random() < 0.85:
        shared = {name: graph.prompt[content]["inputs"][name]
                  for name in ("steps", "schedule", "denoise", "refine", "inversion")}
        graph.prompt[style]["inputs"] |= shared
    start, model = [content, 0], graph.any_model()
    if rng.random() < 0.2:
        start = [graph.ours("StyleIDStartFrequencies", noise=start), 0]
    for _ in range(rng.choice((1, 1, 2))):  # a second one adds the same style, elsewhere or in another way
        start = [graph.ours("LatentAdaIN", content=start, style=[style, 0], **graph.some(REGIONS)), 0]
        injected = graph.ours("InjectStyleKV", model=model, content_features=[content, 1], style_features=[style, 1],
                              **graph.some(REGIONS, CURVES))
        model = [injected, 0]
        if rng.random() < 0.7:
            graph.prompt[injected]["inputs"]["blocks"] = "auto"
    if graph.odd():
        start = [graph.add("SetLatentNoiseMask", samples=start,
                           mask=[graph.add("SolidMask", value=0.5, width=64, height=64), 0]), 0]
    return report(graph, sampled(graph, model, start, [content, 2]))


def sampled(graph: Graph, model: list, start: list, sigmas: list) -> list:
    rng = graph.rng
    cfg = rng.choice((1.0, 1.0, 4.0))
    prompts = {"positive": graph.conditioning(), "negative": graph.conditioning()}
    if graph.wild and rng.random() < 0.3:
        steps = rng.choice((1, 3, 5))
        return [graph.add("KSamplerAdvanced", model=model, add_noise="disable", noise_seed=0, steps=steps, cfg=cfg,
                          sampler_name=rng.choice(graph.info["KSampler"]["input"]["required"]["sampler_name"][0]),
                          scheduler="ddim_uniform", latent_image=start, start_at_step=rng.choice((0, 1)),
                          end_at_step=rng.choice((2, 10000)), return_with_leftover_noise="disable", **prompts), 0]
    names = sampler_names(graph.info) if graph.wild else ("euler", "ddim", "heun", "dpmpp_2m")
    sampler = [graph.add("KSamplerSelect", sampler_name=rng.choice(names)), 0]
    if rng.random() < 0.2:
        sigmas = [graph.add("SplitSigmas", sigmas=sigmas, step=rng.choice((0, 1, 2))), rng.choice((0, 1))]
    elif graph.odd():
        sigmas = [graph.add("BasicScheduler", model=model, scheduler=rng.choice(("karras", "simple", "ddim_uniform")),
                            steps=rng.choice((1, 3, 5)), denoise=rng.choice((1.0, 0.5))), 0]
    return [graph.add("SamplerCustom", model=model, add_noise=graph.odd(), noise_seed=0, cfg=cfg, sampler=sampler,
                      sigmas=sigmas, latent_image=start, **prompts), rng.choice((0, 1))]


def sampler_names(info: dict) -> list[str]:
    kind, *options = info["KSamplerSelect"]["input"]["required"]["sampler_name"]
    return kind if isinstance(kind, list) else options[0]["options"]


def scores(graph: Graph) -> dict:
    shapes = ("1,64,64,3", "1,65,80,3", "2,64,64,3", "1,8,8,3", "1,64,64,4", "0,64,64,3", "1,1,1,3", "64,64,3",
              "1,64,64,1")
    pictures = {name: [graph.add("CampaignPicture", shape=graph.rng.choice(shapes) if graph.odd() else "1,64,64,3",
                                 fill=graph.rng.choice(("nan", "zeros")) if graph.odd() else "noise",
                                 seed=graph.rng.randrange(9)), 0]
                for name in ("content", "style", "stylized")}
    return report(graph, [graph.add("StyleIDScores", **pictures), graph.rng.randrange(3)])


def break_links(graph: Graph) -> dict:
    """A usual prompt with one input of one of our nodes taken away, or connected to what does not belong there."""
    prompt = rng_choice(graph)(graph)
    name = graph.rng.choice([name for name, node in prompt.items() if node["class_type"] in OURS])
    inputs = prompt[name]["inputs"]
    target = graph.rng.choice(sorted(inputs))
    change = graph.rng.randrange(4)
    if change == 0:
        del inputs[target]
    elif change == 1:
        inputs[target] = [graph.rng.choice(sorted(prompt)), graph.rng.randrange(4)]
    elif change == 2:
        inputs[target] = graph.rng.choice(([graph.loader, 99], ["nobody", 0], [graph.loader, "1"], [], [None, None],
                                           *NOT_A_CHOICE))
    else:
        inputs["surplus"] = "value"
        inputs[target] = graph.rng.choice(NOT_A_CHOICE)
    return prompt


def rng_choice(graph: Graph):
    return graph.rng.choice((one_node, five_nodes))


# name: (chance, how wild the values are, what makes the prompt)
KINDS = {"usual values in one node": (2, 0.0, one_node), "usual values in five nodes": (2, 0.0, five_nodes),
         "odd values in one node": (4, 0.12, one_node), "odd values in five nodes": (4, 0.06, five_nodes),
         "broken links": (2, 0.0, break_links), "scores": (1, 0.4, scores)}


def random_prompt(rng: random.Random, info: dict) -> tuple[str, dict]:
    """(one of KINDS, a prompt of that kind)."""
    name = rng.choices(list(KINDS), [chance for chance, _, _ in KINDS.values()])[0]
    _, wild, make = KINDS[name]
    return name, make(Graph(rng, info, wild))
