"""What is asked: the study file, its schema, its arms."""
