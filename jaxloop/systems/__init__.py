"""The worlds that a loop may be about, each with its source, its judge and its measures."""
