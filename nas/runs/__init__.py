"""The run folder: who writes into it and what it says of its making."""
