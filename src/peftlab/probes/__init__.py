"""What a run records about itself: one file for each diagnostic."""
