"""The page of a study: one file without any network access."""
