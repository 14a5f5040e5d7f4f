"""What people read and look at: the answer and the figures."""
