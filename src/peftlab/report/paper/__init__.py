"""The paper of a study, in LaTeX."""
