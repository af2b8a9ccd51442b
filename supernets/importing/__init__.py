"""Supernets that others trained and published: files of theirs, read into ours."""
