"""StyleID as one would write it first: q, k and v of every step kept in float32, and put back through attn1_replace
with an own softmax.
"""

from collections import defaultdict

from ..reference import attention, style_query


def patched(model, blocks: list, replace):
    m = model.clone()
    for block in blocks:
        m.set_model_attn1_replace(lambda q, k, v, options, block=block: replace(block, q, k, v, options), *block)
    return m


def capturing(model, blocks: list) -> tuple:
    """(MODEL that keeps its q, k and v while it is inverted, {sigma: {block: (q, k, v)}})."""
    kept = defaultdict(dict)

    def replace(block, q, k, v, options):
        kept[options["sigmas"][0].item()][block] = [x.float().cpu() for x in (q, k, v)]
        return attention(q, k, v, options["n_heads"])

    return patched(model, blocks, replace), kept


def injecting(model, blocks: list, content: dict, style: dict, gamma: float = 0.75, tau: float = 1.5):
    def replace(block, q, k, v, options):
        sigma = options["sigmas"][0].item()
        q_content = content[sigma][block][0].to(q)
        _, k_style, v_style = (x.to(q) for x in style[sigma][block])
        return attention(style_query(q, q_content, gamma, tau), k_style, v_style, options["n_heads"])

    return patched(model, blocks, replace)
