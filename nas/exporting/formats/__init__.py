"""What an export can hold beside its checkpoint; see `nas.exporting.formats.registry`."""
