"""qedge.toolkit: what runs on the developer's machine, a module a step of the walk.

model file -> source -> quantize -> budget -> image -> ... ; each module imports only modules to
its left.  Everything that the command line does is one call here.
"""
