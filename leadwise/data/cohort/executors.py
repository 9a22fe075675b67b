"""Worker pools that pack shards: processes of this machine, or a Dask cluster. Any other Executor also works."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from leadwise.data.cohort.layout import CohortError
from leadwise.data.cohort.prepare import WorkerPool


@contextmanager
def processes(n: int) -> Iterator[WorkerPool]:
    """Yield a pool of `n` processes of this machine; they end when this process ends, even if it is killed."""
    context = multiprocessing.get_context("spawn")  # a fork would copy the progress bar's thread and its locks
    executor = ProcessPoolExecutor(n, mp_context=context, initializer=_exit_with_parent, initargs=(os.getpid(),))
    try:
        yield WorkerPool(executor, in_flight=n + 1)  # one shard is queued, so that no process waits for work
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def dask(address: str, seconds: float = 30.0) -> Iterator[WorkerPool]:
    """Yield a pool of the workers of a Dask cluster with its scheduler at `address`; they must have access to the same files.

    `seconds` is how long to wait for the scheduler's answer.

    Raises:
        CohortError: Dask is not installed, no scheduler answers, or the cluster has no worker.
    """
    try:
        from distributed import Client
    except ImportError:
        raise CohortError("--dask needs Dask: pip install 'leadwise[cluster]'") from None
    try:
        client = Client(address, timeout=seconds, set_as_default=False)
    except (OSError, ValueError) as error:
        raise CohortError(
            f"no Dask scheduler answers at {address} ({error}); start one, or check the address"
        ) from None
    with client:
        n_threads = sum(client.nthreads().values())
        if not n_threads:
            raise CohortError(
                f"the Dask cluster at {address} has no worker yet; start some with `dask worker {address}`"
            )
        yield WorkerPool(client.get_executor(pure=False), in_flight=2 * n_threads)


def _exit_with_parent(parent: int) -> None:
    """Exit this process when the process that started it is gone; after kill -9 nothing else ends it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
