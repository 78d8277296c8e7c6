"""How much a module matters: one file for each metric."""
