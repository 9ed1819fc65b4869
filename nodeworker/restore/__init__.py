"""A start from a snapshot: from the runtime's ``create`` to the running container."""
