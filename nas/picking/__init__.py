"""Choosing among trained networks whose accuracy others have published, without training anything."""
