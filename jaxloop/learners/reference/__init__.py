"""Learners whose losses are known, to tell what the transformer adds."""
