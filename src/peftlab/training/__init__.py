"""One run: the loop, and everything that it needs."""
