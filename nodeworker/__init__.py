"""The node worker: it dumps and restores the containers of one node, and says what it saw. It decides nothing about snapshots."""
