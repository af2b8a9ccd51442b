"""Scores of untrained networks; higher is better, always. One file each."""
