"""One trained network over several devices."""
