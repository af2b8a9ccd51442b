"""Trainings with a run folder, in one process or several."""
