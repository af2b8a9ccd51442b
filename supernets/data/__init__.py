"""Images: where they come from, how they are divided, decoded and augmented."""
