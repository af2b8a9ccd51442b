"""Evaluators: an architecture in, the objective out."""
