"""Python: its own ways to do several things at once, servers, queues, notebooks."""

from __future__ import annotations

from typing import Final

from matrix.program import BOOKWORM, Pip, Program

_WEB: Final = Pip("web", ("uvloop", "gunicorn", "celery", "redis", "uvicorn", "packaging", "async-timeout"))
_SCIENCE: Final = Pip(
    "science", ("numpy", "scikit-learn", "joblib", "duckdb", "faiss-cpu", "dask[distributed]", "pandas")
)
_JUPYTER: Final = Pip("jupyter", ("ipykernel", "jupyter-client"))
_PYTHON: Final = "python3 -c 'import platform; print(platform.python_version())'"


def _version(package: str) -> str:
    return f"python3 -c 'from importlib.metadata import version; print(version(\"{package}\"))'"


def _counting(name: str, title: str, command: str, *, version: str = _PYTHON, pip: Pip | None = None) -> Program:
    """A program of the folder workloads that counts into /out."""
    return Program(
        name,
        title,
        version=version,
        command=f"exec python3 /workloads/{command}",
        check="counts",
        suite=BOOKWORM,
        pip=pip,
        on_any_machine=pip is None,
    )


PYTHON: Final = (
    _counting("python-threads", "Python: threads under a condition", "count_threads.py"),
    _counting("python-asyncio", "Python: asyncio, client and server over a unix socket", "count_asyncio.py"),
    _counting(
        "python-asyncio-tcp", "Python: asyncio, client and server over TCP in one process", "count_asyncio.py tcp"
    ),
    _counting("python-fork", "Python: multiprocessing, forked pool and queues", "count_processes.py fork"),
    _counting("python-spawn", "Python: multiprocessing, spawned pool and queues", "count_processes.py spawn"),
    _counting("sqlite", "SQLite with a rollback journal, three processes that write", "count_sqlite.py delete"),
    _counting("sqlite-wal", "SQLite in WAL mode, three processes that write", "count_sqlite.py wal"),
    _counting("uvloop", "Python: uvloop", "count_asyncio.py uvloop", version=_version("uvloop"), pip=_WEB),
    Program(
        "gunicorn",
        "Gunicorn, two workers",
        suite=BOOKWORM,
        pip=_WEB,
        version=_version("gunicorn"),
        command="cd /workloads && exec python3 -m gunicorn --workers 2 --bind 127.0.0.1:8080 web:application",
        ready="curl -sf http://127.0.0.1:8080/",
        build="children >/children; for i in 1 2 3 4 5 6; do curl -sf http://127.0.0.1:8080/; done",
        check='same "$(children)" "$(cat /children)" && soon curl -sf http://127.0.0.1:8080/ && '
        "[ $(curl -sf http://127.0.0.1:8080/ | cut -d' ' -f2) -gt 1 ]",
    ),
    Program(
        "uvicorn",
        "Uvicorn on uvloop",
        suite=BOOKWORM,
        pip=_WEB,
        version=_version("uvicorn"),
        command="cd /workloads && exec python3 -m uvicorn --port 8080 web:asgi",
        ready="curl -sf http://127.0.0.1:8080/",
        build="for i in 1 2 3; do curl -sf http://127.0.0.1:8080/; done",
        check="[ $(curl -sf http://127.0.0.1:8080/ | cut -d' ' -f2) -gt 4 ]",
    ),
    Program(
        "celery",
        "Celery with Redis in the same container",
        suite=BOOKWORM,
        apt=("redis-server",),
        pip=_WEB,
        version=_version("celery"),
        command="redis-server --save '' --daemonize yes >/dev/null; cd /workloads; python3 -m celery -A tasks worker -c 2 >/log 2>&1 & "
        "cd /workloads; exec python3 tasks.py",
        check="counts",
    ),
    _counting("joblib", "joblib, processes (loky)", "count_joblib.py", version=_version("joblib"), pip=_SCIENCE),
    _counting("dask", "dask.distributed, a local cluster", "count_dask.py", version=_version("dask"), pip=_SCIENCE),
    _counting("jupyter-kernel", "Jupyter kernel and client", "kernel.py", version=_version("ipykernel"), pip=_JUPYTER),
    _counting(
        "jupyter-server",
        "Jupyter server, a kernel over its websocket",
        "jupyter_server_client.py",
        version=_version("jupyter-server"),
        pip=Pip("jupyterserver", ("jupyter-server", "ipykernel")),
    ),
    _counting("ray", "Ray, an actor", "count_ray.py", version=_version("ray"), pip=Pip("ray", ("ray",))),
    _counting("faiss", "faiss, HNSW index in memory", "count_faiss.py", version=_version("faiss-cpu"), pip=_SCIENCE),
    _counting(
        "qdrant",
        "Qdrant Edge, a shard on disk",
        "count_qdrant.py",
        version=_version("qdrant-edge-py"),
        pip=Pip("qdrant", ("qdrant-edge-py",)),
    ),
    _counting("duckdb", "DuckDB, in memory and in a file", "count_duckdb.py", version=_version("duckdb"), pip=_SCIENCE),
)

_TORCH: Final = Pip("torch", ("torch==2.13.0", "numpy"))
_TORCHRUN: Final = "getent hosts $(hostname) >/dev/null || echo 127.0.0.1 $(hostname) >>/etc/hosts; exec python3 -m torch.distributed.run --standalone --nproc-per-node"
"""Its ranks find each other by the host's own name, which `woodfrog run` does not write down, as Kubernetes does."""


def _training(name: str, title: str, command: str, *, version: str, pip: Pip, apt: tuple[str, ...] = ()) -> Program:
    """A training run of the folder workloads that leaves its result in /result."""
    return Program(
        name,
        title,
        version=version,
        command=f"exec python3 /workloads/{command}",
        check="counts",
        ready="lines 10",
        suite=BOOKWORM,
        pip=pip,
        apt=apt,
        result="/result",
    )


LEARNING: Final = (
    _training("numpy", "numpy, gradient descent", "train_numpy.py", version=_version("numpy"), pip=_SCIENCE),
    _training("torch", "PyTorch on the CPU", "train_torch.py", version=_version("torch"), pip=_TORCH),
    _training(
        "torch-dataloader",
        "PyTorch, DataLoader with two worker processes",
        "train_torch.py workers",
        version=_version("torch"),
        pip=_TORCH,
    ),
    _training(
        "torch-ddp", "PyTorch DDP, two ranks by gloo", "train_torch.py ddp", version=_version("torch"), pip=_TORCH
    ),
    _training(
        "torch-ddp-4", "PyTorch DDP, four ranks by gloo", "train_torch.py ddp 4", version=_version("torch"), pip=_TORCH
    ),
    Program(
        "torchrun",
        "PyTorch DDP, two ranks of torchrun by the host's name",
        suite=BOOKWORM,
        pip=_TORCH,
        version=_version("torch"),
        command=f"{_TORCHRUN} 2 /workloads/train_torch.py torchrun",
        ready="lines 10",
        check="counts",
        result="/result",
    ),
    _training("scikit-learn", "scikit-learn", "train_sklearn.py", version=_version("scikit-learn"), pip=_SCIENCE),
    _training(
        "xgboost",
        "XGBoost",
        "train_xgboost.py",
        version=_version("xgboost-cpu"),
        pip=Pip("xgboost", ("xgboost-cpu",)),
        apt=("libgomp1",),
    ),
    _training("jax", "JAX on the CPU", "train_jax.py", version=_version("jax"), pip=Pip("jax", ("jax",))),
)
