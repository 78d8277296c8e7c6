"""Which runs are next: tuning and racing."""
