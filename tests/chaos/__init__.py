"""Chaos: an arena under workers that are killed; see conductor.py."""
