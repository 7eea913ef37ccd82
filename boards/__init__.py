"""One TOML file a board: data only, read by qedge.toolkit.board."""
