"""A dump from the request to the stored snapshot."""
