"""Networks by what one types for them, as op graphs and modules."""
