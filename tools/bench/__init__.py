"""Measures what StyleID does to pictures, and what it takes. A development aid, never shipped to users."""
