"""Many files, one task each: in this process, in several, or on an existing Dask cluster; the same results in any case.

A task is a function of a file's name that can be pickled. Results come in the order of the names; a file that cannot
be done is a result too (:class:`Outcome` with an error) and stops nothing. Errors of iretrace are of the file and
final, but for those that say that trying again may help (:class:`~iretrace.errors.Unreachable`); other exceptions, and
a worker that dies, are tried again. Only a few tasks a worker are under way at a time, so memory does not grow with the
files.
"""

from __future__ import annotations

import os
import pickle
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeVar

from iretrace.errors import EXIT_FAILED, IretraceError, MachineError, Unreachable, UsageError
from iretrace.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future
    from multiprocessing.process import BaseProcess
    from types import FrameType

T = TypeVar("T")

AHEAD: Final = 4
"""Tasks under way or done and not yet given out, for each worker."""

_SAFE_PATH: Final = "PYTHONSAFEPATH"

PAUSE_S: Final = 0.3
"""Before a file that could not be had is tried again; twice as long each time."""

REMEDY: Final = "look at the worker's log; a smaller --jobs needs less memory"


@dataclass(frozen=True, kw_only=True)
class FleetOptions:
    """Where tasks run.

    Attributes:
        jobs: processes on this machine; 1: in this process.
        scheduler: address of a Dask scheduler, which is used instead; ``None``: none.
        retries: how often a task is tried again after an error that may pass, or the death of its worker.
    """

    jobs: int = 1
    scheduler: str | None = None
    retries: int = 2


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[T]):
    """What became of a file.

    Attributes:
        name: as it was given.
        value: what the task gave; ``None`` where there is an error.
        error: one line; empty where there is a value.
    """

    name: str
    value: T | None = None
    error: str = ""


def run_all(task: Callable[[str], T], names: Sequence[str], options: FleetOptions) -> Iterator[Outcome[T]]:
    """Do a task for every name.

    Args:
        task: a function that can be pickled, of a module that the workers can import.
        names: of files, as the workers see them.
        options: where.

    Returns:
        One outcome a name, in the order of the names, each as soon as it and those before it are there.

    Raises:
        UsageError: the task cannot be sent to other processes, or the scheduler's address is off.
        MachineError: the cluster cannot be reached, or Dask is not installed.
    """
    if options.scheduler is None and options.jobs <= 1:
        return (attempt(task, options.retries, name) for name in names)
    try:
        pickle.dumps(task)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError("--jobs", f"the task cannot be sent to other processes ({error})") from None
    guarded = partial(attempt, task, options.retries)
    if options.scheduler is not None:
        return _on_cluster(guarded, names, options)
    return _in_processes(guarded, names, options)


def attempt(task: Callable[[str], T], retries: int, name: str) -> Outcome[T]:
    """Do a task; its errors become an outcome."""
    for left in range(retries, -1, -1):
        try:
            return Outcome(name=name, value=task(name))
        except Unreachable as error:
            if not left:
                return Outcome(name=name, error=str(error))
            time.sleep(min(PAUSE_S * 2 ** (retries - left), 5))
        except IretraceError as error:
            return Outcome(name=name, error=str(error))
        except MemoryError:
            return Outcome(name=name, error=f"{redacted(name)}: out of memory; a smaller --jobs needs less")
        except Exception as error:  # noqa: BLE001 - one file must not stop the others
            if not left:
                text = " ".join(str(error).split())[:300]
                return Outcome(name=name, error=redacted(f"{name}: {type(error).__name__}: {text}"))
    raise AssertionError(name)


def _in_processes(
    task: Callable[[str], Outcome[T]], names: Sequence[str], options: FleetOptions
) -> Iterator[Outcome[T]]:
    """A pool of processes; when one dies the pool is made anew, and what was under way is done again."""
    left = deque(range(len(names)))
    done: dict[int, Outcome[T]] = {}
    deaths = dict.fromkeys(range(len(names)), 0)
    given = 0
    pool = _pool(options.jobs)
    running: dict[Future[Outcome[T]], int] = {}
    try:
        while given < len(names):
            try:
                while left and len(running) + len(done) < options.jobs * AHEAD:
                    index = left[0]
                    if deaths[index] > options.retries:
                        done[index] = _alone(task, names[index])
                    else:
                        running[pool.submit(_until_stopped, task, names[index])] = index
                    left.popleft()
                if given not in done:
                    finished, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in finished:
                        done[running[future]] = future.result()
                        del running[future]
            except BrokenProcessPool:  # by a worker's death, which is seen when one gives it a task or waits for one
                for index in sorted(running.values(), reverse=True):
                    deaths[index] += 1
                    left.appendleft(index)
                running.clear()
                pool.shutdown(wait=False, cancel_futures=True)
                pool = _pool(options.jobs)
            while given in done:
                yield done.pop(given)
                given += 1
    except BaseException:  # Ctrl-C, or nobody wants the rest
        _stop(pool)
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _stop(pool: ProcessPoolExecutor) -> None:
    """Have the workers leave what they are at, and tidy up; ``pool.shutdown`` would wait for a task to end."""
    for process in list((pool._processes or {}).values()):  # noqa: SLF001 - has no name before Python 3.14
        process.terminate()


