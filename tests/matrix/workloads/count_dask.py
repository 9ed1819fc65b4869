"""A local cluster of dask: scheduler, one worker process, and a client that counts through them."""

import time

from dask.distributed import Client, LocalCluster


def successor(number):
    return number + 1


if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster, Client(cluster) as client:
        number = 0
        with open("/out", "a", buffering=1) as out:
            while True:
                number = client.submit(successor, number).result(timeout=30)
                print(number, file=out)
                time.sleep(0.1)
