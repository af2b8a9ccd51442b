"""Growing a network into a family: which larger networks are tried, which one is taken, and how far it goes."""
