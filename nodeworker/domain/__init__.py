"""What the node worker knows without touching the machine: values in, values out."""
