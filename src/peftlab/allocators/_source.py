"""The source of what no paper has proposed in this form."""

from __future__ import annotations

#: BibTeX, for ``citation`` of an allocator or importance metric of our own design
OWN = """@misc{peftlab,
  title = {{peftlab}: which parameter-efficient fine-tuning method suits your model, data and hardware},
  author = {{The peftlab engineers}}, year = {2026}
}"""
