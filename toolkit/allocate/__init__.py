"""Bits by need: which type each tensor of a model gets within a budget."""
