"""How ComfyUI is driven: no schemas, and nothing that a person sees but errors and the log."""

import logging

KEY = "styleid"  # of the wrappers in a sampling run

logger = logging.getLogger(KEY)
