"""The report that a sick Python process gives of itself.

Copy this file into a project, or install it, and say once, in the main thread:

    import gmr

    gmr.register_section('Cache', cache.stats)  # any callable without arguments
    gmr.setup_autorun('13.0.0', conf=CONF)

From then on `kill -USR2 PID` makes the live process write a Guru Meditation Report: package, threads, green threads,
asyncio tasks, processes, configuration, and the registered sections. The process goes on as if nothing had happened.
The report goes to a file in `log_dir` if one is given, else to stderr, else to a private file in the temporary
directory. `TextGuruMeditation(version).run()` returns it as a str, at any time and from any thread.

`python3 gmr.py SCRIPT` runs any program so that it answers, and `python3 gmr.py --pid PID` asks a process that has
never heard of this module (CPython 3.14). `--help` tells the rest.

Interface and text layout are those of OpenStack's oslo.reports; the name is that of the Amiga's last words.
"""

# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import atexit
import contextlib
import errno
import functools
import gc
import io
import itertools
import math
import operator
import os
import re
import select
import signal
import stat
import sys
import threading
import time
import types
import warnings
from _queue import Empty, SimpleQueue  # gevent replaces queue.SimpleQueue; nobody replaces the C type itself
from collections import deque, namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set, ValuesView

TYPE_CHECKING = False  # the module typing, like traceback and linecache, is more than a process at rest should carry
if TYPE_CHECKING:
    from typing import Any, ClassVar, Optional

    Frame = Optional[types.FrameType]
try:
    import posix as _os  # eventlet replaces os.open and os.write; nobody replaces the C functions under them
except ImportError:  # Windows
    import os as _os  # type: ignore[no-redef]
try:
    import pwd
    import resource
except ImportError:  # Windows
    pwd = resource = None  # type: ignore[assignment]

__all__ = ['GuruMeditation', 'JSONGuruMeditation', 'TextGuruMeditation', 'register_section', 'setup_autorun']
__version__ = '1.0.0'

# A value is hidden if its name, in lower case, holds a match. A program may replace the pattern.
SECRET_NAMES = (
    r'passw|pass[-_ ]?phrase|passcode|pass(?![a-z])|pwd|pw(?![a-z])|secret|token|credential|authorization|cookie'
    r'|session|jwt|signature|(?<![a-z])sig(?![a-z])|salt|dsn|(?:api|access|private|account|auth|encryption|fernet|hmac'
    r'|host|master|pass|shared|signing|ssh|subscription)[-_. ]?key'
)
re.compile(SECRET_NAMES)  # now, since re keeps it: a fifth of a first report in a small process
_HIDDEN = '***'
_WIDTH = 72  # columns of a title
_MAX_MEMBERS = 20  # named in an entry; the others are counted
_MAX_ITEMS = 100_000  # of one section; a generator may return an endless iterator
_MAX_DEPTH = 50  # of one section
_MAX_TEXT = 1 << 24  # characters of one str in a section
_MAX_BYTES = 1 << 20  # bytes of one value that is no text
_MAX_BITS = 4096  # of an int
_MAX_SOURCE = 1 << 23  # bytes of a source file that is read for its lines
_MAX_LINE = 1000  # characters of a source line
_MAX_HOLD = 60.0  # seconds that the program waits for its report, whatever happens (a dead NFS mount)
_FAREWELL = 1.0  # seconds that an exit waits for the watcher
_SWITCH_INTERVAL = 1e-4  # seconds, while a report is made
_HEADROOM = 500  # frames above the recursion limit, for a report made in place
_CHUNK = 512  # bytes that a pipe called writable takes at once: _POSIX_PIPE_BUF
_STATES = dict(zip('RSDTtZI', ('running', 'sleeping', 'disk sleep', 'stopped', 'traced', 'zombie', 'idle')))
_HERE = (lambda: None).__code__.co_filename  # as code objects name this file
# A write to a dead pipe, a full file or a foreign terminal raises these; by default they kill or stop the process.
_MASKABLE = hasattr(signal, 'pthread_sigmask')
_WRITE_SIGNALS = {one for one in signal.Signals if _MASKABLE and one.name in ('SIGPIPE', 'SIGXFSZ', 'SIGTTOU')}

_Stack = tuple[tuple[types.CodeType, int], ...]  # innermost frame first

# Plain data with a layout of its own.
_Frame = namedtuple('_Frame', 'file line name code repeated', defaults=(1,))  # repeated: times in a row
_Entry = namedtuple('_Entry', 'kind count members stack')  # threads, green threads or tasks with the same stack
_Failure = namedtuple('_Failure', 'error stack')  # in the place of a section that could not be made
_Process = namedtuple('_Process', 'pid parent user uid state children')


class _Configuration(dict[str, object]):
    """Groups of options: they have a layout of their own."""


# -- Helper threads keep foreign code and slow descriptors from holding the program ---


# Calls under way in helper threads, with what they call, so that the ids in their keys stay taken.
_helpers: dict[object, types.SimpleNamespace] = {}
# Of each thread that makes a report, by its native id: the one that waits for it, and does errands meanwhile.
_clients: dict[int, types.SimpleNamespace] = {}
# Of each place where foreign code runs in place: the code of the handlers of signals, and what they have raised in it.
_torn: dict[tuple[int, int], tuple[list[Any], list[BaseException]]] = {}

# CPython's own function, also where gevent, which leaves this alias alone, or eventlet has replaced it.
_native_start = getattr(sys.modules.get('__original_module__thread', _thread), 'start_new', _thread.start_new_thread)


def _is_patched() -> bool:
    """Return whether the program's locks belong to green threads: foreign code must not meet them in a native one."""
    return not isinstance(_thread.start_new_thread, types.BuiltinFunctionType)


def _start_thread(function: Callable[[], object], native: bool = False) -> int | None:
    """Start a thread and return its identifier, or None if none can be had; `native`: also in a patched process."""
    start = _native_start if native else _thread.start_new_thread
    if not isinstance(start, types.BuiltinFunctionType) or sys.is_finalizing():
        return None
    size = threading.stack_size(0)  # the system's own, for generators that recurse; the program's may be tiny
    try:
        return start(function, ())  # type: ignore[no-any-return]
    except (RuntimeError, MemoryError):
        return None
    finally:
        threading.stack_size(size)


def _bounded(
    function: Callable[..., Any],
    *arguments: Any,
    timeout: float,
    key: object = None,
    native: bool = False,
    in_place: Callable[[], Any] | None = None,
) -> Any:
    """Return what a function returns within `timeout` seconds, or a _Failure: it runs in a helper thread.

    One that is still at it from an earlier report is not started again: fifty reports must not leave fifty stuck
    threads. Where none can be had, the thread that waits for the report calls the function, or else this one does, or
    calls `in_place`.
    """
    call = functools.partial(_attempt, function, *arguments)
    key = key or (id(function), *map(id, arguments))
    helper, waited = _helpers.get(key), ''
    if helper is None:
        answers: SimpleQueue[Any] = SimpleQueue()
        ticket = iter([True])  # for one call, though an errand that a handler tears is begun again
        torn = _Failure('no answer', [])

        def work() -> None:
            if not next(ticket, False):
                return
            answer = torn
            try:
                answer = call()
            finally:
                over(answer)

        def over(answer: Any = torn) -> None:
            if _helpers.get(key) is helper:
                _helpers.pop(key, None)
            answers.put(answer)

        helper = _helpers[key] = types.SimpleNamespace(call=call, since=time.time(), ident=None)
        client = _clients.get(_thread.get_native_id())
        helper.ident = _start_thread(work, native or client is None)  # nobody does errands for the watcher
        if helper.ident is None:
            if client is None or in_place:
                _helpers.pop(key, None)
                return _attempt(in_place) if in_place else call()
            helper.ident = client.ident
            client.errands.append((work, over))
            client.wake.put(None)
        with contextlib.suppress(Empty):
            return answers.get(timeout=timeout)
        waited = f' within {timeout:g} seconds'
        if next(ticket, False):  # it is not at it, and will not be: its thread does another errand
            _helpers.pop(key, None)
    at_it = f'Thread #{helper.ident} is at it since {_iso_time(helper.since)} ({time.time() - helper.since:.0f} s)'
    stack = next(_capture([sys._current_frames().get(helper.ident)]))
    return _failure(f'no answer{waited}: {at_it}', stack)


