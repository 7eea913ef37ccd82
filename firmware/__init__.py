"""The firmware's sources, as package data: `qedge firmware build` compiles them anywhere."""
