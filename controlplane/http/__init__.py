"""What a control plane shows over HTTP: whether it lives, whether it is ready, and its numbers."""
