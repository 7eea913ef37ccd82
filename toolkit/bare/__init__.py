"""Boards that run qedge's own firmware: compiling it, its files, emulators."""
