"""Model files of others, read as one value (model.py): GGUF, Hugging Face folders, llama2.c
checkpoints. opening.py says which it is. Nothing here writes, and nothing computes a weight.
"""
