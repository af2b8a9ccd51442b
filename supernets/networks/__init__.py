"""Networks as ordinary modules. Each file needs torch alone, so that it can travel beside an exported checkpoint."""
