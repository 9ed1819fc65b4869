"""What the control plane does only where it runs on Kubernetes: everything here is optional, and nothing else needs it."""
