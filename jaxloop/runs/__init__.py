"""One run, from its config to its folder: what is planned, computed, kept and resumed."""
