"""What came out: the folders of runs, written whole and read back."""
