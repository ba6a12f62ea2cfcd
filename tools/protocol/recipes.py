"""Published variants of StyleID, by the settings of dev.py evaluate: docs/recipes.md says what each takes from whom."""

RECIPES: dict[str, dict] = {
    "styleid": {},
    "scheduled-gamma": {"gamma_curve": ("cosine", 1.0, 0.5)},
    "attenst": {"steps": 40, "schedule": "ddim", "refine": 5, "blocks": "4-5", "color_strength": 0.6},
    "draft": {"steps": 8, "schedule": "ddim", "refine": 1},
}
