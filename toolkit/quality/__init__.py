"""What a format costs in quality, measured."""
