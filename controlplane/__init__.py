"""The control plane: it records what happened, decides what follows, and tells whoever has to act. It touches no container."""
