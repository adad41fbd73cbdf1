"""The policies of choosing, a module each."""
