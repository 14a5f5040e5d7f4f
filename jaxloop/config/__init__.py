"""Every setting with its unit, range and default, the grid of loops that a config spans, and the presets."""