def _attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a step of the report returns, or a _Failure; the failure of the step before, if that has failed."""
    for argument in arguments:
        if type(argument) is _Failure:
            return argument
    try:
        return function(*arguments)
    except BaseException as error:  # SystemExit and the Timeouts of gevent and eventlet are BaseExceptions
        steps, trace = [], sys.exc_info()[2]  # a subclass may make a property of __traceback__
        while trace:
            steps.append((trace.tb_frame.f_code, trace.tb_lineno))
            trace = trace.tb_next
        return _failure(_error_text(error), steps[::-1])


def _failure(error: str, stack: Sequence[tuple[types.CodeType, int]]) -> _Failure:
    """Return what went wrong in foreign code, and where in that, if it was foreign code."""
    foreign = [step for step in stack if step[0].co_filename != _HERE]
    return _Failure(error, _Source().stack(foreign or stack))


# -- Trigger: a signal, a touched file, or a call of run() ---

_turn: SimpleQueue[None] = SimpleQueue()  # who gets the item makes the report; not a lock, which might be a green one
_turn.put(None)
_before: list[tuple[bool, int, float]] = []  # what _our_turn() has changed, as it was
_holder: list[int] = []  # the native id of the thread that waits for the report that has the turn
_autorun: list[GuruMeditation] = []  # the report that setup_autorun() has set up
_hooks: list[Callable[[], None]] = []  # registered with os and atexit, once


@contextlib.contextmanager
def _our_turn(timeout: float) -> Iterator[bool]:
    """Wait for our turn to make a report, since there is one at a time, and tell whether it has come.

    Meanwhile the collector is off, since finalizers are foreign code; there is room under the recursion limit; and
    threads take turns more often: after every system call a busy thread would keep the interpreter for 5 ms.
    """
    turn = _turn  # a child that is forked meanwhile has another
    client = _clients.get(_thread.get_native_id())
    if client and client.thread in _holder and _is_patched():  # a green thread has it that goes on only after us
        yield True
        return
    try:
        turn.get(timeout=timeout)
    except Empty:
        yield False
        return
    try:
        _holder[:] = [client.thread] if client else []
        _before[:] = [(gc.isenabled(), sys.getrecursionlimit(), sys.getswitchinterval())]
        gc.disable()
        sys.setrecursionlimit(_raised(_before[0][1]))
        sys.setswitchinterval(min(_before[0][2], _SWITCH_INTERVAL))
        yield True
    finally:
        _holder.clear()
        try:
            _restore()
        finally:  # where no thread can be had, a handler may raise here
            turn.put(None)


def _raised(limit: int) -> int:
    return min(limit + _HEADROOM, 2**31 - 1)


def _restore() -> None:
    """Put back what _our_turn() has changed, but what the program itself has set meanwhile."""
    for collecting, limit, interval in _before:
        done = True
        if sys.getswitchinterval() <= _SWITCH_INTERVAL:
            sys.setswitchinterval(interval + 5e-7)  # CPython cuts it to microseconds
        try:
            if sys.getrecursionlimit() == _raised(limit):
                sys.setrecursionlimit(limit)
        except RecursionError:  # CPython asks for free frames; a new thread has them, or else we have, some frames up
            done = _start_thread(functools.partial(sys.setrecursionlimit, limit), native=True) is not None
        if collecting:
            gc.enable()
        if not done:
            return
    _before.clear()


def _after_fork() -> None:
    """Forget, in a forked child, the threads that it does not have and the report that they were making."""
    global _turn
    for client in _clients.values():
        client.wake.put(None)
    _clients.clear()
    _helpers.clear()
    _restore()
    _turn = SimpleQueue()
    _turn.put(None)
    for report in _autorun:
        report._start_watcher()


def _at_exit() -> None:
    """End the watcher: a sub-interpreter, as of mod_wsgi, that ends before one of its threads kills the process."""
    for report in _autorun:
        report._stop.put(None)
        if report._watch_file:
            with contextlib.suppress(Empty):
                report._ended.get(timeout=_FAREWELL)


def _register_hooks() -> None:
    if not _hooks:
        _hooks.extend((_after_fork, _at_exit))
        atexit.register(_at_exit)
        if hasattr(os, 'register_at_fork'):
            os.register_at_fork(after_in_child=_after_fork)


def _in_helper(function: Callable[[Frame, object], Any], frame: Frame) -> Any:
    """Return what a function of this thread's frame and greenlet returns, or None if it takes too long.

    It runs in a helper thread while this one waits. The handlers of other signals run in the main thread: so no Ctrl-C
    and no alarm can tear the report to pieces. What they raise is raised once it is out, as if they had come just then.
    In a patched process this thread does errands meanwhile: foreign code, since the green locks belong here.
    """
    results: list[Any] = []  # tells the end: what the queue holds is lost if a handler raises just after get()
    wake: SimpleQueue[None] = SimpleQueue()
    client = types.SimpleNamespace(errands=[], wake=wake, thread=_thread.get_native_id(), ident=None)
    ticket, started = iter([True]), False  # for one report: a start that a handler tears is made again
    raised: BaseException | None = None
    torn: BaseException | None = None
    greenlet = sys.modules.get('greenlet')
    current = greenlet.getcurrent() if greenlet else None
    deadline, process = time.monotonic() + _MAX_HOLD, os.getpid()

    def work() -> None:
        if next(ticket, False):
            here = _thread.get_native_id()
            _clients[here] = client
            results.append(_attempt(function, frame, current))
            _clients.pop(here, None)
            wake.put(None)

    try:
        while True:  # once more whenever a handler raises
            try:
                if not started and _start_thread(work, native=True) is None:
                    started = True
                    try:
                        with _unsignalled():
                            if next(ticket, False):
                                result, torn = _exposed(functools.partial(_attempt, function, frame, current))
                                results.append(result)
                                raised = torn or raised
                    finally:
                        results.append(None)
                        _restore()
                started = True
                while not results and time.monotonic() < deadline and os.getpid() == process:  # it may also fork
                    if not client.errands:
                        wake.get(timeout=max(0.0, deadline - time.monotonic()))
                        continue
                    errand, over = client.errands[0]
                    _, torn = _exposed(errand)
                    over()  # a handler may have torn it before it could tell
                    del client.errands[0]
                    if torn is not None:
                        raise torn
                break
            except Empty:
                _restore()
            except (RecursionError, MemoryError):  # they would come again and again
                raise
            except BaseException as error:
                if raised is None or isinstance(raised, Exception):  # SystemExit outlasts what an alarm raises
                    raised = error
        if raised is not None:
            raise raised
        return results[0] if results else None
    finally:
        del raised, torn  # their tracebacks refer to this very frame: garbage in a cycle


@contextlib.contextmanager
def _unsignalled() -> Iterator[None]:
    """Let the handlers of signals wait, where no thread can be had: so far as the system holds the signals back."""
    # The C functions: those of signal make enums, too many frames deep for a program at its recursion limit.
    ours = _signal.valid_signals() - _signal.pthread_sigmask(signal.SIG_BLOCK, ()) if _MASKABLE else set()
    try:
        if ours:
            _signal.pthread_sigmask(signal.SIG_BLOCK, ours)
        yield
    finally:
        if ours:  # no others: a green thread that reports at the same time may have been here
            _signal.pthread_sigmask(signal.SIG_UNBLOCK, ours)


def _exposed(work: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """Do it in this thread; return its result, and what the handlers of signals have raised in it: that is not lost."""
    torn: list[BaseException] = []
    result, here = None, _place()
    _torn[here] = _handler_codes(), torn
    try:
        result = work()
    except BaseException as error:
        _keep_if_torn(error)
    try:
        return result, next((error for error in torn if not isinstance(error, Exception)), torn[0] if torn else None)
    finally:
        _torn.pop(here, None)
        torn.clear()  # their tracebacks refer to this very frame: garbage in a cycle


def _place() -> tuple[int, int]:
    """Return the native id of this thread, and the id of its greenlet."""
    greenlet = sys.modules.get('greenlet')
    return _thread.get_native_id(), id(greenlet.getcurrent()) if greenlet else 0


def _handler_codes() -> list[Any]:
    handlers = list(filter(callable, map(_signal.getsignal, _signal.valid_signals())))
    handlers += [getattr(one, 'func', type(one).__call__) for one in handlers]  # of a functools.partial, of an object
    return [getattr(getattr(one, '__func__', one), '__code__', None) for one in handlers]


def _keep_if_torn(error: BaseException) -> None:
    """Keep the exception that is being handled, if foreign code runs in place here and did not raise it itself.

    The handler of a signal did then, which is in the traceback, or that of Ctrl-C, which is in C, or gevent's kill().
    """
    codes, torn = _torn.get(_place(), ((), None))
    if torn is None:
        return
    trace, codes = sys.exc_info()[2], [*codes, *_handler_codes()]  # a handler may reset its own signal first
    while trace and not any(map(operator.is_, codes, itertools.repeat(trace.tb_frame.f_code))):
        trace = trace.tb_next
    if trace or type(error) is KeyboardInterrupt or type(error).__name__ == 'GreenletExit':
        torn.append(error)


class GuruMeditation:
    """A report of this process: the base of the two that differ in their format.

    :param version: what the Package section is about: an object or module with any of `vendor_string()`,
        `product_string()` and `version_string_with_package()`; a module with `version_info.version_string()` (pbr),
        `version_string` (a str or a callable) or `__version__`; the name of an installed distribution; a plain
        version; or None.
    :param frame: the frame that a signal handler got: its thread is shown from there. By default the caller of run().
    :param conf: the configuration to show: a mapping of options and of groups of options, or an object with
        attributes. By default oslo.config's global CONF, if oslo.config is loaded.
    """

    section_timeout: ClassVar[float] = 2.0  # seconds that foreign code has to make one section
    delivery_timeout: ClassVar[float] = 10.0  # seconds that the program waits for a full pipe or a slow disk
    timestamp_fmt: ClassVar[str] = '%Y%m%d%H%M%S'  # in the names of report files; UTC

    _sections: ClassVar[dict[str, Callable[[], object]]] = {}
    _ending: ClassVar[str] = ''
    _service_name: str | None = None
    _log_dir: str | None = None
    _signal: tuple[int, Any] | None = None  # its number, and the handler before ours
    _about: tuple[int, str] | None = None  # the pid and the program of another process, if the report is of that
    _delivering = _again = _instant = False
    _watch_file: str | None = None
    _watch_interval = 1.0

    def __init__(self, version: object = None, frame: Frame = None, conf: object = None) -> None:
        self.version = _resolve_version(version)
        self.frame = frame
        self.conf = conf
        self._stop: SimpleQueue[None] = SimpleQueue()  # tells the watcher to end,
        self._ended: SimpleQueue[None] = SimpleQueue()  # which tells that it does

    @classmethod
    def register_section(cls, section_title: str, generator: Callable[[], object]) -> None:
        """Add a section to all later reports, text and JSON, or replace the one of the same title.

        :param section_title: its title, a str.
        :param generator: a callable without arguments, called anew for every report. It returns a str, a mapping, an
            iterable, a number or None. It runs in a helper thread and has `section_timeout` seconds.
        :raises TypeError: the title is no str, or the generator is not callable.
        """
        if not isinstance(section_title, str):
            raise TypeError(f'section_title must be a str, not {type(section_title).__name__}')
        if not callable(generator):
            raise TypeError(f'generator must be callable, not {type(generator).__name__}')
        GuruMeditation._sections[section_title] = generator

    @classmethod
    def setup_autorun(
        cls,
        version: object = None,
        service_name: str | None = None,
        log_dir: str | None = None,
        signum: int | None = None,
        conf: object = None,
        setup_signal: bool = True,
        *,
        watch_file: str | os.PathLike[str] | None = None,
        watch_interval: float = 1.0,
        instant_stacks: bool = False,
    ) -> None:
        """Make the process report itself on a signal or a touched file. A second call replaces what the first set up.

        :param version: what the Package section is about; see GuruMeditation.
        :param service_name: the program's name in the names of report files; by default that of its script.
        :param log_dir: the directory for report files, which is not created; by default the option `log_dir` of the
            group `oslo_reports` in `conf`, if there is one. Without it, reports go to stderr.
        :param signum: the signal; by default SIGUSR2.
        :param conf: the configuration to show; see GuruMeditation.
        :param setup_signal: whether to install the signal handler.
        :param watch_file: a file or directory: a thread makes a report whenever its modification time changes, also
            while the main thread is in a C call that lets other threads run. It may be missing. By default the option
            `file_event_handler` of the group `oslo_reports` in `conf`.
        :param watch_interval: how often to look at it, in seconds; by default `file_event_handler_interval` there.
        :param instant_stacks: whether faulthandler prints the raw stacks of all threads at once, before the report.
        :raises ValueError: called outside the main thread, no such signal, or an interval that is no positive number.
        :raises TypeError: `conf` is neither a mapping nor an object with attributes.
        """
        if not (conf is None or isinstance(conf, Mapping) or hasattr(conf, '__dict__')):
            raise TypeError(f'conf must be a mapping or an object with attributes, not {type(conf).__name__}')
        report = cls(version, None, conf)
        report._service_name = service_name
        report._log_dir = log_dir and os.path.abspath(log_dir)  # a daemon changes its directory
        if watch_file is None:
            watch_file = _attempt(_oslo_option, conf, 'file_event_handler')
            interval = _attempt(_oslo_option, conf, 'file_event_handler_interval')
            watch_interval = watch_interval if interval is None or type(interval) is _Failure else interval
        if not isinstance(watch_interval, (int, float)) or not 0 < watch_interval < threading.TIMEOUT_MAX:
            raise ValueError(f'watch_interval must be a positive number of seconds, not {watch_interval!r}')
        if isinstance(watch_file, (str, os.PathLike)) and watch_file:
            report._watch_file, report._watch_interval = os.path.abspath(watch_file), watch_interval
        folders = report._log_dir or _attempt(_oslo_option, conf, 'log_dir'), os.path.dirname(report._watch_file or '')
        for name, folder in zip(('log_dir', 'watch_file'), folders):
            if isinstance(folder, str) and folder and not os.path.isdir(folder):
                warnings.warn(f'{name}: there is no folder {folder} yet', RuntimeWarning, stacklevel=2)
        if signum is None:
            signum = getattr(signal, 'SIGUSR2', None)
        if setup_signal and signum is not None:
            report._listen(signum)
        elif setup_signal and not report._watch_file:
            warnings.warn('this platform has no SIGUSR2: pass signum or watch_file', RuntimeWarning, stacklevel=2)
        for old in _autorun:
            old._stop_listening()
        if instant_stacks and report._signal:
            import faulthandler

            faulthandler.register(report._signal[0], file=2, all_threads=True, chain=True)
            report._instant = True
        _autorun[:] = [report]
        with contextlib.suppress(OSError):
            _stderr_at_setup[:] = [os.fstat(2)]
        _register_hooks()
        report._start_watcher()

    def _listen(self, signum: int) -> None:
        """Install the signal handler."""
        if signum not in signal.valid_signals():
            raise ValueError(f'signum: there is no signal {signum!r}')
        try:
            previous = signal.signal(signum, self._on_signal)
        except OSError:
            raise ValueError(f'signum: signal {signum} cannot be handled') from None
        except ValueError:
            raise ValueError('setup_autorun() must be called from the main thread') from None
        owner = getattr(previous, '__self__', None)
        self._signal = signum, owner._signal[1] if isinstance(owner, GuruMeditation) and owner._signal else previous

    def _stop_listening(self) -> None:
        """End the watcher, and put the signal handler before ours back."""
        self._stop.put(None)
        number, before = self._signal or (0, None)
        if self._instant:
            sys.modules['faulthandler'].unregister(number)
        if number and signal.getsignal(number) == self._on_signal:
            signal.signal(number, signal.SIG_DFL if before is None else before)

    def _start_watcher(self) -> None:
        if self._watch_file:
            self._stop, self._ended = SimpleQueue(), SimpleQueue()
            watch = functools.partial(self._watch, self._stop, self._ended, self._touched())
            if _start_thread(watch, native=True) is None:
                self._ended.put(None)

    def _touched(self) -> int | None:
        try:
            return os.stat(self._watch_file or '').st_mtime_ns
        except OSError:
            return None

    def _watch(self, stop: SimpleQueue[None], ended: SimpleQueue[None], seen: int | None) -> None:
        """Make a report whenever the watched file has been touched, until told to stop."""
        while True:
            with contextlib.suppress(Empty):
                stop.get(timeout=self._watch_interval)
                return ended.put(None)
            touched = self._touched()
            if touched not in (None, seen):
                self._report(None, None)
            seen = touched

    def _on_signal(self, signum: int, frame: Frame) -> None:
        """Make a report while the interrupted code waits."""
        outer = frame
        while outer:
            if outer.f_code is GuruMeditation._on_signal.__code__:
                if _turn.empty():  # a report is being made: this one is dropped,
                    self._again = self._delivering  # but who asks again on seeing its end gets one more
                    return
                frame = outer.f_back
            outer = outer.f_back
        self._again = True
        while self._again:
            self._again = False
            _in_helper(self._report, frame)

    def _report(self, frame: Frame, current: object) -> None:
        """Make and deliver one report. Nothing escapes into the program, and nothing is lost."""
        with _our_turn(self.delivery_timeout) as ours:
            if not ours:  # another thread's is being made
                return
            try:
                self._delivering = False
                text = self._make(frame, current)
                log_dir = self._log_dir
                if log_dir is None and self.conf is not None:
                    log_dir = _bounded(_oslo_option, self.conf, 'log_dir', timeout=self.section_timeout)
                service = self._service_name or _program()
                moment = time.strftime(self.timestamp_fmt, time.gmtime())
                name = f'{service}_gurumeditation_{moment}_{os.getpid()}{self._ending}'.replace(os.sep, '_')
                self._delivering = True
                _deliver(text, log_dir, name, self.delivery_timeout)
            except BaseException as error:
                _attempt(_write_stderr, f'gmr: no report: {_error_text(error)}\n', self.delivery_timeout)

    def run(self) -> str:
        """Return a report made now, from any thread. It waits `section_timeout` seconds while another one is made."""
        _register_hooks()
        text = _in_helper(self._run, self.frame or sys._getframe(1))
        return text if isinstance(text, str) else f'no report: {text.error if text else "it takes too long"}'

    def _run(self, frame: Frame, current: object) -> str:
        with _our_turn(self.section_timeout):
            return self._make(frame, current)

    def _make(self, frame: Frame, current: object) -> str:
        """Return the whole report as it goes out, without lone surrogates."""
        return self._render(self._collect(frame, current)).encode('utf-8', 'backslashreplace').decode()

    def _collect(self, frame: Frame, current: object) -> list[tuple[str, object]]:
        """Return the titles and the plain data of all sections. A section that fails is a _Failure."""
        # All stacks before anything else: whatever reads a file lets the other threads go on.
        captured = _attempt(_capture_threads, frame)
        threads, shown = ({}, None) if type(captured) is _Failure else captured
        if client := _clients.get(_thread.get_native_id()):
            client.ident = shown
        task_kinds = _kinds('asyncio.tasks', 'Task', '_PyTask', '_CTask')
        found = _attempt(_find_on_heap, _kinds('greenlet', 'greenlet'), task_kinds)
        greenlets = _attempt(_capture_greenlets, found, current, frame, shown)
        tasks = _attempt(_capture_tasks, found, threads)
        stacks = captured if type(captured) is _Failure else {ident: stack for ident, (_, stack) in threads.items()}
        threads.clear()
        source, timeout = _Source(), self.section_timeout
        sections = [
            ('Package', _bounded(_collect_package, self.version, timeout=timeout)),
            ('Threads', _attempt(_collect_threads, stacks, shown, source, timeout)),
        ]
        if 'greenlet' in sys.modules:
            sections.append(('Green Threads', _attempt(_collect_greenlets, greenlets, source)))
        if type(tasks) is _Failure or tasks.groups:
            sections.append(('Asyncio Tasks', _attempt(_collect_tasks, tasks, source, task_kinds)))
        sections.append(('Processes', _attempt(_collect_processes, timeout)))
        sections.append(('Configuration', _bounded(_collect_configuration, self.conf, timeout=timeout)))
        for title, generator in list(self._sections.items()):
            sections.append((title, _bounded(_collect_registered, generator, timeout=timeout)))
        return sections

    def _render(self, sections: list[tuple[str, object]]) -> str:
        raise NotImplementedError('use TextGuruMeditation or JSONGuruMeditation')


def _program() -> str:
    return os.path.basename(str((getattr(sys, 'argv', None) or ['python'])[0])) or 'python'


# -- Collect: stacks ---

_CODE_AND_LINE = operator.attrgetter('f_code', 'f_lineno')


def _walk(tops: Iterable[Frame]) -> Iterator[Iterator[object]]:
    """Yield for each top frame an iterator over its stack, innermost frame first.

    It is all C: accumulate(chain([top], repeat('f_back')), getattr) is top, top.f_back, top.f_back.f_back, ... Between
    two bytecodes of a loop other threads would run, and the outer frames would be of a later moment than the inner.
    """
    backs: Iterator[Any] = itertools.repeat(itertools.repeat('f_back'))
    chains: Iterator[Any] = map(itertools.chain, zip(tops), backs)
    walks = map(itertools.accumulate, chains, itertools.repeat(getattr))
    return map(itertools.takewhile, itertools.repeat(bool), walks)


def _capture(tops: Iterable[Frame]) -> Iterator[_Stack]:
    """Yield for each top frame its stack: each step of the iterator is one uninterrupted pass."""
    steps: Iterator[Any] = map(map, itertools.repeat(_CODE_AND_LINE), _walk(tops))
    return map(tuple, steps)


def _capture_threads(frame: Frame) -> tuple[dict[int, tuple[tuple[Any, ...], _Stack]], int | None]:
    """Return the frames and the stack of each thread but our own, and which thread runs `frame`.

    That one starts there. The main thread comes first, then that one, then from the oldest to the newest.
    """
    # One dict() of C iterators asks for the frames, walks them and reads their lines: no thread moves on meanwhile.
    idents, *tops = itertools.tee(itertools.starmap(sys._current_frames, ((),)), 3)
    first, second = (itertools.chain.from_iterable(map(dict.values, top)) for top in tops)
    threads = dict(zip(itertools.chain.from_iterable(idents), zip(map(tuple, _walk(first)), _capture(second))))
    here, shown = sys._getframe(), None
    for ident, (frames, stack) in list(threads.items()):  # get_ident() may tell a greenlet's
        if frame in frames:
            start = frames.index(frame)
            shown, threads[ident] = ident, (frames[start:], stack[start:])
        elif here in frames:
            del threads[ident]
    for last in (shown, threading.main_thread().ident):  # a patched process may not know its main thread's
        if last in threads:  # CPython lists the newest thread first
            threads[last] = threads.pop(last)
    del frame, here, frames, idents, tops, first, second  # they hold this very frame: garbage in a cycle
    return dict(reversed(list(threads.items()))), shown


def _kinds(module: str, *names: str) -> list[type]:
    """Return the classes of these names in a module, if it is loaded, and all that are derived from them."""
    kinds = [kind for name in names if isinstance(kind := getattr(sys.modules.get(module), name, None), type)]
    for kind in kinds:
        kinds.extend(type.__subclasses__(kind))
    return kinds


def _find_on_heap(*kinds: list[type]) -> list[list[Any]]:
    """Return all objects of each of these kinds, in one pass over the heap, and none where no kind is loaded.

    It goes by the exact type: isinstance() asks o.__class__, which may be foreign code. So may the hash of a type, if
    its metaclass defines one; then it goes by the id of the type, which takes three times as long.
    """
    metaclasses = type.__subclasses__(type)
    for metaclass in metaclasses:
        metaclasses.extend(type.__subclasses__(metaclass))
    wanted = list(itertools.chain.from_iterable(kinds))
    objects: list[Any] = gc.get_objects() if wanted else []
    types_of: Iterator[Any] = map(type, objects)
    if not {'__hash__', '__eq__'}.isdisjoint(itertools.chain.from_iterable(map(_NAMESPACE, metaclasses))):
        types_of, wanted = map(id, types_of), list(map(id, wanted))  # type: ignore[arg-type]
    found = list(itertools.compress(objects, map(set(wanted).__contains__, types_of)))
    return [[one for one in found if id(type(one)) in ids] for ids in (set(map(id, some)) for some in kinds)]


_NAMESPACE = type.__dict__['__dict__'].__get__  # a metaclass may make a property of __dict__


class _Grouper:
    """Members with the same stack, put together before anything is formatted."""

    def __init__(self) -> None:
        self.groups: dict[object, tuple[_Stack, list[Any]]] = {}
        self.last: tuple[object, _Stack, list[Any]] = (None, (), [])

    def add(self, member: Any, stack: _Stack, distinction: object = None) -> None:
        """Add a member; those with another distinction are kept apart."""
        if not (stack and stack == self.last[1] and distinction == self.last[0]):  # thousands in a row are equal
            # By the ids of the code objects: their hash takes in all their constants and instructions.
            codes, lines = zip(*stack) if stack else ((), ())
            group = self.groups.setdefault((distinction, lines, tuple(map(id, codes))), (stack, []))
            self.last = distinction, stack, group[1]
        self.last[2].append(member)

    def entries(self, kind: str, describe: Callable[[Any], dict[str, object]], source: _Source) -> list[_Entry]:
        """Return an entry for each group, in the order in which they were found."""
        return [
            _Entry(kind, len(members), list(map(describe, members[:_MAX_MEMBERS])), source.stack(stack))
            for stack, members in self.groups.values()
        ]


class _Source:
    """The source lines of one report: every file is read once, every line formatted once."""

    def __init__(self) -> None:
        self.files: dict[str, list[str]] = {}
        self.frames: dict[tuple[int, int], _Frame] = {}

    def stack(self, stack: Iterable[tuple[types.CodeType, int]]) -> list[_Frame]:
        """Return a captured stack as plain data, oldest frame first."""
        frames = [self.frames.get((id(code), line)) or self.frame(code, line) for code, line in stack]
        frames.reverse()
        if not any(map(operator.is_, frames, frames[1:])):
            return frames
        runs = [list(run) for _, run in itertools.groupby(frames, key=id)]
        return [run[0]._replace(repeated=len(run)) for run in runs]

    def frame(self, code: types.CodeType, line: int) -> _Frame:
        """Return one frame, with its source line."""
        name = code.co_filename
        if name not in self.files:
            self.files[name] = _read_lines(name)
        text = ''.join(self.files[name][line - 1 : line]) if line else ''
        text = _clean(_redact(text.strip()[:_MAX_LINE], literals=True))
        frame = self.frames[id(code), line] = _Frame(_clean(name), line, _clean(code.co_name), text or None)
        return frame


def _read_lines(name: str) -> list[str]:
    """Return the lines of a source file, or none if they cannot be had safely.

    linecache would open whatever the name says, wait for ever on a FIFO, and keep all that it reads.
    """
    try:
        cache = getattr(sys.modules.get('linecache'), 'cache', {})
        entry = cache.get(name) if name != '<string>' else None  # a name that all exec() shares
        if entry and len(entry) == 4 and entry[1] is None:  # no file: put there by IPython and the like
            return list(map(str, entry[2]))
        data = _read_zipped(name)
        if data is None and stat.S_ISREG(_os.stat(name).st_mode):  # before it is opened: that would rewind a tape
            data = _read(name, _MAX_SOURCE)
        text = (data or b'').decode('utf-8', 'replace').lstrip('\ufeff')
        return io.StringIO(text, newline=None).read().split('\n')
    except Exception:  # a report without a source line is better than none; loaders raise what they like
        return []


def _read(path: str, size: int = 1 << 16) -> bytes:
    """Return what a file holds. By the C functions: a patched open() may be a green one."""
    descriptor = _os.open(path, os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0))
    try:
        return _os.read(descriptor, size)
    finally:
        _os.close(descriptor)


def _read_zipped(name: str) -> bytes | None:
    """Return a source file from the zip archive that it was imported from, if it was."""
    importers: dict[str, Any] = sys.path_importer_cache.copy()
    for folder, importer in importers.items():
        if type(importer).__module__ == 'zipimport' and name.startswith(folder + os.sep):
            return importer.get_data(name)  # type: ignore[no-any-return]
    return None


# -- Collect: where foreign objects become plain data, without secrets ---

# The other patterns are compiled when they are first needed, and kept by re.
_CONTROL = '[\0-\x08\x0b-\x1f\x7f-\x9f]'  # would move the cursor of the terminal that shows the report
# The password in a URL: up to the last @ of the authority, or of the whole word if the password holds a raw slash.
_URL_PASSWORD = r'(://(?!\[)[^\s/?#:]{0,256}:)(?:[^\s/?#]{0,4096}@|(?!\d{0,5}(?:[/?#\s]|$))\S{0,256}@)'
_URL_TOKEN = r'(://)[\w.%~+-]{20,256}(?=(?::[^\s/?#@]{0,256})?@)'  # in the place of the user
_PRIVATE_KEY = r'(?s)(-----BEGIN [A-Z ]{0,64}PRIVATE KEY[A-Z ]{0,64}-----).*?(?=-----END|\Z)'
_BEARER = r'(?i)(\bbearer\s+)[^\s"\',;]+'
_NEXT = r'[&;](?:\s?[\w.%-]{1,64}=|\s|$)'  # the next assignment in a URL or an ODBC string ends the one before
_END = rf'(?=[,)\]}}>"\']{{0,8}}(?:(?<!\\)\s|$|{_NEXT}))'
_ASSIGNED = rf"""(?isx)[\w.-]{{0,64}}  # what follows a secret name: its rest, a separator, and a value
    (?P<separator> \\{{0,15}}["']?\]?\s{{0,64}}
        (?: =>|:=|==?|!=
            | :\s?[\w.]{{0,32}}(?:str|bytes|optional)[\w.\[\]|\ ]{{0,32}}=(?=\s?[bruf]{{0,2}}["'])  # an annotated name
            | :
            | ,?\s?["']?value["']?\s?[:=]  # "name": "password", "value": "..."
            | (?:\s[^<>]{{0,256}})?>(?=[^<]{{1,4096}}</)  # an element of XML
            | (?<=["']),(?=\s?(?:[bruf]{{0,2}}["']|[\[({{])))\s{{0,64}}  # a pair
        | \s{{1,8}})  # after an option
    (?: (?<=>)(?P<element>[^<]{{1,4096}})(?=</)
        | [bruf]{{0,2}}(?P<fence>["'])(?P=fence){{2}}(?P<triple>.{{0,65536}}?)(?P=fence){{3}}
        | [bruf]{{0,2}}(?P<slashes>\\+)(?P<quote>["'])(?P<escaped>.{{0,4096}}?)(?P=slashes)(?P=quote)
        | [bruf]{{0,2}}"(?P<double>[^"\\]*(?:\\.[^"\\]*)*)  # (?:[^"\\]|\\.)* takes hundreds of bytes a character
        | [bruf]{{0,2}}'(?P<single>[^'\\]*(?:\\.[^'\\]*)*)
        | (?P<plain>(?:none|null|true|false|(?:(?<=["']:)|(?<=["']:\ ))[\w.+-]+)(?=[,;&)}}\]\s]|$))
        | (?P<nested>[\w.]{{0,64}}[\[({{])
        | (?P<word>(?:(?:basic|bearer|digest|negotiate)\s+)?(?:[^\s\\&;,)\]}}>"']+|\\\s|(?!{_NEXT})\S)+?{_END}))"""
_LINE_START = r'(?:^|\n)[\w\s."\'-]{0,64}$'
_OPTION_START = r'(?:^|\s)["\']?--?[\w.-]{0,64}$'
_PAIR_START = r'(?:[(\[]\s?[bruf]?\\*["\'][\w.-]{0,64}|["\']--?[\w.-]{0,64})$'
_OPTION = r'-{0,2}[\w.-]{1,64}='
_LITERAL = r'"[^"\\]*(?:\\.[^"\\]*)*"|\'[^\'\\]*(?:\\.[^\'\\]*)*\''
_BRACKET = rf'[][(){{}}]|{_LITERAL}'
_BLOCK = r'[|>][-+\d]*\s*$'  # of YAML: the value is in the lines below
_UNSET = {'', 'none', 'true', 'false', 'null', '[]', '()', '{}', 'set()', '%s', '%r', _HIDDEN}


def _clean(text: str) -> str:
    return text if text.isprintable() else re.sub(_CONTROL, lambda match: f'\\x{ord(match[0]):02x}', text)


def _is_secret(name: str) -> bool:
    return re.search(SECRET_NAMES, name.lower()) is not None


def _redact(text: str, literals: bool = False) -> str:
    """Hide the secrets inside a longer text; in source code only `literals`, since an expression is no secret."""
    if literals and ('"' in text or "'" in text):
        text = re.sub(_LITERAL, lambda match: _redact(match[0]), text)
    if '-----BEGIN' in text:
        text = re.sub(_PRIVATE_KEY, rf'\1{_HIDDEN}', text)
    if '://' in text:
        text = re.sub(_URL_TOKEN, rf'\1{_HIDDEN}', re.sub(_URL_PASSWORD, rf'\1{_HIDDEN}@', text))
    if 'bearer' in text.lower():
        text = re.sub(_BEARER, rf'\1{_HIDDEN}', text)
    # In lower case the search is ten times faster than without regard to case. One letter would grow in it.
    lower = text.replace('\u0130', 'i').lower()
    pieces, end = [], 0
    for name in re.finditer(SECRET_NAMES, lower):
        found = re.compile(_ASSIGNED).match(text, name.end()) if name.start() >= end else None
        if not found or (literals and found.lastgroup in ('word', 'nested', 'plain')):
            continue
        first, last = found.span(found.lastgroup or 0)
        separator, before = found['separator'], text[max(0, name.start() - 64) : name.start()]
        if separator.isspace() and '\t' not in separator and not re.search(_OPTION_START, before):
            if found['word'] or not name[0].startswith('pass'):  # PASSWORD 'x' is SQL
                continue
        elif separator.rstrip().endswith(',') and not literals and not re.search(_PAIR_START, before):
            continue
        header = ':' in separator and name[0] in ('authorization', 'cookie')
        if found['nested']:
            last = _end_of_nest(text, last - 1)
        elif found['word'] and (
            header or (separator.strip() and separator[-1].isspace() and re.search(_LINE_START, before))
        ):
            last = _end_of_lines(text, first, separator)
        if text[first:last].strip().lower() not in _UNSET:
            pieces += [text[end:first], _HIDDEN]
            end = last
    return ''.join([*pieces, text[end:]])


def _end_of_nest(text: str, start: int) -> int:
    """Return where the bracket that opens at `start` is closed: no pattern tells that at any depth."""
    depth = 0
    for piece in re.compile(_BRACKET).finditer(text, start):
        depth += (piece[0] in '[({') - (piece[0] in '])}')
        if depth == 0:
            return piece.end()
    return len(text)


def _end_of_lines(text: str, start: int, separator: str) -> int:
    """Return where a value ends that fills its line, and in YAML the lines below that are indented like the first."""
    last = text.find('\n', start)
    last = len(text) if last < 0 else last
    indent = separator.rpartition('\n')[2] if '\n' in separator else ''
    if re.match(_BLOCK, text[start:last]):
        indent = re.compile(r'\n?([ \t]*)').match(text, last)[1]  # type: ignore[index]
    while indent and text.startswith(f'\n{indent}', last):
        last = text.find('\n', last + 1)
        last = len(text) if last < 0 else last
    return last


def _error_text(error: BaseException) -> str:
    """Return an exception's type and message."""
    try:
        _keep_if_torn(error)
        kind = type(error)
        where = '' if kind.__module__ in ('builtins', '__main__') else f'{kind.__module__}.'
        name, message = f'{where}{kind.__qualname__}', str(error)[:_MAX_BYTES]
        return f'{name}: {_clean(_redact(message))}' if message else name
    except BaseException:  # it runs foreign code
        return 'an exception without a text'


def _snapshot(items: Iterable[Any], most: int) -> list[Any]:
    """Return what is in a container, in one pass of C: if another thread changed it meanwhile, that would raise."""
    return list(itertools.islice(items, max(0, most + 1)))


class _Converter:
    """Makes plain data of a foreign object: None, bool, int, float, str, list and dict. It runs foreign code."""

    def __init__(self) -> None:
        self.left = _MAX_ITEMS
        self.above: list[int] = []  # the ids of the containers around

    def convert(self, value: Any, secret: bool = False) -> object:
        """Return the plain data for a value; `secret`: its name says that it must not appear."""
        self.left -= 1
        try:
            if value is None or isinstance(value, bool):
                return value
            if secret and (isinstance(value, (int, float)) or value):
                return _HIDDEN
            if type(value) is int:
                return value if value.bit_length() <= _MAX_BITS else f'(int of {value.bit_length():,} bits)'
            if type(value) is float:
                return value if math.isfinite(value) else str(value)  # JSON has no NaN
            if isinstance(value, (bytes, bytearray, memoryview)):
                try:
                    value = bytes(value).decode()
                except UnicodeDecodeError:
                    value = bytes(value)[:_MAX_BYTES].decode('utf-8', 'backslashreplace')
            if type(value) is _Failure:
                return f'({value.error})'
            if isinstance(value, tuple) and hasattr(value, '_fields'):
                value = dict(zip(value._fields, value))
            if isinstance(value, (str, type)) or not isinstance(value, Iterable):
                text = str(value)
                self.left -= len(text) >> 8
                return _clean(_redact(text if len(text) <= _MAX_TEXT else f'{text[:_MAX_TEXT]}... (cut)'))
            if id(value) in self.above or len(self.above) > _MAX_DEPTH:
                return '(itself)' if id(value) in self.above else '(too deep)'
            self.above.append(id(value))
            try:
                return self.mapping(value) if isinstance(value, Mapping) else self.sequence(value)
            finally:
                self.above.pop()
        except BaseException as error:  # the error of a value stands in its place; the others appear
            return f'({_error_text(error)})'

    def mapping(self, value: Any, declared: Iterable[str] = (), secret: bool = False) -> dict[str, object]:
        """Return the values of a mapping without those that have a secret name, or are declared secret, or all."""
        result: dict[str, object] = {}
        named = False  # by another value: {'name': 'PASSWORD', 'value': ...}
        for key in _snapshot(value, self.left):
            name = key if isinstance(key, str) else str(self.convert(key))
            if self.left < 0:
                return {**result, '...': 'cut'}
            hidden = secret or name in declared or _is_secret(name) or (named and name.lower() == 'value')
            shown = result[_clean(_redact(name))] = self.convert(_attempt(operator.getitem, value, key), hidden)
            named = named or (name.lower() in ('name', 'key') and _is_secret(str(shown)))
        return result

    def sequence(self, value: Iterable[Any]) -> list[object]:
        """Return the items of an iterable without the argument after --password and the second of ('password', ...)."""
        result: list[object] = []
        secret = False
        pair = isinstance(value, (tuple, list)) and len(value) == 2
        try:
            for item in _snapshot(value, self.left) if isinstance(value, (Set, ValuesView, deque)) else value:
                if self.left < 0:
                    return [*result, '... (cut)']
                option = re.match(_OPTION, item) if isinstance(item, str) else None
                if option and _is_secret(option[0]):  # the value may hold spaces
                    result.append(option[0] + str(self.convert(item[option.end() :], True)))
                else:
                    result.append(self.convert(item, secret))
                name = str(result[-1]) if isinstance(item, (str, bytes, bytearray)) else ''
                named = '=' not in name and (name.startswith('-') or (pair and len(result) == 1))
                secret = named and _is_secret(name)
        except BaseException as error:  # what came before appears
            result.append(f'({_error_text(error)})')
        return result


# -- Collect: the sections ---


def _resolve_version(version: object) -> object:
    """Return the facts of the distribution that a str names, or else the version as it is.

    It is done beforehand, since it imports modules and opens files.
    """
    if isinstance(version, str) and not re.match(r'v?\d+(\.|$)', version):
        from importlib import metadata  # costs more than all the rest of this file

        with contextlib.suppress(metadata.PackageNotFoundError, ValueError):
            facts = metadata.metadata(version)
            people = ('Author', 'Maintainer', 'Author-email', 'Maintainer-email')
            vendor = next((facts[key] for key in people if key in facts), None)
            return types.SimpleNamespace(product=facts['Name'], vendor=vendor, version_string=facts['Version'])
    return version


def _collect_package(version: Any) -> object:
    """Which program is this, in which version?"""

    def ask(*names: str) -> object:
        for subject, name in itertools.product((version, getattr(version, 'version_info', None)), names):
            value = getattr(subject, name, None)
            if value is not None:
                return value() if callable(value) else value
        return None

    facts = {
        'product': ask('product_string', 'product', 'package'),
        'vendor': ask('vendor_string', 'vendor'),
        'version': ask('version_string_with_package', 'version_string', '__version__'),
    }
    if isinstance(version, str):
        facts['version'] = version
    if facts['product'] is None and isinstance(version, types.ModuleType):
        facts['product'] = version.__name__.partition('.')[0]
    return _Converter().convert(facts)


def _collect_threads(stacks: dict[int, _Stack], shown: int | None, source: _Source, timeout: float) -> list[_Entry]:
    """What is every thread doing?"""
    registry = dict(threading._active)  # type: ignore[attr-defined]  # without its lock, which the program may hold
    main = threading.main_thread()
    current: dict[int, Any] = getattr(sys, '_current_exceptions', dict)()  # CPython 3.10; a tuple before 3.12
    errors = {ident: error[1] if isinstance(error, tuple) else error for ident, error in current.items()}
    errors = {ident: error for ident, error in errors.items() if error is not None}
    # The text of an exception is foreign code.
    texts = _bounded(lambda: list(map(_error_text, errors.values())), timeout=timeout, key='errors') if errors else []
    handled = dict(zip(errors, texts)) if type(texts) is list else {}
    grouper = _Grouper()
    for ident, stack in stacks.items():
        grouper.add(ident, stack)

    def describe(ident: int) -> dict[str, object]:
        facts: dict[str, object] = {'id': ident}
        thread = registry.get(ident, main if ident == shown else None)
        if thread is not None:
            known = object.__getattribute__(thread, '__dict__')  # a subclass may have made properties of these
            native = known.get('_native_id')
            if thread is main and not os.path.exists(f'/proc/self/task/{native}'):
                native = os.getpid()  # what it knows is of before a fork
            facts.update(name=_clean(_redact(str(known.get('_name')))), daemon=known.get('_daemonic'), native_id=native)
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = _stat_fields(f'/proc/self/task/{native}/stat')
                # The one that waits for this report: what it did before, the kernel no longer knows.
                facts['state'] = 'reporting' if ident == shown else _STATES.get(fields[0], fields[0])
                facts['cpu_seconds'] = (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
        if ident in handled:
            facts['handling'] = handled[ident]
        return facts

    return grouper.entries('Thread', describe, source)


def _capture_greenlets(
    heap: list[list[Any]], current: object, frame: Frame, thread: int | None
) -> tuple[_Grouper, dict[str, int]]:
    """Return the greenlets by their stacks, and how many are finished or not started."""
    found = heap[0]
    grouper, others = _Grouper(), {'finished': 0, 'not started': 0}
    kind: Any = sys.modules['greenlet'].greenlet if found else None  # a subclass may have its own of these
    for green, stack in zip(found, _capture(map(kind.gr_frame.__get__, found))) if found else ():
        if green is current:
            grouper.add((green, f'running in Thread #{thread}'), next(_capture([frame])), current)
        elif stack:
            grouper.add((green, None), stack)
        elif kind.__bool__(green) and not kind.dead.__get__(green):
            where = _thread_below(kind, green)
            grouper.add((green, f'running in Thread #{where}' if where else 'running'), (), id(green))
        else:
            others['finished' if kind.dead.__get__(green) else 'not started'] += 1
    return grouper, others


def _thread_below(kind: Any, green: Any) -> int | None:
    """Return the thread that a greenlet runs in, if that can be told.

    A greenlet does not know, but its outermost parent, once suspended, ends in the frame that began the thread.
    """
    while parent := kind.parent.__get__(green):
        green = parent
    frame = kind.gr_frame.__get__(green)
    while frame and frame.f_back:
        frame = frame.f_back
    if frame and frame.f_code is threading.Thread._bootstrap.__code__:  # type: ignore[attr-defined]
        return object.__getattribute__(frame.f_locals['self'], '__dict__').get('_ident')  # type: ignore[no-any-return]
    return threading.main_thread().ident if frame and frame.f_code.co_name == '<module>' else None


def _collect_greenlets(captured: tuple[_Grouper, dict[str, int]], source: _Source) -> list[_Entry]:
    """What is every green thread doing?"""

    def describe(member: tuple[Any, str | None]) -> dict[str, object]:
        kind = type(member[0])
        return {'name': f'{kind.__module__}.{kind.__qualname__} at {id(member[0]):#x}', 'state': member[1]}

    others = [_Entry(f'{state} Green Thread', count, [], []) for state, count in captured[1].items() if count]
    return captured[0].entries('Green Thread', describe, source) + others


_AWAITS = {  # the frame of an awaitable, and what it awaits itself
    types.CoroutineType: operator.attrgetter('cr_frame', 'cr_await'),
    types.GeneratorType: operator.attrgetter('gi_frame', 'gi_yieldfrom'),
    types.AsyncGeneratorType: operator.attrgetter('ag_frame', 'ag_await'),
}


def _await_chain(awaitable: Any) -> Iterator[types.FrameType]:
    """Yield the frames from a coroutine down to its innermost await."""
    seen = set()  # iter(function, coroutine) as an awaitable leads back to the coroutine
    while awaitable is not None and id(awaitable) not in seen:
        seen.add(id(awaitable))
        if type(awaitable) in _AWAITS:
            frame, awaitable = _AWAITS[type(awaitable)](awaitable)
            if frame is not None:
                yield frame
        else:  # a step of an async generator, or of __await__(): only the collector knows what is in it
            inside = gc.get_referents(awaitable) if type(awaitable).__module__ == 'builtins' else []
            kinds = (*_AWAITS, *(type(one) for one in inside if type(one).__name__.startswith('async_generator_')))
            awaitable = next((one for one in inside if type(one) in kinds), None)


def _capture_tasks(heap: list[list[Any]], threads: dict[int, tuple[tuple[Any, ...], _Stack]]) -> _Grouper:
    """Return the unfinished asyncio tasks by their chains of awaits."""
    grouper = _Grouper()
    for task in heap[1]:
        coroutine, state = _attempt(operator.attrgetter('_coro', '_state'), task)  # a subclass may have its own
        if isinstance(state, str) and state != 'PENDING':  # of a failure it is the stack
            continue
        for _ in range(3):  # the loop of another thread may go on between two frames: then once more
            chain = list(_await_chain(coroutine))
            stack = tuple(map(_CODE_AND_LINE, reversed(chain)))
            if list(_await_chain(coroutine)) == chain:
                break
        if type(coroutine) in _AWAITS and getattr(coroutine, 'cr_running', getattr(coroutine, 'gi_running', False)):
            state = 'running'
            for ident, (frames, steps) in threads.items():
                if chain and chain[0] in frames:
                    stack = steps[: frames.index(chain[0]) + 1]
                    state = f'running in Thread #{ident}'
        else:
            fresh = not getattr(coroutine, 'cr_suspended', not chain or chain[0].f_lasti != -1)  # CPython 3.11
            state = 'not started' if fresh and len(chain) == 1 else 'waiting'
        grouper.add((task, state), stack, state)
    return grouper


def _collect_tasks(grouper: _Grouper, source: _Source, kinds: list[type]) -> list[_Entry]:
    """What is every asyncio task doing, and what does it wait for?"""

    def describe(member: tuple[Any, str]) -> dict[str, object]:
        task, state = member
        waiter = _attempt(getattr, task, '_fut_waiter', None)  # a subclass may have its own of these
        children = _attempt(getattr, waiter, '_children', ())
        awaited = [one for one in (waiter, *(children if type(children) is list else ())) if type(one) in kinds]
        names = [_attempt(operator.methodcaller('get_name'), one) for one in (task, *awaited[:3])]
        names = [_clean(_redact(str(name.error if type(name) is _Failure else name))) for name in names]
        more = f' and {len(awaited) - 3:,} more' if len(awaited) > 3 else ''
        return {'name': names[0], 'state': state, 'waits_for': ', '.join(names[1:]) + more or None}

    return grouper.entries('Task', describe, source)


def _collect_processes(timeout: float) -> dict[str, object]:
    """What process is this, since when, and what does it consume?"""
    tree = _process(os.getpid(), os.getppid(), 'running', {}, timeout)
    facts: dict[str, object] = {'process': tree, 'time': _iso_time(time.time())}
    with contextlib.suppress(OSError, ValueError, IndexError):
        start = int(_stat_fields('/proc/self/stat')[19]) / os.sysconf('SC_CLK_TCK')
        uptime = float(_read('/proc/uptime').split()[0]) - start
        facts.update({'start time': _iso_time(time.time() - uptime), 'uptime': f'{uptime:.0f} s'})
    arguments = getattr(sys, 'orig_argv', None) or [sys.executable, *getattr(sys, 'argv', ())]  # CPython 3.10
    facts['command line'] = _command_line(arguments)
    with contextlib.suppress(OSError):
        facts['working directory'] = _clean(_redact(os.getcwd()))
    facts['python'] = f'{sys.implementation.name} {sys.version.split()[0]} at {sys.executable}'
    if hasattr(os, 'uname'):
        facts['platform'] = ' '.join(os.uname())
    facts['cpu seconds'] = round(time.process_time(), 2)
    now = 0.0
    with contextlib.suppress(OSError, ValueError, IndexError):
        now = int(_read('/proc/self/statm').split()[1]) * resource.getpagesize() / 2**20
        facts['resident memory'] = f'{now:.1f} MiB'
    if resource is not None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == 'darwin' else 2**10)
        facts['peak resident memory'] = f'{max(now, peak):.1f} MiB'  # the kernel counts the two on their own
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        try:
            facts['open files'] = f'{len(os.listdir("/proc/self/fd")) - 1} of {limit}'
        except OSError as error:
            facts['open files'] = f'{limit} of {limit}' if error.errno == errno.EMFILE else f'at most {limit}'
    state = 'enabled' if _before and _before[0][0] else 'disabled'
    facts['garbage collector'] = f'{state}, counts {", ".join(map(str, gc.get_count()))}'
    return facts


def _command_line(arguments: Iterable[object]) -> str:
    return ' '.join(map(str, _Converter().sequence(arguments)))


def _iso_time(moment: float) -> str:
    return time.strftime('%Y-%m-%dT%H:%M:%S+00:00', time.gmtime(moment))


def _stat_fields(path: str) -> list[str]:
    """Return the fields of a stat file in /proc, from the state on; the name before it may hold anything."""
    return _read(path).rpartition(b')')[2].decode('ascii').split()


def _child_pids(pid: int) -> list[int]:
    """Return the children of a process: its threads' own, which is cheaper than to look at all processes."""
    pids: list[int] = []
    with contextlib.suppress(OSError, AttributeError):  # Windows has neither
        if pid == os.getpid():  # raises ChildProcessError if there are none
            _os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        for thread in os.listdir(f'/proc/{pid}/task'):
            with contextlib.suppress(OSError):
                pids.extend(map(int, _read(f'/proc/{pid}/task/{thread}/children').split()))
    return sorted(pids)


def _process(pid: int, parent: int, state: str, names: dict[int, str], timeout: float) -> _Process:
    """Return a process with its children, and theirs."""
    try:
        uid = os.getuid() if pid == os.getpid() else _os.stat(f'/proc/{pid}').st_uid
    except (OSError, AttributeError):
        uid = -1
    if uid not in names:  # the data base of users may be on a server that does not answer
        name = _bounded(lambda: pwd.getpwuid(uid).pw_name, timeout=timeout, key=('user', uid), native=True)
        names[uid] = name if isinstance(name, str) else str(uid)
    children = []
    for child in _child_pids(pid):
        with contextlib.suppress(OSError, IndexError):
            letter = _stat_fields(f'/proc/{child}/stat')[0]
            children.append(_process(child, pid, _STATES.get(letter, letter), names, timeout))
    return _Process(pid, parent, names[uid], uid, state, children)


def _collect_configuration(conf: Any) -> object:
    """How is the program configured?"""
    if conf is None:
        conf = getattr(sys.modules.get('oslo_config.cfg'), 'CONF', None)
    if conf is None:
        return 'No configuration was given to setup_autorun().'
    options, converter = _options(conf), _Converter()
    groups: dict[str, dict[str, object]] = {}
    ungrouped: dict[Any, object] = {}
    for key in _snapshot(options, _MAX_ITEMS):
        value = _attempt(operator.getitem, options, key)
        if not isinstance(value, Mapping) and type(value).__name__ not in ('Namespace', 'SimpleNamespace'):
            ungrouped[key] = value
            continue
        # oslo.config declares its secrets; elsewhere all that a group with a secret name holds is secret.
        declared = _declared_secrets(getattr(conf, '_groups', {}).get(key))
        secret = declared is None and _is_secret(str(key))
        name = 'default' if key == getattr(conf, 'default_section', None) else str(converter.convert(key))
        groups[name] = converter.mapping(_options(value), declared or (), secret)
    default = converter.mapping(ungrouped, _declared_secrets(conf) or ())
    groups['default'] = {**groups.get('default', {}), **default}
    names = sorted(filter(groups.get, groups), key=lambda name: (name != 'default', name))
    return _Configuration((name, dict(sorted(groups[name].items()))) for name in names) or 'The configuration is empty.'


def _options(conf: Any) -> Mapping[Any, Any]:
    """Return the options of a mapping or of an object with attributes."""
    if isinstance(conf, Mapping):
        return conf
    return {name: value for name, value in vars(conf).items() if not name.startswith('__')}


def _declared_secrets(holder: Any) -> set[str] | None:
    """Return the names of the options that oslo.config marks secret, or None where it is not oslo.config."""
    declared = getattr(holder, '_opts', None)
    if not isinstance(declared, dict):
        return None
    return {name for name, option in declared.items() if getattr(option.get('opt'), 'secret', False)}


def _oslo_option(conf: Any, name: str) -> Any:
    """Return an option of the group oslo_reports, or None."""
    for key in ('oslo_reports', name):
        conf = conf.get(key) if isinstance(conf, Mapping) else getattr(conf, key, None)
    return conf


def _collect_registered(generator: Callable[[], object]) -> object:
    """What does the program tell of itself?"""
    value: Any = generator()
    if hasattr(value, 'set_current_view_type'):  # a model of oslo.reports
        value.set_current_view_type('text')
        value = str(value)
    return _Converter().convert(value)


# -- Render: plain data in, text out ---


class TextGuruMeditation(GuruMeditation):
    """The report for people, in the layout of oslo.reports."""

    def _render(self, sections: list[tuple[str, object]]) -> str:
        lines = [_title('Guru Meditation'), '|' * _WIDTH, '', '']
        for title, data in sections:
            lines += [_title(title), *(_lines(data) if data not in ([], {}) else ['(none)'])]
        _frame_text.cache_clear()
        return '\n'.join(lines)


def _title(text: str) -> str:
    bar = '=' * _WIDTH
    return f'{bar}\n===={" ".join(_clean(text).split()): ^{_WIDTH - 8}}====\n{bar}'


def _lines(data: Any, indent: str = '') -> Iterator[str]:
    """Yield the lines of any data."""
    if isinstance(data, _Failure):
        yield data.error
        if data.stack:
            yield from ('Traceback (most recent call last):', *_stack_lines(data.stack))
    elif isinstance(data, _Entry):
        yield '\n'.join(_entry_lines(data))
    elif isinstance(data, _Process):
        head = f'Process {data.pid} (under {data.parent})'
        yield f'{indent}{head} [ run by: {data.user} ({data.uid}), state: {data.state} ]'
        for child in data.children:
            yield from _lines(child, indent + '    ')
    elif isinstance(data, _Configuration):
        for group, options in data.items():
            yield from ('', f'{group}:', *_lines(options, '  '))
    elif isinstance(data, dict):
        for key, value in data.items():
            if isinstance(value, _Process):
                yield from _lines(value)
            elif value and (isinstance(value, (dict, list)) or '\n' in str(value)):
                yield from (f'{indent}{key} =', *_lines(value, indent + '  '))
            else:
                yield f'{indent}{key} = {value}'
    elif isinstance(data, list):
        for item in data:
            if type(item) in (dict, list):
                yield from (f'{indent}[{type(item).__name__}]', *_lines(item, indent + '  '))
            else:
                yield from _lines(item, indent)
    else:
        yield from (indent + line for line in str(data).split('\n'))


def _entry_lines(entry: _Entry) -> Iterator[str]:
    """Yield the lines of the threads, green threads or tasks that have the same stack."""
    many = entry.count > 1 or not entry.members
    ident = '' if many or 'id' not in entry.members[0] else f' #{entry.members[0]["id"]}'
    heading = f'{entry.count:,} {entry.kind}{"s" * (entry.count > 1)}' if many else entry.kind + ident
    yield f'------{heading: ^{_WIDTH - 12}}------'
    facts = [line for member in entry.members for line in _fact_lines(member, many)]
    if entry.count > len(entry.members) > 0:
        facts.append(f'... and {entry.count - len(entry.members):,} more')
    yield from ('', *facts) if facts else ()
    yield from _stack_lines(entry.stack) if entry.members else ['']


def _fact_lines(member: dict[str, object], many: bool) -> Iterator[str]:
    """Yield what is known of one thread, green thread or task."""
    ident = f'#{member["id"]} ' if many and 'id' in member else ''
    forms = {
        'daemon': 'daemon',
        'native_id': 'native id {}',
        'cpu_seconds': '{:.2f} s cpu',
        'waits_for': 'waits for {}',
    }
    known = [key for key, value in member.items() if value is not None and value is not False]
    facts = [forms.get(key, '{}').format(member[key]) for key in known if key not in ('id', 'handling')]
    if ident or facts:
        yield f'{ident}{", ".join(facts)}'.rstrip()
    if 'handling' in member:
        yield from f'handling {member["handling"]}'.split('\n')


def _stack_lines(stack: list[_Frame]) -> Iterator[str]:
    """Yield the lines of a stack, oldest frame first."""
    yield from map(_frame_text, stack) if stack else ('', 'No Traceback!')
    yield ''


@functools.lru_cache(maxsize=4096)  # thousands of stacks share most of their frames
def _frame_text(frame: _Frame) -> str:
    times = f'\n    ({frame.repeated:,} times in a row)' if frame.repeated > 1 else ''
    code = f'`{frame.code}`' if frame.code else '(source not found)'
    return f'\n{frame.file}:{frame.line} in {frame.name}\n    {code}{times}'


class JSONGuruMeditation(GuruMeditation):
    """The report for programs: one JSON document on one line.

    Its first key, "Guru Meditation", holds "format" (the version of this schema), "time" (ISO 8601), "host", "pid" and
    "program"; the others are the titles of the sections. Threads, green threads and tasks are lists of {"kind",
    "count", "members", "stack"}, stacks are lists of {"file", "line", "name", "code", "repeated"}, oldest first, and
    a section that failed is {"error", "stack"}.
    """

    _ending = '.json'

    def __init__(self, version: object = None, frame: Frame = None, conf: object = None) -> None:
        super().__init__(version, frame, conf)
        import json  # here, since nothing is imported while a report is made

        self._dumps = json.dumps

    def _render(self, sections: list[tuple[str, object]]) -> str:
        host = os.uname().nodename if hasattr(os, 'uname') else os.environ.get('COMPUTERNAME', '')
        pid, program = self._about or (os.getpid(), _program())
        header = {'format': 1, 'time': _iso_time(time.time()), 'host': host, 'pid': pid, 'program': program}
        document: dict[str, object] = {'Guru Meditation': header}
        for title, data in sections:
            while title in document:  # a program may call its section as we call ours
                title += ' (again)'
            document[title] = _jsonable(data)
        return self._dumps(document)


def _jsonable(data: Any) -> object:
    """Return data with the named tuples as mappings."""
    if hasattr(data, '_fields'):
        data = {name: value for name, value in zip(data._fields, data) if name != 'repeated' or value > 1}
    if isinstance(data, dict):
        return {name: _jsonable(value) for name, value in data.items()}
    return list(map(_jsonable, data)) if isinstance(data, list) else data


# -- Deliver: a file in log_dir, else stderr, else a private file ---

_stderr_at_setup: list[os.stat_result] = []  # what descriptor 2 was


def _stderr_descriptor() -> int | None:
    """Return the descriptor of stderr, or None if there is none to use.

    sys.stderr may be None, closed, or any object. Then it is descriptor 2, if that is still the same file as at set-up
    and not a data base that has been opened since.
    """
    descriptor = None
    with contextlib.suppress(OSError):
        if _stderr_at_setup and os.path.samestat(os.fstat(2), _stderr_at_setup[0]):
            descriptor = 2
    with contextlib.suppress(OSError, ValueError):
        if type(sys.stderr) is io.TextIOWrapper:
            descriptor = sys.stderr.fileno()
    with contextlib.suppress(OSError):
        if descriptor is not None and os.path.samestat(os.fstat(descriptor), os.stat(os.devnull)):
            return None  # a daemon's: nobody would see it
    return descriptor


def _deliver(text: str, log_dir: object, name: str, timeout: float) -> None:
    """Write a report where it belongs, or else where it can be written."""
    data, reason = f'{text}\n'.encode(), ''
    if isinstance(log_dir, (str, os.PathLike)) and log_dir:
        folder = os.path.abspath(log_dir)
        path = _bounded(_create_file, folder, name, data, timeout=timeout, key=('file', folder), native=True)
        if isinstance(path, str):
            _write_stderr(f'Guru Meditation Report: {path}\n', timeout)
            return
        reason = f'Guru Meditation Report: no file in {log_dir}: {path.error}\n'
    if _write_stderr(f'{reason}{text}\n', timeout):
        return
    for folder in filter(None, (os.environ.get('TMPDIR'), '/tmp', '/var/tmp', '.')):
        if isinstance(_attempt(_create_file, folder, name, data), str):
            return


def _write_stderr(text: str, timeout: float) -> bool:
    """Write to stderr and return whether all of it went out in time. The rest goes out when a reader comes."""
    descriptor = _stderr_descriptor()
    if descriptor is None:
        return False
    data = text.encode('ascii', 'backslashreplace')
    with contextlib.suppress(Exception):  # sys.stderr may be anything
        data = text.encode(sys.stderr.encoding, 'backslashreplace')
    in_place = functools.partial(_write, descriptor, data, time.monotonic() + timeout)
    done = _bounded(_write, descriptor, data, timeout=timeout, key='stderr', native=True, in_place=in_place)
    return done is None


def _create_file(folder: str, name: str, data: bytes) -> str:
    """Write a new private file and return its path."""
    stem = name.removesuffix('.json')
    ending = name[len(stem) :]
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, 'O_NOFOLLOW', 0)
    for count in itertools.count(2):
        path = os.path.join(folder, name)
        try:
            descriptor = _os.open(path, flags, 0o600)
            break
        except FileExistsError:
            name = f'{stem}_{count}{ending}'
    try:
        with contextlib.suppress(OSError, AttributeError):  # Windows has none
            os.fchmod(descriptor, 0o600)  # whatever the umask
        _write(descriptor, data)
    except BaseException:
        os.unlink(path)  # a whole report elsewhere is better than half of one here
        raise
    finally:
        os.close(descriptor)
    return path


def _write(descriptor: int, data: bytes, deadline: float = math.inf) -> None:
    """Write all of it; with a deadline, only what a blocking descriptor takes without blocking."""
    rest, delay, file = memoryview(data), 0.001, os.fstat(descriptor)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WRITE_SIGNALS) if _WRITE_SIGNALS else None
    try:
        while rest:
            try:
                if not os.path.samestat(os.fstat(descriptor), file):  # the program has closed and opened it meanwhile
                    raise OSError(errno.EBADF, 'it is another file now')
                left = max(0.0, deadline - time.monotonic())
                if left < math.inf and not select.select([], [descriptor], [], left)[1]:
                    raise TimeoutError('nothing is read from it')
                rest = rest[_os.write(descriptor, rest if left == math.inf else rest[:_CHUNK]) :]
                delay = 0.001
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                with contextlib.suppress(Empty):  # time.sleep may be a green one
                    SimpleQueue[None]().get(timeout=delay)
                delay = min(2 * delay, 0.5)
    except OSError:
        if came := _WRITE_SIGNALS and signal.sigpending() & _WRITE_SIGNALS:
            signal.sigwait(came)
        raise
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


register_section = TextGuruMeditation.register_section
setup_autorun = TextGuruMeditation.setup_autorun


# -- Command line ---

_HELP = """\
usage: gmr.py [OPTIONS] SCRIPT [ARGS]     run a program that answers kill -USR2
       gmr.py [OPTIONS] -m MODULE [ARGS]  the same for a module
       gmr.py [OPTIONS] --pid PID         ask a running process (CPython 3.14)
       gmr.py [--json]                    show a report of this very process

  --json             make the report as JSON
  --log-dir DIR      write reports to files in DIR, not to stderr
  --signal NAME      answer USR1, SIGUSR1 or a number, not SIGUSR2
  --watch-file PATH  report also when the modification time of PATH changes
  --instant-stacks   print raw stacks at once, even if Python is stuck in C
  --timeout SECONDS  how long --pid waits for the answer; 5 if not given
  --version          show the version of gmr.py
  --help             show this

examples:
  python3 gmr.py -m http.server 8000
  python3 gmr.py --log-dir /var/log/shop shop.py --port 80
  sudo python3 gmr.py --pid 4711
"""


def main(arguments: list[str]) -> int:
    """Run a program that answers the signal, or show the report of another process, or that of this one.

    Return the exit status: 0, 1 if a process cannot be asked, 2 for wrong arguments.
    """
    import getopt  # it stops at the first argument that is no option: what follows belongs to the program

    long_options = 'json log-dir= signal= watch-file= instant-stacks pid= timeout= version help'
    try:
        found, program = getopt.getopt(arguments, 'hm', long_options.split())
        options = dict(found)
        form = JSONGuruMeditation if '--json' in options else TextGuruMeditation
        if '--help' in options or '-h' in options:
            return _print(_HELP)
        if '--version' in options:
            return _print(f'gmr {__version__}\n')
        if '-m' in options and not program:
            raise ValueError('-m needs the name of a module')
        if '--pid' in options:
            if program or options.keys() - {'--pid', '--timeout', '--json'}:
                raise ValueError('--pid goes with --timeout and --json only')
            timeout = _number(options, '--timeout', float) if '--timeout' in options else 5.0
            return _show_process(_number(options, '--pid', int), form, timeout)
        if '--timeout' in options:
            raise ValueError('--timeout goes with --pid only')
        if not program and (useless := options.keys() - {'--json'}):
            raise ValueError(f'{min(useless)} goes with a program only')
        if program:
            _set_up(form, options, program)
    except (getopt.GetoptError, ValueError) as error:
        return _complain(f'{error} (see --help)'.removeprefix('signum: '), 2)
    if program:
        return _run_program(program, '-m' in options)
    return _print(form(types.SimpleNamespace(product='gmr', version_string=__version__)).run() + '\n')


def _print(text: str) -> int:
    try:
        _write(1, text.encode())
    except BrokenPipeError:  # `| head` has seen enough
        pass
    except OSError as error:
        return _complain(f'standard output: {error.strerror}')
    return 0


def _complain(message: str, status: int = 1) -> int:
    print(f'{os.path.basename(_HERE)}: {message}', file=sys.stderr)
    return status


def _number(options: dict[str, str], name: str, kind: Callable[[str], Any]) -> Any:
    with contextlib.suppress(ValueError):
        number = kind(options[name])
        if 0 < number < threading.TIMEOUT_MAX:
            return number
    raise ValueError(f'{name} takes a positive number, not {options[name]!r}')


def _set_up(form: type[GuruMeditation], options: dict[str, str], program: list[str]) -> None:
    """Set up the report as the options say."""
    signum, name = None, options.get('--signal')
    if name is not None:
        known: dict[str, int] = {one.name.removeprefix('SIG'): one for one in signal.Signals}
        signum = int(name) if name.isdigit() else known.get(name.upper().removeprefix('SIG'))
        if signum is None:
            raise ValueError(f'there is no signal {name!r}')
    module = program[0].partition('.')[0] if '-m' in options else '__main__'
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        form.setup_autorun(
            types.SimpleNamespace(
                product=program[0], version_string=lambda: getattr(sys.modules.get(module), '__version__', None)
            ),
            os.path.basename(program[0]),
            options.get('--log-dir'),
            signum,
            watch_file=options.get('--watch-file'),
            instant_stacks='--instant-stacks' in options,
        )
    for warning in found:
        _complain(str(warning.message))


def _leave_main() -> dict[str, Any]:
    """Take the name by which a program may import this module, and return the namespace of a fresh __main__."""
    from importlib import util

    this, main = sys.modules[__name__], types.ModuleType('__main__')
    if __name__ == '__main__':
        name = os.path.splitext(os.path.basename(_HERE))[0]
        this.__spec__ = this.__spec__ or util.spec_from_file_location(name, _HERE)
        this.__name__ = this.__spec__.name if this.__spec__ else name
        for one in list(vars(this).values()):  # else pickle and inspect would look for them in the program
            if isinstance(one, (type, types.FunctionType)) and one.__module__ == '__main__':
                one.__module__ = this.__name__
        package, _, last = this.__name__.rpartition('.')
        if package:
            setattr(sys.modules[package], last, this)
    sys.modules.update({this.__name__: this, '__main__': main})
    vars(main)['__builtins__'] = vars(this)['__builtins__']
    if sys.version_info < (3, 14):
        vars(main)['__annotations__'] = {}
    if sys.version_info < (3, 15):
        vars(main)['__cached__'] = None
    return vars(main)


def _run_program(program: list[str], is_module: bool) -> int:
    """Run a script, a module, or a folder or archive with a __main__.py, as the interpreter itself would."""
    import pkgutil
    import runpy
    from importlib import machinery

    name, path = program[0], os.path.join(os.getcwd(), program[0])
    if not is_module and not os.access(path, os.R_OK):
        reason = errno.EACCES if os.path.exists(path) else errno.ENOENT
        return _complain(f"can't open file {path!r}: [Errno {reason}] {os.strerror(reason)}", 2)
    namespace = _leave_main()
    sys.argv[:] = ['-m', *program[1:]] if is_module else program
    importer = None if is_module else pkgutil.get_importer(name)
    if not getattr(sys.flags, 'safe_path', sys.flags.isolated):  # CPython 3.11
        del sys.path[0]
        if not importer:
            sys.path.insert(0, os.getcwd() if is_module else os.path.dirname(os.path.realpath(path)))
    if importer:
        sys.path.insert(0, path)
    for own in ('getopt', 'gettext', 'pkgutil', 'pwd', 'resource', 'select', 'signal'):  # loaded here, not without us
        if sys.path and os.path.exists(os.path.join(sys.path[0], f'{own}.py')):
            sys.modules.pop(own, None)
    try:
        if is_module or importer:
            # `python -m` itself calls this. runpy's public functions take __main__ away while threads still run.
            runpy._run_module_as_main('__main__' if importer else name, alter_argv=is_module)  # type: ignore[attr-defined]
        else:
            if path.endswith('.pyc'):
                loader: Any = machinery.SourcelessFileLoader('__main__', path)
                code = loader.get_code('__main__')
            else:
                loader = machinery.SourceFileLoader('__main__', path)
                code = compile(loader.get_data(path), path, 'exec', dont_inherit=True)  # get_code() would cache it
            namespace.update(__file__=path, __loader__=loader)
            exec(code, namespace)
    except BaseException:
        sys.excepthook = functools.partial(_show_exception, getattr(sys, 'excepthook', sys.__excepthook__))
        raise
    return 0


def _show_exception(hook: Any, kind: Any, error: BaseException, trace: types.TracebackType | None) -> None:
    """Show what has ended a program: the traceback begins in the program."""
    ours = trace
    while ours and ours.tb_frame.f_code is not _run_program.__code__:
        ours = ours.tb_next
    trace = ours.tb_next if ours else trace
    hook(kind, BaseException.with_traceback(error, trace), trace)


# What a process that is asked by --pid runs (PEP 768). It only starts a thread: an exception that a signal handler
# raises in the question, such as Ctrl-C, would be lost to the program. The module does not stay there. The hook does,
# since none can be taken back, but it holds nothing: it is for a child that is forked while the report is made.
_QUESTION = """\
def answer():
    try:
        import os, sys
        module, under_way = type(sys)('gmr'), []
        with open({answer!r}, 'r+b', 0) as stream:
            stream.write(b'begun\\n')
            os.register_at_fork(after_in_child=lambda: [one._after_fork() for one in under_way])
            try:
                exec(compile({source!r}, {here!r}, 'exec', dont_inherit=True), module.__dict__)
                under_way.append(module)
                text = 'report\\n' + module._answer({form!r})
            except BaseException as error:
                text = 'error\\n' + repr(error)
            under_way.clear()
            stream.write(text.encode('utf-8', 'backslashreplace') + b'\\0')
        module._helpers or module.__dict__.clear()  # the collector may be off
    except BaseException:
        pass  # nobody waits any more
try:
    import _thread, sys
    threads = sys.modules.get('__original_module__thread', _thread)
    getattr(threads, 'start_new', _thread.start_new_thread)(answer, ())
except RuntimeError:
    answer()
del answer
"""


def _answer(form: str) -> str:
    """Return the report of this process: by its own copy of this module, if it has one, which knows its sections."""
    loaded = [vars(module) for module in list(sys.modules.values()) if type(module) is types.ModuleType]
    own = next((names for names in loaded if '_autorun' in names and form in names), globals())
    if own is not globals():
        own['_register_hooks']()  # for us, the question has one
    version = getattr(sys.modules.get('__main__'), '__version__', None)
    report = own[form](types.SimpleNamespace(product=_program(), version_string=version))
    for one in own['_autorun']:
        report.version, report.conf = one.version, one.conf
    return report._run(None, None)  # type: ignore[no-any-return]


def _show_process(pid: int, form: type[GuruMeditation], timeout: float) -> int:
    """Print the report of another process, which need not know of this module."""
    if not hasattr(sys, 'remote_exec'):
        hint = f'one that has called setup_autorun() answers kill -USR2 {pid}'
        return _complain(f'--pid needs CPython 3.14 or later, here and in the process; {hint}')
    proc = f'/proc/{pid}' if os.path.isdir('/proc/self') else ''
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is left there is removed
    try:
        if proc and os.readlink(f'{proc}/ns/pid') != os.readlink('/proc/self/ns/pid'):
            return _complain(f'process {pid} is in a container: run this command there')
        begun, _, answer = _ask(pid, proc, form, timeout).partition('\n')
        name, _, text = answer.partition('\n')
        if text.endswith('\0'):
            text = _clean(text[:-1])  # whoever runs there is not to be trusted with this terminal
            if name == 'report':
                return _print(f'{text}\n')
            return _complain(f'process {pid} could not make a report: {text}')
        if proc and not os.path.exists(proc):
            return _complain(f'process {pid} has ended')
        stacks = _attempt(_peek, pid, form)
        if type(stacks) is str:
            _print(f'{stacks}\n')
    except KeyboardInterrupt:
        return _complain('interrupted', 130)
    except PermissionError:
        return _complain(f'not permitted to look into process {pid}: be root, or have the right to ptrace it')
    except (OSError, RuntimeError) as error:
        return _complain(_explain(pid, proc, error))
    return _complain(
        f'no answer from process {pid} within {timeout:g} seconds: '
        + ('it is at it' if begun else 'its main thread waits or is stuck in C')
        + f'; kill -USR2 {pid} helps if it waits and has called setup_autorun(), py-spy dump --pid {pid} in any case'
    )


def _ask(pid: int, proc: str, form: type[GuruMeditation], timeout: float) -> str:
    """Return what a process answers: 'begun', 'report' or 'error', and the text, as far as it has come."""
    import tempfile

    remote_exec: Callable[[int, str], None] = sys.remote_exec  # type: ignore[attr-defined]
    folder = f'{proc}/root/tmp' if proc else tempfile.gettempdir()  # systemd's PrivateTmp= gives it another than ours
    question = f'gmr-{os.urandom(8).hex()}'
    answer = f'{question}-answer'
    names = {'here': os.path.abspath(_HERE), 'form': form.__name__, 'answer': os.path.join(folder, answer)}
    code = _QUESTION.format(source='\n'.join(_read_lines(_HERE)), **names)
    deadline, user, data = time.monotonic() + timeout, _user_of(proc), b''
    if proc:
        import fcntl

        turn = os.open(proc, os.O_RDONLY)
        while True:  # CPython holds one question: those of others that ask at the same time would be lost
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > deadline:
                return ''
            time.sleep(0.01)
    os.umask(0o077)
    os.chdir(folder)  # stays this folder even if the process ends
    with contextlib.ExitStack() as stack:
        stack.callback(_remove, user, question, answer)
        try:
            with _acting_for(user):
                with open(question, 'x', encoding='utf-8') as stream:
                    stream.write(code)
                answers = stack.enter_context(open(answer, 'x+b', buffering=0))
        except OSError as error:
            raise RuntimeError(f'nothing can be left for it in its /tmp: {error.strerror}') from None
        remote_exec(pid, os.path.join(folder, question))
        waiting = True
        try:
            while waiting and not data.endswith(b'\0'):
                waiting = time.monotonic() < deadline and (not proc or os.path.exists(proc))
                time.sleep(0.01)
                answers.seek(0)
                data = answers.read()
        finally:
            if not data:  # takes the question back: the main thread shall find nothing to do when it returns
                with contextlib.suppress(OSError, RuntimeError):
                    remote_exec(pid, os.devnull)
    return data.decode('utf-8', 'replace')


def _user_of(proc: str) -> tuple[int, int] | None:
    """Return the user and the group of a process, or None if its user is ours.

    The owner of its folder in /proc is root if it is not dumpable, so that is not the one.
    """
    if not proc:
        return None
    user, group = re.findall(r'^[UG]id:.*\t(\d+)$', _read(f'{proc}/status').decode('ascii', 'replace'), re.MULTILINE)
    return None if int(user) == os.geteuid() else (int(user), int(group))


@contextlib.contextmanager
def _acting_for(user: tuple[int, int] | None) -> Iterator[None]:
    """Have the rights of a user and no others: a /tmp of their own may lead anywhere, and root would go there."""
    if user is None:
        yield
        return
    group, groups = os.getegid(), os.getgroups()
    os.setgroups([])
    os.setegid(user[1])
    os.seteuid(user[0])
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def _remove(user: tuple[int, int] | None, *names: str) -> None:
    with _acting_for(user):
        for name in names:
            with contextlib.suppress(OSError):
                os.unlink(name)


def _explain(pid: int, proc: str, error: Exception) -> str:
    """Return in one line why a process cannot be asked."""
    if not proc:
        return f'process {pid}: {error}'
    try:
        with open(f'{proc}/maps') as stream:
            versions = set(re.findall(r'/(?:lib)?python(\d\.\d+)[^/\n]*$', stream.read(), re.MULTILINE))
    except OSError:
        return f'there is no process {pid}'
    ours = f'{sys.version_info[0]}.{sys.version_info[1]}'
    if versions and ours not in versions:
        return f'process {pid} runs Python {max(versions)}, this is {ours}: ask with the same version, 3.14 or later'
    return f'process {pid}: {error}' if versions else f'process {pid} is not a Python'


def _peek(pid: int, form: type[GuruMeditation]) -> str:
    """Return a report of nothing but the stacks of a process, read from its memory as `python -m asyncio ps` does."""
    from _remote_debugging import RemoteUnwinder  # type: ignore[import-not-found]

    grouper = _Grouper()
    code: Any = functools.cache(lambda file, name: types.SimpleNamespace(co_filename=file, co_name=name))
    found = RemoteUnwinder(pid, all_threads=True).get_stack_trace()  # newest thread first
    for thread in reversed([thread for one in found for thread in getattr(one, 'threads', [one])]):  # CPython 3.15
        stack = tuple(
            (code(one.filename, one.funcname), getattr(one, 'location', one).lineno) for one in thread.frame_info
        )
        name = 'MainThread' if thread.thread_id == pid else None
        grouper.add({'name': name, 'native_id': thread.thread_id}, stack)
    report, sections = form(), []
    with contextlib.suppress(OSError):
        state, parent = _stat_fields(f'/proc/{pid}/stat')[:2]
        arguments = _read(f'/proc/{pid}/cmdline').decode('utf-8', 'replace').rstrip('\0').split('\0')
        tree = _process(pid, int(parent), _STATES.get(state, state), {}, report.section_timeout)
        sections.append(('Processes', {'process': tree, 'command line': _command_line(arguments)}))
        report._about = pid, os.path.basename(arguments[0])
    return report._render([('Threads', grouper.entries('Thread', dict, _Source())), *sections])


if __name__ == '__main__':
    # A package may have imported its copy of this module before `python -m` runs it: then that one is the program's.
    this = sys.modules.get(__spec__.name) if __spec__ else None
    if status := (this or sys.modules[__name__]).main(sys.argv[1:]):
        sys.exit(status)
