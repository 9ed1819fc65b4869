"""XGBoost, one round at a time, with the histogram method on two threads of OpenMP."""

import os
import time

import numpy
import xgboost

random = numpy.random.default_rng(7)
inputs = random.normal(size=(2000, 16))
data = xgboost.DMatrix(inputs, label=inputs[:, 0] * 2 + random.normal(size=2000))
model = xgboost.Booster({"tree_method": "hist", "nthread": 2, "seed": 7, "subsample": 0.5}, [data])
with open("/out", "a", buffering=1) as out:
    for step in range(1, 101):
        model.update(data, step)
        print(step, file=out)
        time.sleep(0.2)
model.save_model("/model.json")
os.rename("/model.json", "/result")
time.sleep(3600)
