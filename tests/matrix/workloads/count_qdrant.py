"""Qdrant's engine in the process, with a shard on disk that grows by one vector a step and is asked for it."""

import os
import time

import qdrant_edge as qdrant

os.mkdir("/shard")
vectors = qdrant.EdgeVectorParams(size=4, distance=qdrant.Distance.Euclid)
shard = qdrant.EdgeShard.create("/shard", qdrant.EdgeConfig(vectors=vectors))
with open("/out", "a", buffering=1) as out:
    while True:
        number = shard.count(qdrant.CountRequest(exact=True)) + 1
        vector = [float(number), 0.0, 0.0, 0.0]
        shard.update(qdrant.UpdateOperation.upsert_points([qdrant.Point(number, vector, {})]))
        (found,) = shard.search(qdrant.SearchRequest(query=qdrant.Query.Nearest(vector), limit=1))
        print(found.id, file=out)
        time.sleep(0.1)
