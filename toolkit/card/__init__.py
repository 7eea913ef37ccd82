"""An image onto the memory card of a board, offline."""
