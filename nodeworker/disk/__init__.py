"""What this node's disk holds of snapshots, and how its room is given out."""
