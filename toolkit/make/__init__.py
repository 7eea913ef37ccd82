"""From a model to an image: the plan, the bytes, and what both will mean on a board."""
