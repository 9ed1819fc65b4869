"""A Ray cluster of one node, and an actor that counts."""

import time

import ray

ray.init(num_cpus=1, include_dashboard=False, object_store_memory=80 << 20)


@ray.remote
class Counter:
    def __init__(self):
        self.number = 0

    def next(self):
        self.number += 1
        return self.number


counter = Counter.remote()
with open("/out", "a", buffering=1) as out:
    while True:
        print(ray.get(counter.next.remote(), timeout=60), file=out)
        time.sleep(0.1)
