"""The HTTP API: what the log and its views say, read-only, for programs and for the page."""