def _alone(task: Callable[[str], Outcome[T]], name: str) -> Outcome[T]:
    """Whose worker died again and again runs by itself: if that one dies too, it is this file that kills."""
    with _pool(1) as pool:
        try:
            return pool.submit(task, name).result()
        except BrokenProcessPool:
            return Outcome(name=name, error=f"{redacted(name)}: its worker died, several times; {REMEDY}")


def _pool(jobs: int) -> ProcessPoolExecutor:
    # Not fork: the parent has threads (Arrow's), and a fork of it may hang.
    with _safe_path():
        resource_tracker.ensure_running()  # an interpreter of its own, which the pool's queues would start
    return ProcessPoolExecutor(max_workers=jobs, mp_context=_Spawning(), initializer=_quiet)


@contextmanager
def _safe_path() -> Iterator[None]:
    """An interpreter that is started meanwhile looks for no module in the working directory.

    A worker gets this process's own search path, but has imported what it needs for that by then.
    """
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before


class _Worker(SpawnProcess):
    """A process that does not start with a module of the working directory."""

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:  # noqa: ANN401, N802 - multiprocessing's own, without types
        with _safe_path():
            return SpawnProcess._Popen(process_obj)  # noqa: SLF001


class _Spawning(SpawnContext):
    """Starts such processes."""

    Process = _Worker


def _quiet() -> None:
    """A worker leaves Ctrl-C to its parent, which then stops it, and the CPUs to the other workers."""
    import signal  # noqa: PLC0415

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import pyarrow as pa  # noqa: PLC0415

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    signal.signal(signal.SIGTERM, _stopped)  # until here there is nothing to tidy up


def _stopped(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(EXIT_FAILED)


def _until_stopped(task: Callable[[str], Outcome[T]], name: str) -> Outcome[T]:
    """Do a task in a worker; when it is stopped, the worker ends as soon as the task's temporary files are gone."""
    try:
        return task(name)
    except SystemExit:
        os._exit(EXIT_FAILED)  # the pool would give it the next task


def _on_cluster(task: Callable[[str], Outcome[T]], names: Sequence[str], options: FleetOptions) -> Iterator[Outcome[T]]:
    """Tasks of a Dask cluster, which sends what a dead worker had to another."""
    with ExitStack() as stack:
        client = stack.enter_context(_client(str(options.scheduler)))
        workers = max(1, sum(client.nthreads().values()))
        ahead = workers * AHEAD
        futures: deque[Any] = deque()
        following = iter(names)
        for name in names:
            while len(futures) < ahead and (coming := next(following, None)) is not None:
                futures.append(client.submit(task, coming, pure=False, retries=options.retries))
            future = futures.popleft()
            try:
                yield future.result()
            except Exception as error:  # noqa: BLE001 - the cluster's own: a worker that died too often, a lost package
                text = " ".join(str(error).split())[:300]
                yield Outcome(name=name, error=redacted(f"{name}: {type(error).__name__}: {text}; {REMEDY}"))
            finally:
                future.release()


def _client(address: str) -> Any:  # noqa: ANN401 - an optional package's class
    try:
        import distributed  # noqa: PLC0415 - an extra
    except ImportError:
        raise MachineError(
            "--scheduler", "Dask is not installed", remedy="pip install 'iretrace[fleet]', here and on the workers"
        ) from None
    try:
        connect: Any = distributed.Client  # which has no types
        client = connect(address, timeout=10, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise MachineError(
            f"--scheduler {address}", f"cannot be reached ({_short(error)})", expected="a running dask scheduler"
        ) from None
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"--scheduler {address}", _short(error), expected="an address such as tcp://HOST:8786"
        ) from None
    if not client.nthreads():
        client.close()
        raise MachineError(
            f"--scheduler {address}", "has no workers", remedy=f"start one: dask worker {address} --nthreads 1"
        )
    return client


def default_jobs() -> int:
    """As many as this process may use CPUs."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
