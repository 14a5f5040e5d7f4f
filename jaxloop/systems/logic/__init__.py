"""Expressions of logic: correctness, probability and lost diversity are exact."""
