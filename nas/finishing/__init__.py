"""The chosen network, trained to the end."""
