"""Compares StyleID with other methods by the metrics of styleid_core.metrics. A development aid, never shipped to
users.
"""
