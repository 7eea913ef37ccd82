"""Measuring, on the device itself. What figures are worth says toolkit/results/trust.py."""
