"""Old events in files: written, read back, and read together with the database as one log."""
