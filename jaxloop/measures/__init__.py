"""Measures that any system may use."""
