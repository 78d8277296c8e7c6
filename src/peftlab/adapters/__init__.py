"""What is trained on top of the frozen backbone: one file for each adapter."""
