"""The command line. Modules here import nothing heavy when they are loaded, so that `nas --help` answers at once."""
