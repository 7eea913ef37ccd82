"""Emulated boards, used as real ones are: by the port that they have."""
