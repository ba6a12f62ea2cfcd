"""The paper's protocol on a running ComfyUI: every content with every style, then the metrics. A development aid, not
shipped.
"""
