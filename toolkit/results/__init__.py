"""Measurements: kept, judged, shown."""
