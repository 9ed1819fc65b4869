"""What several kinds of test need: an image, a containerd of their own, a CRI client, a whole stack."""
