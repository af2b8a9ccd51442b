"""The search: settings, the loop, and what it writes."""
