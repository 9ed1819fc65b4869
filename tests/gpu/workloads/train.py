"""A PyTorch training run whose end is one number. ``train.py FILE STEPS``: a line for each step, then the weights' digest."""

from __future__ import annotations

import hashlib
import os
import sys
import time

os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"

import torch

path, steps = sys.argv[1], int(sys.argv[2])
torch.use_deterministic_algorithms(True)
torch.manual_seed(7)
model = torch.nn.Sequential(
    torch.nn.Linear(256, 1024), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(1024, 16)
).cuda()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for step in range(1, steps + 1):
    inputs = torch.randn(512, 256, device="cuda")
    loss = torch.nn.functional.cross_entropy(model(inputs), inputs[:, :16].argmax(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with open(path, "a") as file:
        file.write(f"{step}\n")
    time.sleep(0.02)
digest = hashlib.sha256(b"".join(p.detach().cpu().numpy().tobytes() for p in model.parameters())).hexdigest()
with open(f"{path}.digest", "w") as file:
    file.write(digest)
time.sleep(3600)
