"""CRIU and runc: how they are called and configured, and what they leave behind."""
