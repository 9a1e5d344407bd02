"""Anything that can answer."""
