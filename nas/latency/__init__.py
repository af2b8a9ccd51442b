"""Latency tables from this side: building, predicting, checking, calibrating."""
