"""A faiss index in memory that grows by one vector a step and is asked for it."""

import time

import faiss
import numpy

index = faiss.IndexHNSWFlat(64, 16)
random = numpy.random.default_rng(7)
with open("/out", "a", buffering=1) as out:
    while True:
        vector = random.normal(size=(1, 64)).astype("float32")
        index.add(vector)
        _, found = index.search(vector, 1)
        assert found[0][0] == index.ntotal - 1
        print(index.ntotal, file=out)
        time.sleep(0.05)
