"""What components have in common below all of them: roles, layers, their replacement."""
