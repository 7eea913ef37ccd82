"""Tokenizers of others, read into one value (value.py): a file of this room a format.

Chat templates are the source's matter, packing is make/vocabulary_table.py's.
"""
