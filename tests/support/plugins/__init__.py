"""Plug-ins as other packages would bring them, one file each, for the tests of what extending costs."""
