"""A seeded campaign of faults against the pack: every try is drawn from a seed, judged, counted, and can be repeated
alone.
"""
