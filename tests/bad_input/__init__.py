"""Bad input: a catalogue of mistakes that users make, and what peftlab must say to each."""
