"""One normal distribution, fitted and drawn from again and again: every loss is known in closed form."""
