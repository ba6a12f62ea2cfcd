"""The interface that published workflows rely on: ids, order, defaults, and help on everything."""

import inspect

import pytest

import nodes

INPUTS = {
    "CaptureSelfAttention": {"model": None, "blocks": "auto", "feature_dtype": "auto", "feature_device": "auto"},
    "DDIMInvert": {"model": None, "latent": None, "positive": None, "steps": 50, "schedule": "official", "denoise": 1.0,
                   "refine": 0, "inversion": "ddim", "round_trip": False},
    "FireFlowSampler": {},
    "LatentAdaIN": {"content": None, "style": None, "color_strength": 1.0, "mask": None, "style_mask": None},
    "InjectStyleKV": {"model": None, "content_features": None, "style_features": None, "gamma": 0.75,
                      "temperature": 1.5, "weight": 1.0, "mask": None, "style_mask": None, "blocks": "auto",
                      "inject_into": "both", "start_percent": 0.0, "end_percent": 1.0, "auto_temperature": False,
                      "gamma_curve": None, "temperature_curve": None, "weight_curve": None},
    "StyleIDCurve": {"start": 1.0, "end": 0.5, "shape": "cosine"},
    "StyleIDStartFrequencies": {"noise": None, "inner": 0.3, "outer": 0.9, "keep": 0.7, "seed": 0},
    "StyleIDPositions": {"model": None, "place": "diagonal", "high_frequencies": 0.5, "low_frequencies": 1.5},
    "StyleIDStrength": {"model": None, "strength": 0.5},
    "StyleIDSweep": {"gamma": "0.3, 0.5, 0.75", "temperature": "1, 1.5, 2"},
    "StyleIDSampler": {"model": None, "content": None, "style": None, "positive": None, "steps": 50, "gamma": 0.75,
                       "temperature": 1.5, "color_strength": 1.0, "blocks": "auto", "schedule": "official",
                       "preset": "custom", "weight": 1.0, "style_features": None, "options": None},
    "StyleIDOptions": {"negative": None, "cfg": 1.0, "cfg_max_sigma": 5.42, "inversion_positive": None,
                       "style_positive": None,
                       "denoise": 1.0,
                       "inject_into": "both", "start_percent": 0.0, "end_percent": 1.0, "feature_dtype": "auto",
                       "feature_device": "auto", "auto_temperature": False, "gamma_curve": None,
                       "temperature_curve": None, "weight_curve": None, "refine": 0, "inversion": "ddim"},
    "SaveStyleIDFeatures": {"noise": None, "features": None, "sigmas": None, "filename_prefix": "style", "image": None},
    "LoadStyleIDFeatures": {"file": None},
    "StyleIDScores": {"content": None, "style": None, "stylized": None},
}
OUTPUTS = {
    "CaptureSelfAttention": ["MODEL"], "DDIMInvert": ["LATENT", "STYLEID_FEATURES", "SIGMAS"],
    "LatentAdaIN": ["LATENT"], "InjectStyleKV": ["MODEL"], "StyleIDSampler": ["LATENT"],
    "StyleIDOptions": ["STYLEID_OPTIONS"], "StyleIDCurve": ["CURVE"],
    "StyleIDStrength": ["FLOAT", "FLOAT"],
    "StyleIDSweep": ["FLOAT", "FLOAT", "STRING", "INT"], "StyleIDStartFrequencies": ["LATENT"],
    "StyleIDPositions": ["MODEL"], "FireFlowSampler": ["SAMPLER"], "SaveStyleIDFeatures": [],
    "LoadStyleIDFeatures": ["LATENT", "STYLEID_FEATURES", "SIGMAS"],
    "StyleIDScores": ["FLOAT", "FLOAT", "FLOAT", "STRING"],
}


@pytest.fixture(params=INPUTS)
def schema(request, pack):
    return nodes.NODE_CLASS_MAPPINGS[request.param].GET_SCHEMA()


def test_inputs_and_outputs(schema):
    assert [(i.id, getattr(i, "default", None))
            for i in schema.inputs] == list(INPUTS[schema.node_id].items()), "in this order"
    assert [o.io_type for o in schema.outputs] == OUTPUTS[schema.node_id]


def test_help_is_on_everything(schema):
    assert schema.category == "styleid" and schema.description and "styleid" in schema.search_aliases
    assert all(each.tooltip for each in [*schema.inputs, *schema.outputs])


def test_defaults_of_execute_are_those_of_the_schema(schema):
    parameters = inspect.signature(nodes.NODE_CLASS_MAPPINGS[schema.node_id].execute).parameters
    defaults = {name: None if p.default is p.empty else p.default for name, p in parameters.items()}
    assert defaults == INPUTS[schema.node_id]
