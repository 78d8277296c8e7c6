"""From records to statements: the frame, its statistics, the findings."""
