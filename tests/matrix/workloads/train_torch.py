"""A PyTorch training run on the CPU with Adam and dropout; arguments: `workers` (DataLoader's processes), `ddp` (two ranks by gloo, or so many) or `torchrun` (a rank of it)."""

import os
import sys
import time

import torch
from torch import nn

STEPS = 120


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 64 * STEPS

    def __getitem__(self, index):
        made = torch.Generator().manual_seed(index)
        return torch.randn(32, generator=made), torch.randn(1, generator=made)


def train(rank, ranks):
    torch.manual_seed(7)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 1))
    if ranks > 1:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=ranks)
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters())
    workers = 2 if "workers" in sys.argv else 0
    batches = torch.utils.data.DataLoader(Numbers(), batch_size=64, shuffle=True, num_workers=workers)
    with open("/out" if rank == 0 else "/dev/null", "a", buffering=1) as out:
        for step, (inputs, targets) in enumerate(batches, 1):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(inputs), targets)
            loss.backward()
            optimizer.step()
            print(step, loss.item().hex(), file=out)
            time.sleep(0.2)
    if rank == 0:
        with open("/result.new", "wb") as result:
            result.writelines(weight.detach().numpy().tobytes() for weight in model.parameters())
        os.rename("/result.new", "/result")
    time.sleep(3600)


if __name__ == "__main__":
    if "torchrun" in sys.argv:
        train(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    elif "ddp" in sys.argv:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
        ranks = int(sys.argv[2]) if len(sys.argv) > 2 else 2
        torch.multiprocessing.spawn(train, args=(ranks,), nprocs=ranks)
    else:
        train(0, 1)
