"""Who decides the rank of every adapted module: one file for each rule."""
