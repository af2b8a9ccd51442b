"""The training of supernets: one step, the loop, and what varies."""
