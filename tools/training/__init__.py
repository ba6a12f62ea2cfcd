"""Trains the demo's miniature models: python dev.py train --images DIR. A development aid, never shipped to users."""
