"""Gradient descent by numpy, with random batches; the weights at the end are the result."""

import time

import numpy

random = numpy.random.default_rng(7)
data, target = random.normal(size=(2000, 64)), random.normal(size=2000)
weights = numpy.zeros(64)
with open("/out", "a", buffering=1) as out:
    for step in range(1, 301):
        batch = random.integers(0, 2000, 256)
        weights -= 0.01 * data[batch].T @ (data[batch] @ weights - target[batch]) / 256
        print(step, file=out)
        time.sleep(0.1)
with open("/result.new", "wb") as result:
    result.write(weights.tobytes())
__import__("os").rename("/result.new", "/result")
time.sleep(3600)
