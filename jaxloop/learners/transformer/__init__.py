"""The transformer, trained from scratch on each generation's rows."""
