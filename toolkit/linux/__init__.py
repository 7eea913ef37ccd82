"""Boards with Linux: reached by ssh, and what is put there."""
