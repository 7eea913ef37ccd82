"""qedge.toolkit: what runs on the developer's machine.

Everything that the command line does is one call here. The rooms are in docs/architecture.md.
"""
