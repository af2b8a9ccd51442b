"""What a search records: trials and their files."""
