"""CRIU and runc: how they are called, what they are told, what they leave behind."""
