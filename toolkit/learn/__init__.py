"""What a model's own gradients tell and change: bits by need, and tuned scales."""
