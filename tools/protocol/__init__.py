"""The paper's protocol: every content with every style, then the metrics. A development aid, not shipped."""
