"""From a study to its runs, what is refused, and what is predicted."""
