"""What is learnt from which data: one file for each task."""
