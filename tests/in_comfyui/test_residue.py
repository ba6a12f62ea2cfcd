"""What an error leaves behind: nothing that would make the next prompt slow or wrong."""

import gc
import sys

import comfy.model_management
import torch


def test_an_error_in_an_inversion_leaves_the_model_loaded(pack, model, case):
    """ComfyUI keeps the error's frames, a circle that only its next garbage collection frees; MODEL must not count as
    leaked then.
    """
    def execute():
        try:
            pack.StyleIDSampler(model=model, content=case.content, style=case.style,
                                positive=[[torch.randn(1, 5, 48), {}]], steps=2)
        except RuntimeError:
            frames = sys.exc_info()[2]  # as ComfyUI does
            assert frames

    comfy.model_management.unload_all_models()
    gc.disable()
    execute()
    gc.enable()
    gc.collect()
    [loaded] = comfy.model_management.current_loaded_models
    assert not loaded.is_dead() and loaded.model.model is model.model
