"""A jitted training step of JAX on the CPU."""

import os
import time

import jax
import jax.numpy as jnp


@jax.jit
def step(weights, key):
    inputs = jax.random.normal(key, (256, 32))
    return weights - 0.01 * jax.grad(lambda w: jnp.mean((inputs @ w - inputs[:, 0]) ** 2))(weights)


weights, key = jnp.zeros(32), jax.random.PRNGKey(7)
with open("/out", "a", buffering=1) as out:
    for number in range(1, 151):
        key, mine = jax.random.split(key)
        weights = step(weights, mine)
        print(number, file=out)
        time.sleep(0.1)
with open("/result.new", "wb") as result:
    result.write(bytes(jax.device_get(weights)))
os.rename("/result.new", "/result")
time.sleep(3600)
