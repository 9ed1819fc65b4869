"""Train a small network by stochastic gradient descent, in plain floating point, and print loss and weights at the end."""

import math
import random
import sys
import time

steps = int(sys.argv[2])
source = random.Random(7)
hidden = [[source.uniform(-1, 1) for _ in range(3)] for _ in range(8)]
out = [source.uniform(-1, 1) for _ in range(8)]
loss = 0.0
for _ in range(steps):
    x, y = source.uniform(-1, 1), source.uniform(-1, 1)
    inputs = (x, y, 1.0)
    activations = [math.tanh(sum(w * i for w, i in zip(row, inputs, strict=True))) for row in hidden]
    error = sum(w * a for w, a in zip(out, activations, strict=True)) - math.sin(3 * x) * y
    loss = 0.99 * loss + 0.01 * error * error
    for index, activation in enumerate(activations):
        slope = error * out[index] * (1 - activation * activation)
        out[index] -= 0.05 * error * activation
        for position, value in enumerate(inputs):
            hidden[index][position] -= 0.05 * slope * value
    if sys.argv[1] != "-":
        time.sleep(0.01)

result = f"{loss!r} {out!r} {hidden!r}"
print(result)
if sys.argv[1] != "-":
    with open(sys.argv[1], "w") as record:
        record.write(result + "\n")
