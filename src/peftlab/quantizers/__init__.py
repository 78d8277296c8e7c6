"""How frozen weights are stored: one file for each scheme."""
