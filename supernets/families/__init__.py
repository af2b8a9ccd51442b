"""The families of networks whose axes are written down by hand."""
