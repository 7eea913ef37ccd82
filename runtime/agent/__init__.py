"""The agent of a board with Linux, which speaks what the firmware speaks (docs/link.md)."""
