"""Trains the demo's miniature Stable Diffusion: python dev.py train --images DIR. A development aid, never shipped to
users.
"""
