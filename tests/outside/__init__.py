"""peftlab against what nobody here wrote: the papers by hand, other libraries, and programs that have never heard of peftlab."""
