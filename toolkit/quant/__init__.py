"""Formats of weights, and their quantizers."""
