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


def _counting(name: str, title: str, command: str, *, version: str = _PYTHON, packages: Pip | None = None) -> Program:
    """A program of the folder workloads that counts into /out."""
    return Program(
        name,
        title,
        version=version,
        command=f"exec python3 /workloads/{command}",
        check="counts",
        suite=BOOKWORM,
        packages=packages,
        on_any_machine=packages is None,
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
    _counting("uvloop", "Python: uvloop", "count_asyncio.py uvloop", version=_version("uvloop"), packages=_WEB),
    Program(
        "gunicorn",
        "Gunicorn, two workers",
        suite=BOOKWORM,
        packages=_WEB,
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
        packages=_WEB,
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
        packages=_WEB,
        version=_version("celery"),
        command="redis-server --save '' --daemonize yes >/dev/null; cd /workloads; python3 -m celery -A tasks worker -c 2 >/log 2>&1 & "
        "cd /workloads; exec python3 tasks.py",
        check="counts",
    ),
    _counting("joblib", "joblib, processes (loky)", "count_joblib.py", version=_version("joblib"), packages=_SCIENCE),
    _counting(
        "dask", "dask.distributed, a local cluster", "count_dask.py", version=_version("dask"), packages=_SCIENCE
    ),
    _counting(
        "jupyter-kernel", "Jupyter kernel and client", "kernel.py", version=_version("ipykernel"), packages=_JUPYTER
    ),
    _counting(
        "jupyter-server",
        "Jupyter server, a kernel over its websocket",
        "jupyter_server_client.py",
        version=_version("jupyter-server"),
        packages=Pip("jupyterserver", ("jupyter-server", "ipykernel")),
    ),
    _counting("ray", "Ray, an actor", "count_ray.py", version=_version("ray"), packages=Pip("ray", ("ray",))),
    _counting(
        "faiss", "faiss, HNSW index in memory", "count_faiss.py", version=_version("faiss-cpu"), packages=_SCIENCE
    ),
    _counting(
        "qdrant",
        "Qdrant Edge, a shard on disk",
        "count_qdrant.py",
        version=_version("qdrant-edge-py"),
        packages=Pip("qdrant", ("qdrant-edge-py",)),
    ),
    Program(
        "pyspark",
        "PySpark, a cached dataset and two Python workers",
        suite=BOOKWORM,
        apt=("openjdk-17-jre-headless",),
        packages=Pip("spark", ("pyspark==4.3.*", "py4j"), from_source=True),
        version=_version("pyspark"),
        command="name_host; exec python3 /workloads/count_spark.py",
        check="counts",
    ),
    _counting(
        "watchdog",
        "watchdog, a folder by inotify",
        "count_watchdog.py",
        version=_version("watchdog"),
        packages=Pip("watchdog", ("watchdog",)),
    ),
    _counting("fanotify", "Python: a folder by fanotify", "count_fanotify.py"),
    _counting(
        "duckdb", "DuckDB, in memory and in a file", "count_duckdb.py", version=_version("duckdb"), packages=_SCIENCE
    ),
)

_TORCH: Final = Pip("torch", ("torch==2.13.0", "numpy"))


def _training(
    name: str, title: str, command: str, *, version: str, packages: Pip, apt: tuple[str, ...] = ()
) -> Program:
    """A training run of the folder workloads that leaves its result in /result."""
    return Program(
        name,
        title,
        version=version,
        command=f"exec python3 /workloads/{command}",
        check="counts",
        ready="lines 10",
        suite=BOOKWORM,
        packages=packages,
        apt=apt,
        result="/result",
    )


LEARNING: Final = (
    _training("numpy", "numpy, gradient descent", "train_numpy.py", version=_version("numpy"), packages=_SCIENCE),
    _training("torch", "PyTorch on the CPU", "train_torch.py", version=_version("torch"), packages=_TORCH),
    _training(
        "torch-dataloader",
        "PyTorch, DataLoader with two worker processes",
        "train_torch.py workers",
        version=_version("torch"),
        packages=_TORCH,
    ),
    _training(
        "torch-ddp", "PyTorch DDP, two ranks by gloo", "train_torch.py ddp", version=_version("torch"), packages=_TORCH
    ),
    _training(
        "torch-ddp-4",
        "PyTorch DDP, four ranks by gloo",
        "train_torch.py ddp 4",
        version=_version("torch"),
        packages=_TORCH,
    ),
    Program(
        "torchrun",
        "PyTorch DDP, two ranks of torchrun by the host's name",
        suite=BOOKWORM,
        packages=_TORCH,
        version=_version("torch"),
        command="name_host; exec python3 -m torch.distributed.run --standalone --nproc-per-node 2 /workloads/train_torch.py torchrun",
        ready="lines 10",
        check="counts",
        result="/result",
    ),
    _training("scikit-learn", "scikit-learn", "train_sklearn.py", version=_version("scikit-learn"), packages=_SCIENCE),
    _training(
        "xgboost",
        "XGBoost",
        "train_xgboost.py",
        version=_version("xgboost-cpu"),
        packages=Pip("xgboost", ("xgboost-cpu",)),
        apt=("libgomp1",),
    ),
    _training(
        "llama-cpp",
        "llama.cpp, generating",
        "generate_llama.py",
        version=_version("xllamacpp"),
        packages=Pip("llama", ("xllamacpp", "gguf")),
        apt=("libgomp1",),
    ),
    _training("jax", "JAX on the CPU", "train_jax.py", version=_version("jax"), packages=Pip("jax", ("jax",))),
)
