"""The report that a sick Python process gives of itself.

Copy this file into a project, or install it, and say once, in the main thread:

    import gmr

    gmr.register_section('Cache', cache.stats)  # any callable without arguments
    gmr.setup_autorun('13.0.0', conf=CONF)

From then on `kill -USR2 PID` makes the live process write a Guru Meditation Report: what it is, what its threads,
green threads and asyncio tasks do and wait for, its processes and configuration, and the registered sections. It goes
to a file in `log_dir` if one is given, else to stderr, else to a private file in the temporary directory. The program
is held for a second at most, and goes on as if nothing had happened. `TextGuruMeditation(version).run()` returns it.

`python3 gmr.py SCRIPT` runs any program so that it answers, `python3 gmr.py --pid PID` asks a process of CPython 3.14.
Interface and text layout are those of OpenStack's oslo.reports.
"""

# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations  # a Python that does not know them is too old: gmr.py needs CPython 3.9 or later

import sys

if sys.version_info < (3, 9):  # noqa: UP036
    raise (SystemExit if __name__ == '__main__' else ImportError)('gmr.py needs CPython 3.9 or later')

import _signal  # type: ignore[import-not-found]
import _thread
import atexit
import contextlib
import errno
import faulthandler
import functools
import gc
import io
import itertools
import math
import operator
import os
import re
import signal
import threading
import types
import warnings
from _queue import Empty, SimpleQueue  # gevent replaces queue.SimpleQueue; nobody replaces the C type itself
from collections import Counter, deque, namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, MappingView
from os.path import abspath, basename, dirname, getsize, isdir, isfile, join, samestat  # now: tests replace these
from time import gmtime, monotonic, process_time, strftime, time

TYPE_CHECKING = False  # the module typing, like traceback and linecache, is more than a process at rest should carry
if TYPE_CHECKING:
    from typing import Any, ClassVar
try:
    import posix as _os  # eventlet replaces os.open and os.write; nobody replaces the C functions under them
    import pwd
    import resource
    from time import CLOCK_BOOTTIME, clock_gettime
except ImportError:  # Windows has none of them, macOS no such clock: what a platform does not tell is left out
    import os as _os  # type: ignore[no-redef]

__all__ = ['GuruMeditation', 'JSONGuruMeditation', 'TextGuruMeditation', 'register_section', 'setup_autorun']
__version__ = '1.1.0'

_HIDDEN = '***'
_WIDTH = 72  # columns of a title
_MAX_GLANCE = 24  # lines of At a Glance
_MAX_MEMBERS = 20  # named in an entry; the others are counted
_MAX_SOURCE = 1 << 23  # bytes of a source file that is read for its lines
_MAX_LINE = 1000  # characters of a source line, or of the command line of a child
_ISO_TIME = '%Y-%m-%dT%H:%M:%S+00:00'
_LOST = 30.0  # seconds after which a report that has not ended counts as lost: it may be stuck in the kernel for ever
_SWITCH_INTERVAL = 1e-4  # seconds, meanwhile: after every system call a busy thread would keep the interpreter for 5 ms
_HOST = os.uname().nodename if hasattr(os, 'uname') else os.environ.get('COMPUTERNAME', '')
_TICKS = os.sysconf('SC_CLK_TCK') if hasattr(os, 'sysconf') else 100  # of processor time, in a second
_STATES = dict(zip('RSDTtZI', ('running', 'sleeping', 'disk sleep', 'stopped', 'traced', 'zombie', 'idle')))
_HERE = (lambda: None).__code__.co_filename  # as code objects name this file
_SIGNALS = {int(one): one.name for one in signal.Signals}
# A write to a dead pipe, a full file or a foreign terminal raises these; by default they kill or stop the process.
_WRITE_SIGNALS = {one for one, name in _SIGNALS.items() if name in ('SIGPIPE', 'SIGXFSZ', 'SIGTTOU')}

_Stack = tuple[tuple[types.CodeType, int], ...]  # as captured: the code and the line of each frame, innermost first
_Thread = namedtuple('_Thread', 'frames stack ours')  # as captured, and whether it works for a report
_Member = namedtuple('_Member', 'kind ident state stack facts')  # a thread, green thread or task; facts: a dict
# Plain data with a layout of its own. A stack in it is a list of _Frame, oldest first, and _Repeated.
_Entry = namedtuple('_Entry', 'kind count state waits_for members stack')  # the members of a kind that have one stack
_Row = namedtuple('_Row', 'kind count state frame waits_for members')  # an entry in short
_Repeated = namedtuple('_Repeated', 'frames times')  # so many frames before it are repeated in a row
_Glance = namedtuple('_Glance', 'process findings entries')
_Process = namedtuple('_Process', 'pid parent user uid state command signal children')
_Failure = namedtuple('_Failure', 'error stack', defaults=((),))  # in the place of what could not be made
_Configuration = type('_Configuration', (dict,), {})  # groups of options


# -- Trigger: a signal, a touched file, or a call of run() ---


class GuruMeditation:
    """A report of this process: the base of the two that differ in their format.

    :param version: what the Package section is about: an object or module with any of `vendor_string()`,
        `product_string()`, `version_string_with_package()`, `version_info.version_string()` (pbr), `version_string`
        and `__version__`; the name of an installed distribution; or a version.
    :param frame: the frame that a signal handler got: its thread is shown from there. By default the caller of run().
    :param conf: the configuration to show, a mapping of options and of groups of options, or an object with
        attributes. By default oslo.config's global CONF, if oslo.config is loaded.
    """

    hold: ClassVar[float] = 1.0  # seconds that the program is held at most; then the report goes on without it
    section_timeout: ClassVar[float] = 2.0  # seconds that foreign code has to make one section
    delivery_timeout: ClassVar[float] = 10.0  # seconds for a full pipe or a slow disk; then a private file is written
    timestamp_fmt: ClassVar[str] = '%Y%m%d%H%M%S'  # in the names of report files; UTC

    _sections: ClassVar[dict[str, Callable[[], object]]] = {}
    _render: Callable[[list[tuple[str, object]]], str]  # of the two formats
    _ending: ClassVar[str] = ''
    _service_name: str | None = None
    _log_dir: str | None = None
    _watch_file: str | None = None
    _watch_interval = 1.0
    _installed: tuple[int, Any, bool] = (0, None, False)  # our signal, the handler before, whether raw stacks too
    _asked_at = -_LOST  # when signals have asked for the report that is under way; so long ago: none is
    _again = False  # they have asked for one more since it began

    def __init__(self, version: object = None, frame: types.FrameType | None = None, conf: object = None) -> None:
        self.version, self.frame, self.conf = _resolve_version(version), frame, conf
        script = str((getattr(sys, 'argv', None) or ['python'])[0])
        self._program = basename(script.removesuffix(f'{os.sep}__main__.py')) or 'python'  # of a package, its name
        self._stop: SimpleQueue[None] = SimpleQueue()  # tells the watcher to end
        for pattern in (SECRET_NAMES, _ASKED, _ELSEWHERE, _SHAPES, _SPOKEN, _CURL, _LOGIN, _NAME, _LITERAL):
            re.compile(pattern)  # now, since re keeps them: it takes longer than all else of a small report

    @classmethod
    def register_section(cls, section_title: str, generator: Callable[[], object]) -> None:
        """Add a section to all later reports, text and JSON, or replace the one of the same title.

        :param section_title: its title, a str.
        :param generator: a callable without arguments, called anew for every report, that returns a str, a mapping, an
            iterable, a number or None within `section_timeout` seconds. It runs in a helper thread, but under gevent
            and eventlet in a greenlet of the thread that is held.
        :raises TypeError: the title is no str, or the generator is not callable.
        """
        if not isinstance(section_title, str) or not callable(generator):
            raise TypeError('section_title must be a str, and generator callable')
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
        :param service_name: the program's name in the names of report files, else that of its script.
        :param log_dir: the directory for report files, which is not created. Without it, reports go to stderr.
        :param signum: the signal, else SIGUSR2.
        :param conf: the configuration to show; see GuruMeditation. If it has a group `oslo_reports`, the options
            `log_dir`, `file_event_handler` (a file to watch) and `file_event_handler_interval` there are the defaults.
        :param setup_signal: whether to install the signal handler.
        :param watch_file: a file or directory, which may be missing: a thread reports whenever it has been touched.
        :param watch_interval: how often to look at it, in seconds.
        :param instant_stacks: whether faulthandler prints the raw stacks of all threads at once, before the report.
        :raises ValueError: called outside the main thread, no such signal, or an interval that is no positive number.
        :raises TypeError: `conf` is neither a mapping nor an object with attributes.
        """
        if issubclass(type(conf), (str, bytes, int, float, list, set)):
            raise TypeError(f'conf must be a mapping or an object with attributes, not {type(conf).__name__}')
        report, option = cls(version, None, conf), functools.partial(_attempt, _oslo_option, conf)
        if watch_file is None:
            path, interval = option('file_event_handler'), option('file_event_handler_interval')
            watch_file = path if isinstance(path, (str, os.PathLike)) and path else None
            watch_interval = interval if type(interval) in (int, float) and interval > 0 else watch_interval
        if not isinstance(watch_interval, (int, float)) or not 0 < watch_interval < threading.TIMEOUT_MAX:
            raise ValueError(f'watch_interval must be a positive number of seconds, not {watch_interval!r}')
        report._service_name, report._watch_interval = service_name, watch_interval
        report._log_dir = log_dir and abspath(log_dir)  # a daemon changes its directory
        report._watch_file = abspath(watch_file) if watch_file else None
        for folder in (report._log_dir or option('log_dir'), dirname(report._watch_file or '')):
            if isinstance(folder, str) and folder and not isdir(folder):
                warnings.warn(f'there is no folder {folder} yet', RuntimeWarning, stacklevel=2)
        if not getattr(sys, '_is_gil_enabled', lambda: True)():
            warnings.warn('without the GIL, CPython may crash while it is asked', RuntimeWarning, stacklevel=2)
        signum = getattr(signal, 'SIGUSR2', None) if signum is None else signum
        if setup_signal and signum is None and not watch_file:
            warnings.warn('this platform has no SIGUSR2: pass signum or watch_file', RuntimeWarning, stacklevel=2)
        elif setup_signal and signum is not None:
            if signum not in signal.valid_signals() or _SIGNALS.get(signum) in ('SIGKILL', 'SIGSTOP'):
                raise ValueError(f'signum: there is no signal {signum!r} that can be handled')
            before = signal.signal(signum, report._on_signal)  # raises a ValueError outside the main thread
            before = next((old._installed[1] for old in _autorun if before == old._on_signal), before)
            report._installed = signum, before, instant_stacks
        for old in _autorun:
            old._stop_listening()
        if report._installed[2]:
            faulthandler.register(report._installed[0], file=2, all_threads=True, chain=True)
        _autorun[:] = [report]
        with contextlib.suppress(OSError):
            _stderr_at_setup[:] = [_os.fstat(2)]
        _register_hooks()
        report._start_watcher()

    def _stop_listening(self) -> None:
        """End the watcher, and put the signal handler before ours back."""
        self._stop.put(None)
        number, before, raw_stacks = self._installed
        if raw_stacks:
            faulthandler.unregister(number)
        if number and signal.getsignal(number) == self._on_signal:
            signal.signal(number, signal.SIG_DFL if before is None else before)

    def _start_watcher(self) -> None:
        if self._watch_file:
            self._stop = SimpleQueue()
            _start_thread(self._watch, self._watch_file, self._stop, _attempt(_os.stat, self._watch_file))

    def _watch(self, path: str, stop: SimpleQueue[None], seen: Any) -> None:
        """Make a report whenever the watched file has been touched, until told to stop."""
        while True:
            with contextlib.suppress(Empty):
                return stop.get(timeout=self._watch_interval)
            before, seen = seen, _attempt(_os.stat, path)
            if type(seen) is os.stat_result and seen.st_mtime_ns != getattr(before, 'st_mtime_ns', None):
                _Hold(self._report, None, 'a touched file', monotonic() + self.hold).wait()

    def _on_signal(self, signum: int, frame: types.FrameType | None) -> None:
        """Make a report while the interrupted code waits. It takes three frames of its stack, four under gevent."""
        self._again, now, hold = True, monotonic(), None
        if now - self._asked_at < _LOST:
            return  # who makes one now makes one more
        try:
            self._asked_at, self._again = now, False  # nor shall the watcher, who may be making one
            hold = _Hold(self._report, frame, _SIGNALS.get(signum, f'signal {signum}'), now + self.hold)
            hold.wait()
        except (RecursionError, MemoryError):  # the program has not even these three left
            pass
        finally:
            if not (hold and hold.begun):  # nor has it begun if another handler has raised here
                self._asked_at = -_LOST

    def run(self) -> str:
        """Return a report made now, from any thread: text or JSON, without an end of line. It waits for its turn."""
        _register_hooks()
        return _Hold(self._make, self.frame or sys._getframe(1), 'run()', monotonic() + 2 * _LOST).wait()

    def _report(self, hold: _Hold) -> None:
        """Make and deliver a report, and one more if a signal asks meanwhile. Nothing escapes, and nothing is lost."""
        while True:
            self._again = False
            try:
                text, timeout = self._make(hold), self.section_timeout
                log_dir = self._log_dir or hold.ask(_oslo_option, self.conf, 'log_dir', timeout=timeout)
                moment = strftime(self.timestamp_fmt, gmtime(time()))
                name = f'{self._service_name or self._program}_gurumeditation_{moment}_{_os.getpid()}{self._ending}'
                _deliver(hold, text, log_dir, name.replace(os.sep, '_'), self.delivery_timeout)
            except BaseException as error:  # SystemExit too: this thread would end without its duties
                _attempt(_write_stderr, hold, f'gmr: no report: {_error_text(error)}\n', self.delivery_timeout)
            self._asked_at = -_LOST  # before we look: a signal that comes now is seen, or begins a report of its own
            if not self._again:
                return
            self._asked_at = monotonic()

    def _make(self, hold: _Hold) -> str:
        text = self._render(_collect(self, hold, *_capture(hold)))
        return text if text.isascii() else text.encode('utf-8', 'backslashreplace').decode()


_autorun: list[GuruMeditation] = []  # the report that setup_autorun() has set up


@functools.cache
def _register_hooks() -> None:
    atexit.register(_at_exit)
    if hasattr(os, 'register_at_fork'):
        os.register_at_fork(after_in_child=_after_fork)


def _at_exit() -> None:
    """Wait for our threads: the exit would kill them, perhaps with a lock in their hands that it then wants."""
    for report in _autorun:
        report._stop.put(None)
    begun, hold = monotonic(), GuruMeditation.hold
    while len(_threads) > len(_calls) and monotonic() < begun + hold:  # who is late keeps its thread
        _pause(0.005)
        for call in list(_calls.values()) if monotonic() > begun + hold / 2 else ():
            call.answers.put(None)  # the report comes out without what is late


def _after_fork() -> None:
    """Forget, in a forked child, what its parent was making: the child has none of those threads."""
    global _turn
    _turn = _lock()
    for known in (_threads, _calls, _reading):
        known.clear()
    for hold in list(_holds):
        hold.end()
        hold.ring()
    for report in _autorun:
        report._asked_at = -_LOST
        report._start_watcher()


# -- Hold: the program waits, a second at most, and a native thread makes the report ---

_threads: set[object] = set()  # ours, that an exit waits for
_holds: set[_Hold] = set()  # that are under way: a forked child must put back what they have changed
_calls: dict[object, _Call] = {}  # of foreign code, that have not ended: what is late is not started again
_modules = sys.modules  # the program may replace that
_native: Any = _modules.get('__original_module__thread', _thread)  # as eventlet keeps it; gevent leaves these alone:
_start, _lock = _native.start_new, _native.allocate
_turn = _lock()  # who has it makes a report


def _start_thread(function: Callable[..., object], *arguments: object) -> int | None:
    """Start a native thread and return its identifier, or None if none can be had."""
    ours, size = object(), threading.stack_size(0)  # the system's own, since generators recurse; ours may be tiny
    _threads.add(ours)  # here, so that an exit sees it before it runs
    try:
        return None if sys.is_finalizing() else int(_start(_in_thread, (ours, function, *arguments)))
    except (RuntimeError, MemoryError):
        _threads.discard(ours)
        return None
    finally:
        threading.stack_size(size)


def _in_thread(ours: object, function: Any, *arguments: object) -> None:
    """Do all that one of our threads does: by this function it is known as ours, and not listed."""
    function(*arguments)
    _threads.discard(ours)


def _pause(seconds: float) -> None:
    """Wait natively, which time.sleep may not do under gevent and eventlet."""
    lock = _lock()
    lock.acquire()
    lock.acquire(True, seconds)


class _Hold:
    """One report: the thread that waits for it, the thread that makes it, and the one that runs foreign code for it."""

    def __init__(self, work: Callable[..., object], frame: types.FrameType | None, asked: str, until: float) -> None:
        self.work, self.frame, self.asked, self.until = work, frame, asked, until  # until: monotonic
        self.hub, self.is_main = _hub(), _thread.get_native_id() == _os.getpid()
        self.begun = self.made = False
        self.bell = _lock()  # wakes who waits; before CPython 3.13 a signal can make SimpleQueue.get() miss its time
        self.bell.acquire()
        self.green: deque[_Call] = deque()  # the calls that who waits is to run
        self.calls: Any = None  # a queue of them, to the helper
        self.helper: int | None = None
        self.before: tuple[bool, float] = (False, 0.0)  # the collector and the switch interval, to be put back
        self.result: Any = None

    def wait(self) -> str:
        """Let a native thread make the report, wait `until` its end at most, and return its text."""
        try:
            _holds.add(self)
            others = [one.before for one in list(_holds)]  # first: they put back theirs before they forget it
            collecting = any(one for one, _ in others) or gc.isenabled()
            self.before = collecting, max(sys.getswitchinterval(), *(interval for _, interval in others))
            gc.disable()  # a finalizer is foreign code, and may want a lock of the very thread that waits
            sys.setswitchinterval(min(_SWITCH_INTERVAL, self.before[1]))
            if _start_thread(self.make, _LOST) is None:  # everything happens here, as well as it can
                self.hub = None  # nobody is left to run green calls
                self.make(max(0.0, self.until - monotonic()))
            while not self.made and self.bell.acquire(True, max(0.0, self.until - monotonic())):
                while self.green:
                    call = self.green.popleft()
                    if monotonic() < call.until:
                        call.run_green(self.hub)
        finally:
            self.end()
        return self.result if type(self.result) is str else f'no report: {getattr(self.result, "error", "late")}'

    def make(self, patience: float) -> None:
        """Make the report when it is our turn: one at a time, but for one that has not ended and counts as lost."""
        global _turn
        self.begun = True  # from here on it is _report() that tells when it has ended
        turn = _lock() if self.hub else _turn  # green threads share a thread, and would wait for each other for ever
        if not turn.acquire(True, patience):
            turn = _turn = _lock()
            turn.acquire()
        self.result = _attempt(self.work, self)
        turn.release()
        if self.calls:
            self.calls.put(None)
        self.made = True
        self.ring()
        self.end()  # too: who waits may be torn from it by an exception

    def ring(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is rung already
            self.bell.release()

    def end(self) -> None:
        """Let the program go on, and put back what wait() has changed, but what it has set itself; twice, too."""
        self.made = True  # or nobody waits for it any more
        collecting, interval = self.before
        if interval > sys.getswitchinterval() <= 1.5 * _SWITCH_INTERVAL:
            sys.setswitchinterval(interval + 5e-7)  # CPython cuts it to microseconds
        if collecting:
            gc.enable()
        self.before = (False, 0.0)
        _holds.discard(self)

    def ask(self, function: Any, *arguments: Any, timeout: float, key: Any = None, green: bool = False) -> Any:
        """Return what foreign code, or a slow system call, returns within `timeout` seconds, or a _Failure.

        It runs in a helper thread, which serves all calls until one is late, but `green` code under gevent and eventlet
        in the thread that waits, and everything right here where no thread can be had.
        """
        key, green = key or (id(function), *map(id, arguments)), bool(green and self.hub)
        call = _calls.get(key)  # still at it for an earlier report: fifty reports must not leave fifty stuck threads
        if call is None:
            if not green and self.calls is None:  # first: who exits compares the numbers of threads and of calls
                self.calls = SimpleQueue()
                self.helper = _start_thread(deque, map(_Call.run, iter(self.calls.get, None)), 0)  # until None
            call = _calls[key] = _Call(key, min(self.until, monotonic() + timeout), function, *arguments)
            if green:
                self.green.append(call)
                self.ring()
            elif self.helper is None:  # no thread can be had
                return call.run()
            else:
                call.stack = lambda ident=self.helper: getattr(_capture_threads().get(ident), 'stack', ())
                self.calls.put(call)
            with contextlib.suppress(Empty):
                answer = call.answers.get(timeout=max(0.0, call.until - monotonic()) if green else timeout)
                if answer:
                    return answer[0]
            if green and not call.begun:
                _calls.pop(key, None)
                return _Failure('not asked: the program is not held any longer')
            if self.calls and not green:  # this helper ends when the call does
                self.calls.put(None)
                self.calls = None
        since = f'{strftime(_ISO_TIME, gmtime(call.since))} ({time() - call.since:.0f} s)'
        return _Failure(f'no answer in time: waiting or working since {since}', call.stack())


class _Call:
    """A call of foreign code, which may never end."""

    def __init__(self, key: object, until: float, function: Callable[..., Any], *arguments: Any) -> None:
        self.key, self.until, self.since, self.begun = key, until, time(), False
        self.work = functools.partial(_attempt, function, *arguments)
        self.answers: SimpleQueue[Any] = SimpleQueue()  # a tuple of its answer, or None: not in time
        self.stack: Any = tuple  # returns the stack of what it is at

    def run(self) -> Any:
        self.begun = True
        answer = self.work()
        _calls.pop(self.key, None)
        self.answers.put((answer,))
        return answer

    def run_green(self, hub: Any) -> Any:
        """Run it in a greenlet of its own, which may want a lock of the interrupted one. A timer comes back in time."""
        greenlet, loop = sys.modules['greenlet'], getattr(hub, 'greenlet', hub)  # gevent's hub is one, eventlet's has
        here, waiting = greenlet.getcurrent(), [True]
        green: Any = greenlet.greenlet(lambda: (self.run(), green.__setattr__('parent', here if waiting else loop)))
        if here is loop:  # in the hub's own greenlet, what waits raises
            return self.run()
        self.stack = lambda: next(_stacks([green.gr_frame]))
        left = max(0.0, self.until - monotonic())
        if loop is hub:
            timer = hub.loop.timer(left)
            timer.start(here.switch, self)
        else:
            timer = hub.schedule_call_global(left, here.switch, self)
        try:
            back = green.switch()
            if not (green.dead or back is self):  # a wake-up that the program has asked for: once more, when it waits
                again = hub.loop.run_callback if loop is hub else functools.partial(hub.schedule_call_global, 0)
                again(here.switch, back)
        finally:  # somebody may kill the greenlet that waits here; eventlet sets the parent of who waits to its hub
            waiting.clear()
            timer.close() if loop is hub else timer.cancel()
            self.answers.put(None)


def _hub() -> Any:
    """Return the hub of this thread if its locks or threads are gevent's or eventlet's, and not just wrapped."""
    lock, start = getattr(_thread.allocate_lock, '__module__', ''), getattr(_thread.start_new_thread, '__module__', '')
    if 'gevent.' in f'{lock} {start}':
        existing = _loaded('gevent._hub_local', 'get_hub_if_exists')
        return existing and existing()
    return getattr(_loaded('eventlet.hubs', '_threadlocal'), 'hub', None) if 'eventlet.' in f'{lock} {start}' else None


def _attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a step of the report returns, or a _Failure: its own, or that of the step before."""
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
        return _Failure(_error_text(error), tuple(reversed(steps)))


def _error_text(error: BaseException) -> str:
    """Return an exception's type and message."""
    try:
        name = f'{type(error).__module__}.{type(error).__qualname__}'.removeprefix('builtins.')
        return f'{name.removeprefix("__main__.")}: {_clean(_redact(str(error)[:_MAX_TEXT]))}'.removesuffix(': ')
    except BaseException:  # it runs foreign code
        return 'an exception without a text'


def _loaded(module: str, name: str) -> Any:
    """Return an attribute of a loaded module, or None: one that is half loaded lacks it, a lazy one stays lazy."""
    found = _modules.get(module)
    return found.__dict__.get(name) if type(found) in (types.ModuleType, types.SimpleNamespace) else None


# -- Capture: all stacks at one moment, in C ---

_CODE_AND_LINE = operator.attrgetter('f_code', 'f_lineno')
_registry: dict[int, Any] = threading._active  # type: ignore[attr-defined]  # without its lock: the program may hold it
_PENDING = None, 'PENDING'  # None: a task or future in Python has not stored it yet
_AWAITS = {  # the frame of an awaitable, and what it awaits itself
    types.CoroutineType: operator.attrgetter('cr_frame', 'cr_await'),
    types.GeneratorType: operator.attrgetter('gi_frame', 'gi_yieldfrom'),
    types.AsyncGeneratorType: operator.attrgetter('ag_frame', 'ag_await'),
}


def _walk(tops: Iterable[types.FrameType | None]) -> Iterator[Iterator[Any]]:
    """Yield for each top frame an iterator over its frames, the innermost first: top, top.f_back, top.f_back.f_back"""
    # In C: between two bytecodes of a loop other threads would run, and the outer frames be of a later moment.
    steps = map(itertools.chain, zip(tops), itertools.repeat(itertools.repeat('f_back')))
    walks: Iterator[Any] = map(itertools.accumulate, steps, itertools.repeat(getattr))
    return map(itertools.takewhile, itertools.repeat(bool), walks)


def _stacks(tops: Iterable[types.FrameType | None]) -> Iterator[_Stack]:
    return map(tuple, map(map, itertools.repeat(_CODE_AND_LINE), _walk(tops)))


def _capture(hold: _Hold) -> tuple[Any, ...]:
    """Return what threads, green threads and tasks are at, the exceptions that threads handle, and their deadlocks."""
    threads = {ident: one for ident, one in _capture_threads(hold.frame).items() if not one.ours}
    held = next((ident for ident, one in threads.items() if hold.frame in one.frames[:1]), None)
    hold.frame = None
    greenlets, tasks = _attempt(_capture_greenlets), _attempt(_capture_tasks, threads)
    errors, waits = _attempt(_capture_errors, threads), _attempt(_thread_waits, threads)
    known: Any = {held: threading.main_thread(), **_registry} if hold.is_main else _registry  # patched, it lacks main
    members = _attempt(_describe_threads, threads, held, waits, known)  # reads files: the other threads go on
    return members, greenlets, tasks, errors, _attempt(_deadlocks, waits, members, held)


def _capture_threads(interrupted: types.FrameType | None = None) -> dict[int, _Thread]:
    """What is each thread at, the oldest first? The interrupted one is shown from that frame."""
    collecting, threads = gc.isenabled(), {}
    gc.disable()  # on CPython 3.11 sys._current_frames() never ends if it is collected meanwhile
    try:
        # One dict() of C iterators asks for the frames, walks them and reads their lines: no thread moves on meanwhile.
        idents, *tops = itertools.tee(itertools.starmap(sys._current_frames, ((),)), 3)
        first, second = (itertools.chain.from_iterable(map(dict.values, top)) for top in tops)
        found = dict(zip(itertools.chain.from_iterable(idents), zip(map(tuple, _walk(first)), _stacks(second))))
    finally:
        if collecting:
            gc.enable()
    for ident, (frames, stack) in reversed(found.items()):
        outside = (at for at, (code, _) in enumerate(stack) if code.co_filename != _HERE)  # else it waits for a report
        start = frames.index(interrupted) if interrupted in frames else next(outside, len(stack))
        ours = any(code in (_in_thread.__code__, _answer.__code__) for code, _ in stack[-4:])  # above a debugger's
        threads[ident] = _Thread(frames[start:], stack[start:], ours)
    del frames, stack, found, idents, tops, first, second  # they hold this very frame: garbage in a cycle
    return threads


def _find_on_heap(*wanted: Any) -> list[Any]:
    """Return all objects of these types and of their subclasses. isinstance() asks o.__class__: foreign code."""
    kinds, metaclasses = list(filter(None, wanted)), [type]
    for some in (kinds, metaclasses):
        for kind in some:  # it grows
            some.extend(type.__subclasses__(kind))
    objects: list[Any] = gc.get_objects() if kinds else []
    types_of: Iterator[Any] = map(type, objects)
    if any(one.__hash__ is not object.__hash__ for one in metaclasses):  # foreign code too; this takes twice as long
        types_of, kinds = map(id, types_of), list(map(id, kinds))
    return list(itertools.compress(objects, map(set(kinds).__contains__, types_of)))


def _capture_greenlets() -> list[_Member]:
    """What is every green thread doing, or has it not yet begun? One that runs is a thread, and shown as that."""
    own = _loaded('greenlet', 'greenlet')  # a subclass may have its own gr_frame
    greenlets, members, before = _find_on_heap(own), list[_Member](), _Stack()
    for one, stack in zip(greenlets, _stacks(map(own.gr_frame.__get__, greenlets)) if greenlets else ()):
        before = before if stack == before else stack  # thousands may be alike: one is kept
        if stack or not (own.__bool__(one) or own.dead.__get__(one)):
            members.append(_Member('Green Thread', id(one), None, before, {}))
    return members


def _capture_tasks(threads: dict[int, _Thread]) -> list[_Member]:
    """What is every unfinished asyncio task doing, and which others does it wait for?"""
    tasks = _find_on_heap(_loaded('_asyncio', 'Task'), _loaded('asyncio.tasks', '_PyTask'))
    tasks, members = [one for one in tasks if _attempt(_stored, one, '_state') in _PENDING], []
    places = {frame: (ident, at) for ident, one in threads.items() if tasks for at, frame in enumerate(one.frames)}
    for task in tasks:
        for _ in range(3):  # the loop of another thread may go on between two frames: then once more
            chain = list(_await_chain(task))
            stack = tuple(_CODE_AND_LINE(frame) for _, frame in reversed(chain))
            if list(_await_chain(task)) == chain:
                break
        state, get_name = 'waiting', _stored(task, 'get_name')  # of a task that is written in C
        if chain and chain[0][1] in places:
            ident, at = places[chain[0][1]]
            state, stack = f'running in Thread #{ident}', threads[ident].stack[: at + 1]
        facts = {'name': str(get_name() if get_name else _stored(task, '_name')), 'state': state}
        members.append(_Member('Task', id(task), state.split()[0], stack, facts))
    locks = any(code.co_name == 'acquire' for one in members for code, _ in one.stack[:1])
    waits, names = _attempt(_task_waits, tasks, locks), {one.ident: one.facts['name'] for one in members}
    for one in members if type(waits) is dict else ():
        awaited = [names[id(task)] for task in waits.get(one.ident, ())]
        more = f' and {len(awaited) - 3:,} more' * (len(awaited) > 3)
        one.facts['waits_for'] = ', '.join(awaited[:3]) + more or None
    return members


def _stored(one: Any, name: str) -> Any:
    """Return what an object has stored under a name, or None: its class may have a property or a __getattribute__."""
    for kind in (_loaded('_asyncio', 'Task'), _loaded('_asyncio', 'Future')):
        if kind and issubclass(type(one), kind):
            return getattr(kind, name).__get__(one)
    return object.__getattribute__(one, '__dict__').get(name) if one is not None else None


def _await_chain(task: Any) -> Iterator[tuple[Any, types.FrameType]]:
    """Yield the coroutine of a task, or what behaves like one, and all that it awaits, each with its frame."""
    awaitable, seen = _stored(task, '_coro'), set()  # iter(function, coroutine) leads back to the coroutine
    while awaitable is not None and id(awaitable) not in seen:
        seen.add(id(awaitable))
        if type(awaitable) in _AWAITS:
            outer, (frame, awaitable) = awaitable, _AWAITS[type(awaitable)](awaitable)
            if frame is not None:
                yield outer, frame
        else:  # a step of an async generator, or of __await__(): only the collector knows what is in it
            awaitable = next((one for one in gc.get_referents(awaitable) if type(one) in _AWAITS), None)


def _capture_errors(threads: dict[int, _Thread]) -> dict[int, BaseException]:
    """Which exceptions do threads handle now, by their idents?"""
    current: dict[int, Any] = getattr(sys, '_current_exceptions', dict)()
    errors = {ident: one[1] if type(one) is tuple else one for ident, one in current.items()}  # before CPython 3.12
    if sys.version_info < (3, 10):  # it does not tell: those that are alive, and were caught by a function that runs
        for error in [one for one in gc.get_objects() if issubclass(type(one), BaseException)]:
            trace = BaseException.__dict__['__traceback__'].__get__(error)
            errors.update((ident, error) for ident, one in threads.items() if trace and trace.tb_frame in one.frames)
    return {ident: error for ident, error in errors.items() if ident in threads and error is not None}


def _describe_threads(threads: Any, held: int | None, waits: Any, known: Any) -> list[_Member]:
    """What is every thread doing, and for which other does it wait?"""
    members, readable = [], _attempt(_os.readlink, '/proc/self') == str(_os.getpid())  # not another namespace's
    for ident, thread in threads.items():
        one = known.get(ident)  # after a fork, what the main thread has stored is its parent's number
        own = {} if one is None else object.__getattribute__(one, '__dict__')
        native = _os.getpid() if one is threading.main_thread() else own.get('_native_id')
        facts = {'id': ident, 'name': own.get('_name'), 'daemon': own.get('_daemonic'), 'native_id': native}
        with contextlib.suppress(OSError, IndexError):
            stat = _read(f'/proc/self/task/{native}/stat') if readable else b''
            fields = stat.rpartition(b')')[2].decode().split(None, 13)  # the name before the state may hold anything
            facts['state'] = 'reporting' if ident == held else _STATES.get(fields[0], fields[0])
            facts['cpu_seconds'] = (int(fields[11]) + int(fields[12])) / _TICKS
        if type(waits) is dict and ident in waits:
            facts['waits_for'] = f'{waits[ident].what} {_stored(known.get(waits[ident].holder), "_name") or "a thread"}'
        members.append(_Member('Thread', ident, facts.get('state'), thread.stack, facts))
    return members


# -- Capture: who waits for whom ---
# Only what is certain, without foreign code: attributes as they are stored, locals of library functions alone.

_Wait = namedtuple('_Wait', 'what holder ever')  # 'the end of', a thread's ident, whether without a time limit
_LIBRARY = dirname(os.__file__) + os.sep
_RUNS = re.compile(rb'\n(?:State|\w+_ctxt_switches):\t(\w+)')  # a thread's state, and how often it has run
_THREAD_WAITS = {  # functions in which a thread waits, and the attribute of `self` that tells for whom
    '<frozen importlib._bootstrap>:acquire': 'owner',
    'threading.py:join': '_ident',
    'threading.py:__enter__': '_lock',  # of a Condition
    'threading.py:wait': '_lock',
    'logging/__init__.py:acquire': 'lock',
    'logging/__init__.py:handle': 'lock',  # since CPython 3.13; a later instruction of that line gives it back
    'concurrent/futures/_base.py:result': '_state',
}


def _function(code: types.CodeType) -> str:
    """Return `file:function`, the file within the library. What a program puts in its place is in another file."""
    return f'{code.co_filename.removeprefix(_LIBRARY)}:{code.co_name}'


def _thread_waits(threads: dict[int, _Thread]) -> dict[int, _Wait]:
    """Which thread certainly waits for which other one, and for what of it?"""
    found = {ident: _attempt(_thread_wait, threads, *one.frames[:2]) for ident, one in threads.items()}
    waits = {one: wait for one, wait in found.items() if type(wait) is _Wait and wait.holder in threads.keys() - {one}}
    now = _capture_threads() if waits else {}  # whose call has not ended, maybe below a signal handler, did wait then
    return {one: wait for one, wait in waits.items() if one in now and threads[one].frames[0] in now[one].frames}


def _thread_wait(threads: dict[int, _Thread], frame: types.FrameType, *outer: types.FrameType) -> _Wait | None:
    function = _function(frame.f_code)
    if function in ('threading.py:wait', 'threading.py:_wait_for_tstate_lock') and not frame.f_locals.get('gotit'):
        frame = outer[0]  # it waits for a notice, not yet for the lock; or it is in join(), before CPython 3.13
    attribute, code = _THREAD_WAITS.get(_function(frame.f_code), ''), frame.f_code
    names = frame.f_locals if attribute else {}
    this, timeout, found = names.get('self'), names.get('timeout'), _stored(names.get('self'), attribute)
    if attribute == 'owner' or (attribute == '_ident' and _registry[found] is this):  # an ident is used again
        what = 'the end of' if attribute == '_ident' else f'the import of {_stored(this, "name")} by'
        return _Wait(what, found, timeout is None)
    if attribute == '_state' and found == 'RUNNING':  # the fifth function of a pool's thread is that of the work item
        runs = ((ident, run) for ident, one in threads.items() for run in one.frames[-5:-4])
        works = ((ident, run) for ident, run in runs if _function(run.f_code) == 'concurrent/futures/thread.py:run')
        ident = next(ident for ident, run in works if run.f_locals['self'].future is this)
        return _Wait(f'Future at {id(this):#x} run by', ident, timeout is None)
    starts = [start for start, _, line in code.co_lines() if line == frame.f_lineno] if code.co_name == 'handle' else []
    if type(found) is not _thread.RLock or (code.co_name == 'handle' and frame.f_lasti >= starts[1]):
        return None
    owner = _thread.RLock.__repr__(found).partition(' owner=')[2].split()[0]
    return _Wait(f'RLock at {id(found):#x} held by', int(owner), True)


def _deadlocks(waits: dict[int, _Wait], members: list[_Member], held: int | None) -> list[list[int]]:
    """Which threads wait for each other in a circle, found twice while each slept or is `held`?"""
    waits = {one: wait for one, wait in waits.items() if wait.ever and wait.holder in waits}
    natives = {one.ident: one.facts['native_id'] for one in members}
    stamp = functools.partial(_attempt, lambda one: _RUNS.findall(_read(f'/proc/self/task/{natives[one]}/status')))
    stamps, circles = {one: stamp(one) for one in waits}, []
    again = _thread_waits(_capture_threads()) if waits else {}
    slept = [one for one, before in stamps.items() if before[0] == b'S' and before == stamp(one)]
    still = {one: wait.holder for one, wait in waits.items() if again.get(one) == wait and one in [*slept, held]}
    while still:
        path = list(still)[:1]
        while path[-1] in still:
            path.append(still.pop(path[-1]))
        if path[-1] in path[:-1]:
            circles.append(path[path.index(path[-1]) : -1])
    return circles


def _task_waits(tasks: list[Any], locks: bool) -> dict[int, list[Any]]:
    """Which tasks does each task certainly wait for, by its id? With `locks`, also for one that holds a lock."""
    awaited = {id(task): _stored(task, '_fut_waiter') for task in tasks}
    fillers = {id(task): [task] for task in tasks}  # the tasks that end this task or future, by its id
    for task in tasks:
        reached = [task]
        for future in itertools.chain.from_iterable(map(_filled_by, reached)):  # it grows
            some = fillers.setdefault(id(future), [])
            if id(future) not in awaited and not (some and some[-1] is task):
                some.append(task)
                reached.append(future)
    held = [(lock, task) for task in tasks for lock in _held_by(task)] if locks else []
    holders = Counter(id(lock) for lock, _ in held)
    for lock, task in held:
        if holders[id(lock)] == 1 and (_stored(lock, '_locked') or _stored(lock, '_value') == 0):
            fillers.update((id(future), [task]) for future in list(_stored(lock, '_waiters') or ()))
    still = {id(task) for task in tasks if _stored(task, '_fut_waiter') is awaited[id(task)]}  # others have moved on
    waits = {one: fillers[id(future)] for one, future in awaited.items() if one in still and id(future) in fillers}
    return {one: by for one, by in waits.items() if id(by[0]) in still and _stored(awaited[one], '_state') in _PENDING}


def _filled_by(ended: Any) -> Iterator[Any]:
    """Yield the futures of gather, wait, as_completed and the like that the callbacks of a task or future fill."""
    kinds = _loaded('_asyncio', 'Future') or type, _loaded('asyncio.futures', '_PyFuture')
    for callback, _ in _stored(ended, '_callbacks') or ():
        function = callback.func if type(callback) is functools.partial else callback
        function = function.__func__ if type(function) is types.MethodType else function
        if type(function) is types.FunctionType and _function(function.__code__).startswith('asyncio/'):
            owner, inside = getattr(callback, '__self__', function), gc.get_referents(*(function.__closure__ or ()))
            some = [*inside, *getattr(callback, 'args', ()), *vars(owner).values()]
            some += gc.get_referents(*(one._getters for one in some if type(one) is _loaded('asyncio.queues', 'Queue')))
            yield from (one for one in some if issubclass(type(one), kinds))


def _held_by(task: Any) -> Iterable[Any]:
    """Return the locks and semaphores of asyncio that a task has, also those of conditions."""
    chain, leave = list(_await_chain(task)), _loaded('asyncio.locks', 'Lock').__aexit__
    values = gc.get_referents(*itertools.chain.from_iterable(chain))  # before CPython 3.11 it is the frame that holds
    guards = [one.__self__ for one in values if type(one) is types.MethodType and one.__func__ is leave]
    guards += [this for one, this in zip(values, values[1:]) if one is leave]  # since CPython 3.14
    held = {id(lock): lock for lock in (_stored(one, '_lock') or one for one in guards)}
    if held and _function(chain[-1][1].f_code).startswith('asyncio/locks.py:'):
        this = chain[-1][1].f_locals['self']  # it waits for this lock, or for a notice and then for its lock
        held.pop(id(_stored(this, '_lock') or this), None)
    return held.values()


# -- Collect: plain data of everything ---


def _collect(report: GuruMeditation, hold: _Hold, *captured: Any) -> list[tuple[str, object]]:
    """Return the titles and the plain data of all sections. A section that fails is a _Failure."""
    ask, frames = functools.partial(hold.ask, timeout=report.section_timeout), _Frames()
    threads, greenlets, tasks, errors, deadlocks = captured
    known = {one.ident: one for one in threads} if type(threads) is list else {}
    texts = errors and ask(lambda: {ident: _line(_error_text(one)) for ident, one in errors.items()}, key='errors')
    for ident in known.keys() & (texts if type(texts) is dict else ()):
        known[ident].facts['handling'] = texts[ident]
    sections: dict[str, Any] = {'Package': ask(_collect_package, report.version, green=True)}
    for title, members in (('Threads', threads), ('Green Threads', greenlets), ('Asyncio Tasks', tasks)):
        if members or (title == 'Green Threads' and _loaded('greenlet', 'greenlet')):
            sections[title] = _attempt(_entries, members, frames)
    sections['Processes'] = _attempt(_collect_processes, ask)
    sections['Configuration'] = ask(_collect_configuration, report.conf, green=True)
    registered = [(title, ask(_collect_registered, one, green=True)) for title, one in list(report._sections.items())]
    cycles = deadlocks if type(deadlocks) is list else []
    glance = _attempt(_collect_glance, report._program, hold.asked, sections, known, cycles)
    found = [('At a Glance', glance), *sections.items(), *registered]
    result = [(at, one._replace(stack=frames.stack(one.stack)) if type(one) is _Failure else one) for at, one in found]
    ask(frames.read_source, key=object())
    return result


def _entries(members: list[_Member], frames: _Frames) -> list[_Entry]:
    """Return one entry for all members of a kind that have the same stack, in the order in which they were found."""
    entries, groups = [], dict[tuple[object, ...], list[_Member]]()
    for (kind, stack), alike in itertools.groupby(members, operator.attrgetter('kind', 'stack')):  # thousands in a row
        groups.setdefault((kind, *frames.stack(stack)), []).extend(alike)
    for (kind, *stack), group in groups.items():
        if kind != 'Green Thread' and len(group) > 1:  # worker-10 after worker-9
            group.sort(key=lambda one: [part.zfill(20) for part in re.split(r'(\d+)', str(one.facts['name']))])
        shown, state = list(map(_member_facts, group[:_MAX_MEMBERS])), group[0].state
        if len({one.state for one in group}) > 1:
            state = ', '.join(f'{count:,} {one}' for one, count in Counter(one.state for one in group).items())
        waits_for = next((one['waits_for'] for one in shown if 'waits_for' in one), None)
        others = ' and others' * (len({one.facts.get('waits_for') for one in group}) > 1)
        entries.append(_Entry(kind, len(group), state, waits_for and waits_for + others, shown, stack))
    return entries


def _member_facts(member: _Member) -> dict[str, Any]:
    facts = {key: one for key, one in member.facts.items() if one is not None}
    foreign = {key: _line(_redact(str(facts[key]))) for key in ('name', 'waits_for') if key in facts}
    return {'name': f'#{member.ident}' if 'id' in facts else f'at {member.ident:#x}', **facts, **foreign}


def _collect_glance(program: str, asked: str, sections: Any, threads: dict[int, _Member], cycles: Any) -> _Glance:
    """What would one look up first: who is it, what is certainly wrong, and where does everything stand?"""
    package, facts = (sections[one] if type(sections[one]) is dict else {} for one in ('Package', 'Processes'))
    name = f'{package.get("product") or program} {package.get("version") or ""}'.strip()
    process = {'program': _line(name), 'pid': _os.getpid(), 'host': _HOST, 'asked by': asked}
    process.update(uptime=facts.get('uptime'), time=facts.get('time'))
    findings, rows, stuck = [], [], set().union(*cycles)
    for cycle in cycles:
        members = [_member_facts(threads[ident]) for ident in cycle]
        waits = ', which waits for '.join(one['waits_for'] for one in members)
        findings.append(f'deadlock: {members[0]["name"]} waits for {waits}')
    for entry in [entry for section in sections.values() if type(section) is list for entry in section]:
        innermost: Any = next((one for one in reversed(entry.stack) if type(one) is _Frame), None)
        frame = next((one for one in reversed(entry.stack) if type(one) is _Frame and one.own), innermost)
        for one in [one for one in entry.members if ' in Thread #' in one.get('state', '')]:  # a task that runs
            loop = _member_facts(threads[int(one['state'].partition('#')[2])])['name']
            findings.append(f'event loop of {loop} is in task {one["name"]}: {innermost.where}')
        state, found = str(entry.state), any('handling' in one or one.get('id') in stuck for one in entry.members)
        rank = ('running' in state, 'reporting' in state, found, bool(frame and frame.own), True).index(True)
        who = entry.members[0]['name'] + (f' and {entry.count - 1:,} more' if entry.count > 1 else '')
        rows.append((rank, _Row(entry.kind, entry.count, entry.state, frame, entry.waits_for, f'({who})')))
    used, _, limit = facts.get('open files', '').partition(' of ')
    if limit.isdigit() and int(used) > 0.9 * int(limit):
        findings.append(f'open files = {used} of {limit}')
    for error in sorted({one.facts['handling'] for one in threads.values() if 'handling' in one.facts}):
        names = [_member_facts(one)['name'] for one in threads.values() if one.facts.get('handling') == error]
        count = f'{len(names)} threads handle' if len(names) > 1 else '1 thread handles'
        findings.append(f'{count} {error[:_MAX_LINE]}  ({names[0]}{" and others" * (len(names) > 1)})')
    return _Glance(process, findings, [row for _, row in sorted(rows, key=lambda one: (one[0], -one[1].count))])


# -- Collect: frames and their source lines ---

_NOISE = {id(getattr(threading.Thread, name).__code__) for name in ('_bootstrap', '_bootstrap_inner', 'run')}
_NOISY_FILES = _HERE, '<frozen importlib', '<frozen runpy', f'{_LIBRARY}runpy.py'
_LIBRARIES = re.compile(rf'{re.escape(_LIBRARY)}|.*[/\\](?:site|dist)-packages[/\\]|<frozen ')
_CODING = re.compile(rb'(?:.*\n)?[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)')  # PEP 263
_reading: set[str] = set()  # files that helpers are reading now, perhaps on a dead mount and for ever


class _Frame:  # as plain data; its source line comes last, when all the files that are needed are known
    def __init__(self, code: types.CodeType, line: int | None) -> None:
        self.path, self.line = code.co_filename, line or 0
        file, name = _line(self.path), _line(getattr(code, 'co_qualname', code.co_name))  # CPython 3.11
        self.facts = {'file': file, 'line': self.line, 'name': name, 'code': None}
        self.where = f'{file}:{self.line} in {name}'
        self.text = f'\n{self.where}\n    (source not found)'
        self.noise = id(code) in _NOISE or self.path.startswith(_NOISY_FILES)  # tells nothing
        self.own = not _LIBRARIES.match(self.path)  # the program's


class _Frames(dict[tuple[int, int], _Frame]):  # of one report, by the id of its code, whose hash is slow, and its line
    def stack(self, stack: _Stack) -> list[Any]:
        """Return a captured stack as plain data, oldest frame first, without the frames that tell nothing."""
        pairs = [((id(code), line), code) for code, line in reversed(stack)]
        frames: list[Any] = [self.get(key) or self.setdefault(key, _Frame(code, key[1])) for key, code in pairs]
        frames = [frame for frame in frames if not frame.noise] or frames
        if len(set(frames)) == len(frames):
            return frames
        letters, result = {frame: chr(number) for number, frame in enumerate(set(frames))}, []
        for row in re.finditer(r'(?s)(.{1,3}?)\1{2,}|(.{1,3}?)\2+|.', ''.join(map(letters.__getitem__, frames))):
            size = len(row[row.lastindex or 0])  # of one period: the shortest that stands three times, else twice
            result += frames[row.start() : row.start() + size]
            result += [_Repeated(size, len(row[0]) // size)] if row.lastindex else []
        return result

    def read_source(self) -> None:
        """Read all source lines, but none from a folder where a helper of an earlier report is stuck."""
        stuck, read = set(map(dirname, list(_reading))), functools.cache(_read_lines)
        for frame in [one for one in self.values() if dirname(one.path) not in stuck]:
            _reading.add(frame.path)
            lines = _attempt(read, frame.path)
            _reading.discard(frame.path)
            text = ''.join(lines[frame.line - 1 : frame.line]).lstrip('\ufeff').strip() if type(lines) is list else ''
            if text:
                code = frame.facts['code'] = _line(_redact(text[:_MAX_LINE], literals=True))
                frame.text = f'\n{frame.where}\n    `{code}`'


def _read_lines(path: str) -> list[str]:
    """Return the lines of a source file. linecache would wait for ever on a FIFO, and keep all that it reads."""
    archives = [one for one in list(sys.path_importer_cache.items()) if type(one[1]).__module__ == 'zipimport']
    loader: Any = next((one for folder, one in archives if path.startswith(folder + os.sep)), None)
    data = loader.get_data(path) if loader else _read(path) if isfile(path) and getsize(path) < _MAX_SOURCE else b''
    declared = _CODING.match(data)
    return io.StringIO(data.decode(declared[1].decode() if declared else 'utf-8', 'replace'), None).readlines()


def _read(path: str) -> bytes:
    with io.FileIO(path) as file:  # a patched open() may be a green one
        return file.readall()


def _clean(text: str, control: str = r'[\0-\x08\x0b-\x1f\x7f-\x9f]') -> str:
    """Return a text without the control characters that would move the cursor of the terminal that shows it."""
    return text if text.isprintable() else re.sub(control, lambda match: f'\\x{ord(match[0]):02x}', text)


_line = functools.partial(_clean, control=r'[\0-\x1f\x7f-\x9f]')  # a text that stays on its line


SECRET_NAMES = (  # A value is hidden whose name, in lower_snake_case, ends so. A program may replace it.
    r'(?:(?:pass(?:w(?:or)?d|_?phrase)?|secret|token|cookie|api_?key|\w_key)s?|sess\w*id|(?:^|_)(?:pwd?|jwt|otp|dsn'
    r'|auth(?:orization)?|cred(?:ential)?s?|sig(?:nature)?|sid|salt|sessions?))'
    r'(?:_?\d|_(?:fallbacks|data|base|hash|value|old|new|prod|dev|test|confirm\w*))*$'  # token2, SECRET_KEY_OLD
)
_ASKED = r'^(?:no|is|has|use|with|max)_|(?:by|com)pass$|(?:primary|foreign|public|sort|cache|part\w*|routing)_keys?$'
_VAGUE = r'(?:tokens|sessions?|cookies|auth|sig|sid|signature|salt)\d?$'  # sessions: 12, auth: ok; hidden if random
_PLAIN = r'\d{4}-\d\d|v?\d+\.\d|/?[\w.-]*/[\w.-]*/|\w+://|\w+\.\w+\.|\d+\w?\w?\b'  # time, version, path, size
_RANDOM = rf'(?<![\w./:-])(?!{_PLAIN})(?=[^\s,"\'(<]{{,32}}\d)(?=[^\s,"\'(<]{{,32}}[A-Za-z])[^\s,;"\']{{6,}}'
_UNSET = r'(?is:\W*|\d{1,3}|(?:\w+ )?(?:none|null|true|false|yes|no|unset|missing|x{3,}|set\(\)|%\(?\w*\)?[srd]))$'
_ELSEWHERE = rf'{_UNSET}|(?i:bearer |basic )?(?:\$(?:[A-Z_][A-Z\d_]*\b|[({{])|{{\w[\w.]*}}|<[^<>]*>$)|[/~][a-z/._-]*$'
_STATED = r'(?i)\b(?:(?:is|has|must|not|no|for|in|of|to|the|an?|def) |(?:ok|required|invalid|\w+ed|\w+ing|str)\W*$)'
_SHAPES = r"""(?x)  # What the group of a row holds is secret.
  ://[^\s/:@"'?\#\[]{,99}:(?!//|\d+[/?\#])([^\s"'<>]{1,99}?)(?=@(?:[\w-]+\.[\w.-]|localhost|[\w-]+:\d))  # u:p/w@h.org
| ://(?:[^\s/:@"'?\#\[]{,99}:(?!//|\d+[/?\#]|\W?\{|%s)|(?=[\w-]{20}))([^\s/"'<>]{1,256})(?=@)  # user:password@, token@
| -----BEGIN[ ][A-Z ]{,32}PRIVATE[ ]KEY[A-Z ]{,8}-----(?=\s|\\)([^\x1e]*?(?:-----END[^-]*-----|(?=\x1e|\Z)))  # PEM
| (?:\$(?:apr1|2[abxy]|[156y])\$|/bot\d{6,12}:|/webhooks/\d{1,32}/|/services/T\w+/)([\w./$=,+-]{10,})  # hashes, chats
| ((?:eyJ|A[KS]IA|AIza|gh[a-z]_|npm_|hf_|github_pat_|whsec_|dop_v1_|[rs]k_live_)(?=[a-zA-Z.]{,40}\d)[\w.-]{16,})  # JWT
| \b((?:sk-|xox[a-z]-|xapp-|gl[a-z]{2,5}[-_]|hvs\.|ya29\.|SG\.)(?=[A-Za-z_-]{,32}\d)[\w.-]{9,})  # OpenAI, Slack, GitLab
| \b(?i:bearer|basic)[ ](?=[^\s\d=]{,64}[\d=])([\w+/.~=-]{8,})"""  # credentials in a header
_SPOKEN = rf'(?i)\b(?:pass\w+|token|secret|key)(?: (?:\w+ ){{,2}}\w*(?:is|as|to|ed))?:? \W?({_RANDOM})'  # the key is
_CURL = r'curl\s[^\n|;]{,200}?-(?:u|-user)[\s=]?[\'"]?[^\s:]{,64}:([^\s\'"]+)'  # curl -u user:password
_LOGIN = r'(?:login|sshpass|redis-cli|mysql\w*)\s(?:[^\n|;]{,200}?\s)?-[pa]\W{,2}([^\s\'"]+)'  # mysql -ppassword
_EQUAL = r'\\*["\']?\]?(?:[\s,{]{1,40}\\*["\']?(?:value|default)\\*["\']?)?\s{,32}(?:=>|:=|[!=]?=|:(?!:|//))[ \t]*'
_SIGN = rf'(?:{_EQUAL}|\\*["\'],\s?(?=\w?\\*["\']))'  # "name": , ('name', "name" value=
_NAME = rf'((?<![^\n\x1e])[ \t<>*"]*(?:- )?)?(-{{,2}})\b([A-Za-z_][\w.-]*)({_SIGN}|["\']?>|[ \t\x1e]+(?!-|[\w.-]+=))?'
_STRING = r'(?P<end>\\{,9}["\'])(?P<body>[^\\"\'\x1e]*(?:(?:(?!(?P=end))\\?[^\x1e]|(?P=end){2})[^\\"\'\x1e]*){,9999})'
_LITERAL = rf'{_NAME}|(?!["\'][\w.-]+["\']\]?\s?(?:!?[:=]|,\s?\w?["\'])){_STRING}(?P=end)?'  # ?, else 2**n tries
_NEST = r'[\[({](?:[^][(){}\x1e]+|[\[({][^][(){}\x1e]*[\])}])*(?:[\])}]|[^\n\x1e]*)'  # brackets, one inside another
_BLOCK = r'[|>]?[-+\d]*[ \t]*\n([ \t]*(?:[ \t]|- ))[^\n]*(?:\n\1[^\n]*){,99}'  # lines that are indented or listed
_HEADER = r'(?i:(?<=cookie:|ookie: |zation:|ation: ))(?:[^=\n\x1e"\'\\]+|=(?:"[^"\n]*")?)*'  # Cookie: a=b; c=d
_BARE = rf'{_HEADER}|{_BLOCK}|(?<=>)[^<]{{1,512}}(?=</)|(?:[^\s,;&)\]}}>"\'<|\\]+|[,;&](?![\w."\'-]+[=:]|\s|$))*'
_WORDS = rf'(?:(?! -)[^\n\x1e=:,;|&"\'(){{}}<>\[\]]){{1,512}}(?=[\n\x1e]|\Z)|{_BARE}'  # the rest of a line, if words


def _hidden_by_name(name: str, value: object) -> bool:
    """Tell whether plain data is hidden for what its name ends in: not if it is unset, a count or a reference."""
    snake = re.sub(r'[\W_]+|(?<=[a-z\d])(?=[A-Z])', '_', name[-99:]).strip('_').lower()
    if not value or not re.search(SECRET_NAMES, snake) or re.search(_ASKED, snake):
        return False
    text = str(value)[:256]
    return not (re.match(_ELSEWHERE, text) or (re.search(_VAGUE, snake) and not re.search(_RANDOM, text)))


def _redact(text: str, literals: bool = False) -> str:
    """Hide the secrets inside a longer text; in source code only `literals`, since an expression is no secret."""
    for shape in (_SHAPES, _SPOKEN, _CURL, _LOGIN):
        text = re.sub(shape, lambda found: found[0].removesuffix(found[found.lastindex or 0]) + _HIDDEN, text)
    pieces, done = [], 0
    for found in re.finditer(_LITERAL if literals else _NAME, text):  # no literal, but a name: ['token'] =
        if found.start() >= done and (found[4] or not found[3]):
            first, last = _secret_after(found, literals) if found[3] else found.span()
            if first < last:
                pieces += [text[done:first], _HIDDEN if found[3] else _redact(found[0])]
                done = last
    return ''.join([*pieces, text[done:]])


def _secret_after(found: Any, literals: bool) -> tuple[int, int]:
    """Return where the secret that this name leads to begins and ends, or (0, 0)."""
    (start, dashes, name, lead), text, first = found.group(1, 2, 3, 4), found.string, found.end()
    sign, head = lead.strip('\\"\' \t\x1e]'), text[first : first + 256]
    if not _hidden_by_name(name, head):
        return 0, 0
    skipped = r'(?:[\w. \[\]=]{,40}[ =])?' if literals else ''  # password: str = 'p', not password = options['key']
    quoted: Any = re.compile(rf'{skipped}([\w.]{{1,64}}\()?\w{{,2}}{_STRING}').match(text, first)
    nest, begins = sign and head[:1] in ('[', '(', '{'), start is not None and (sign or dashes)  # begins: its line
    if quoted:
        (first, last), meant = quoted.span('body'), sign or dashes or 'pass' in name.lower()
        sure: Any = (meant and not quoted[1]) or re.search(_RANDOM, quoted['body'][:256])
    elif not nest and (literals or re.match(r'[A-Za-z_][\w.]*\(|[a-z_]+(?:\.[a-z_]+)+(?!\S)', head)):  # ask(), a.token
        return 0, 0
    else:
        value: Any = re.compile(_NEST if nest else _WORDS if begins else _BARE).match(text, first)
        last, word = value.end(), value[0][:256].strip()
        told = lead[-1] == ' ' and (re.search(_STATED, word) or (sign == ':' and text.startswith(' ', last)))
        shallow = value.lastindex and len(value[1]) <= len(start or '')
        sure = not shallow and (nest or re.search(_RANDOM, word) or (not told if sign else dashes))
    return (first, last) if sure and _hidden_by_name(name, text[first : min(last, first + 256)]) else (0, 0)


def _redact_arguments(arguments: list[str]) -> list[str]:
    return _redact(''.join('\x1e' + argument.replace('\x1e', ' ') for argument in arguments)).split('\x1e')[1:]


# -- Collect: foreign objects become plain data, and the sections of it ---

_MAX_DEPTH = 50  # of one section
_MAX_OPEN = 3  # levels down to which a plain object is opened: what is below is the program itself
_MAX_TEXT = 1 << 24  # characters of one text in a section
_MAX_BITS = 2048  # of an int: the digits of a longer one may be forbidden (sys.set_int_max_str_digits)
_CONTAINERS = (list, tuple, set, frozenset, deque, range, MappingView)  # to iterate one of these consumes nothing
_RECORDS = '__dataclass_fields__', '__attrs_attrs__', '__pydantic_fields_set__', '_get_kwargs'  # the last: argparse's
_CODE = type, types.ModuleType, types.BuiltinFunctionType, _Failure  # are no options; a _Failure is an empty slot


def _attributes(value: Any, depth: int = 0) -> Any:
    """Return a mapping of what a mapping or record holds, or None. At depth 0, as a configuration, all are."""
    kind: Any = type(value)  # isinstance() would ask the object
    if issubclass(kind, Mapping):
        return value
    if issubclass(kind, tuple) and hasattr(kind, '_fields'):
        return dict(zip(kind._fields, value))
    record = issubclass(kind, types.SimpleNamespace) or any(hasattr(kind, mark) for mark in _RECORDS)
    silent = kind.__repr__ is object.__repr__ and kind.__str__ is object.__str__ and not hasattr(kind, '__iter__')
    if hasattr(kind, 'mock_add_spec') or not (depth == 0 or record or (silent and depth <= _MAX_OPEN)):
        return None  # whatever one asks of a mock, it makes
    owner = value if issubclass(kind, type) else kind
    found = {name: one for base in reversed(owner.__mro__) for name, one in list(vars(base).items())}
    own = {name: _attempt(one.__get__, value) for name, one in found.items() if type(one) is types.MemberDescriptorType}
    own.update(vars(value) if kind.__dictoffset__ and owner is kind else {})
    wrapped = own.get('_wrapped', own.get('default_settings'))  # by Django's lazy settings, and their defaults
    found = {**({} if record else found), **((wrapped is not None and _attributes(wrapped)) or {}), **own}
    home, options = found.get('__module__', found.get('__name__')), {}
    for name, one in found.items():
        group = issubclass(type(one), type) and (one.__module__, one.__name__) == (home, name)  # `class database:`
        code = not (group or record) and (issubclass(type(one), _CODE) or hasattr(type(one), '__get__'))
        private = str(name).startswith('__' if name in own else '_') or (wrapped is not None and not name.isupper())
        if not (code or private):
            options[name] = _attributes(one) if group else one
    return options or None


class _Converter:
    left = 100_000  # items that its section may still hold, keys too: a generator may return an endless iterator

    def convert(self, value: Any, above: tuple[int, ...] = (), iterate: bool = False) -> Any:
        """Return plain data for a foreign object. What is not known is not taken apart: it may be an open file."""
        self.left -= 1
        kind = type(value)
        if value is None or kind in (bool, int) or (kind is float and math.isfinite(value)):  # JSON has no NaN
            return f'(int of {value.bit_length():,} bits)' if kind is int and value.bit_length() > _MAX_BITS else value
        if id(value) in above or len(above) > _MAX_DEPTH:
            return '(itself)' if id(value) in above else '(too deep)'
        above = (*above, id(value))
        try:
            if kind is _Failure or hasattr(kind, 'mock_add_spec'):  # a mock records what is done to it, even str()
                value = f'({value.error})' if kind is _Failure else repr(value)
            elif issubclass(kind, (bytes, bytearray, memoryview)):
                value = bytes(value[:_MAX_TEXT]).decode('utf-8', 'backslashreplace')
            elif hasattr(kind, 'set_current_view_type'):  # a model of oslo.reports
                value.set_current_view_type('text')
            elif not issubclass(kind, (str, int, float)):
                attributes = _attributes(value, len(above))
                if attributes is not None:
                    return self.mapping(attributes, above)
                if issubclass(kind, _CONTAINERS) or (iterate and type(_attempt(iter, value)) is not _Failure):
                    return self.sequence(value, above)  # numpy's arrays without dimensions only say that they can
            text = str.__str__(str(value))  # no subclass of str
            self.left -= len(text) >> 8
            return _clean(_redact(text if len(text) <= _MAX_TEXT else f'{text[:_MAX_TEXT]}... (cut)'))
        except BaseException as error:
            return f'({_error_text(error)})'

    def mapping(self, value: Any, above: tuple[int, ...] = ()) -> dict[str, Any]:
        """Return the plain data in a mapping. It is asked for no other names than it has: it may create them."""
        result: dict[str, Any] = {}
        plain = issubclass(type(value), dict) and type(value).__getitem__ is dict.__getitem__
        for key in list(self.first(type(value).items(value) if plain else value)):
            key, item = key if plain else (key, _attempt(operator.getitem, value, key))
            name, shown = _line(str(self.convert(key, above))), self.convert(item, above)
            if self.left < 0:
                result['...'] = '(cut)'
                break
            hidden = _hidden_by_name(name, shown) and (above or type(shown) is not dict)  # no group of a configuration
            while name in result:  # 1 and '1', b'two' and 'two'
                name += f' ({len(result)})'
            result[name] = _HIDDEN if hidden else shown
        if _hidden_by_name(str(result.get('name', result.get('key'))), result.get('value')):
            result['value'] = _HIDDEN  # {'name': 'DB_PASSWORD', 'value': ...}
        return result

    def sequence(self, value: Any, above: tuple[int, ...]) -> list[Any]:
        """Return the plain data for items, without the argument after --password and the second of ('token', ...)."""
        items: list[Any] = []
        failure = _attempt(items.extend, self.first(value))  # keeps what comes before
        items += [] if failure is None else [failure]
        if {str} == set(map(type, items)) and any(item.startswith('-') for item in items):
            items = _redact_arguments(items)
        result: list[Any] = [self.convert(item, above) for item in items if self.left >= 0]
        if len(result) == 2 and type(result[0]) is str and _hidden_by_name(result[0], result[1]):
            result[1] = _HIDDEN
        return result if self.left >= 0 else [*result, '... (cut)']

    def first(self, value: Iterable[Any]) -> Iterator[Any]:
        """Return as many items as may be left: from iter() to the last in one C pass, since threads may change them."""
        return itertools.chain.from_iterable(map(itertools.islice, (value,), (max(0, self.left) + 1,)))


def _oslo_option(conf: Any, name: str) -> Any:
    for key in ('oslo_reports', name):
        options = _attributes(conf) or {}
        conf = options[key] if key in [one for one in options if type(one) is str] else None  # `in` may create it
    return conf


def _collect_configuration(conf: Any) -> object:
    """How is the program configured?"""
    conf = _loaded('oslo_config.cfg', 'CONF') if conf is None else conf
    attributes, own = _attributes(conf), vars(conf) if type(conf).__dictoffset__ else {}
    if attributes is None:  # of a mock nothing more is asked
        return 'No configuration was given to setup_autorun().' if conf is None else _Converter().convert(conf)
    groups: dict[str, dict[str, object]] = {'default': {}}
    for name, value in sorted(_Converter().mapping(attributes).items()):
        rows = value if type(value) is dict and (value or name == 'DEFAULT') else {name: value}  # as ConfigParser has
        group = groups.setdefault(name if rows is value and name != 'DEFAULT' else 'default', {})
        marks = vars(own['_groups'].get(name, conf))['_opts'] if {'_groups', '_opts'} <= own.keys() else {}
        for key, one in sorted(rows.items()):  # without oslo.config's marks a group with a secret name is all secret
            marked = key in marks and vars(marks[key]['opt']).get('secret')
            while key in group:
                key += f' ({len(group)})'
            group[key] = _HIDDEN if one and (marked or (not marks and _hidden_by_name(name, one))) else one
    return _Configuration((name, group) for name, group in groups.items() if group)


def _collect_registered(generator: Callable[[], object]) -> object:
    """What does the program tell of itself?"""
    return _Converter().convert(generator(), iterate=True)


def _resolve_version(version: object) -> object:
    """Return the facts of the distribution that a str names, or else the version: beforehand, since it imports."""
    if isinstance(version, str) and not re.match(r'v?\d+(\.|$)', version):
        from importlib import metadata  # costs more than all the rest of this file

        with contextlib.suppress(metadata.PackageNotFoundError, ValueError):
            facts: Any = metadata.metadata(version)
            vendor = facts.get('Author') or facts.get('Maintainer') or facts.get('Author-email')
            return types.SimpleNamespace(product=facts['Name'], vendor=vendor, version_string=facts['Version'])
    return types.SimpleNamespace(version_string=version) if isinstance(version, str) else version


def _collect_package(version: Any) -> object:
    """Which program is this, in which version?"""

    def ask(*names: str) -> object:
        subjects = version, getattr(version, 'version_info', None)
        value = next(filter(None, (getattr(one, name, None) for one in subjects for name in names)), None)
        return value() if callable(value) else value

    product = ask('product_string', 'product', 'package') or getattr(version, '__name__', '').partition('.')[0] or None
    vendor, number = ask('vendor_string', 'vendor'), ask('version_string_with_package', 'version_string', '__version__')
    return _Converter().convert({'product': product, 'vendor': vendor, 'version': number})


def _collect_processes(ask: Callable[..., Any]) -> dict[str, object]:
    """What process is this, since when, and what does it consume?"""
    alike = _attempt(_os.readlink, '/proc/self') == str(_os.getpid())  # else /proc is of another namespace
    user = functools.cache(lambda uid: getattr(ask(pwd.getpwuid, uid, key=('user', uid)), 'pw_name', str(uid)))
    started = _attempt(lambda: int(_read('/proc/self/stat').rpartition(b')')[2].split()[19]) / _TICKS)
    uptime = _attempt(lambda: clock_gettime(CLOCK_BOOTTIME) - started)  # /proc/uptime may be a container's
    limit = _attempt(lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    opened = _attempt(lambda: len(_os.listdir('/proc/self/fd')) - 1)
    full = f'[Errno {errno.EMFILE}]' in str(opened)  # to count them takes one more
    collector = 'enabled' if gc.isenabled() or any(hold.before[0] for hold in list(_holds)) else 'disabled'
    questions: dict[str, Callable[[], object]] = {
        'process': lambda: _process(user, alike, _os.getppid()),  # asks a data base of users in time
        'time': lambda: strftime(_ISO_TIME, gmtime(time())),
        'start time': lambda: strftime(_ISO_TIME, gmtime(time() - uptime)),
        'uptime': lambda: f'{uptime:.0f} s',
        'command line': lambda: _line(' '.join(_redact_arguments(getattr(sys, 'orig_argv', sys.argv)))),  # CPython 3.10
        'working directory': lambda: _line(_redact(_os.getcwd())),
        'python': lambda: f'{sys.implementation.name} {sys.version.split()[0]} at {sys.executable}',
        'platform': lambda: ' '.join(_os.uname()),
        'cpu seconds': lambda: round(process_time(), 2),
        'resident memory': lambda: f'{int(_read("/proc/self/statm").split()[1]) * resource.getpagesize() >> 20} MiB',
        'peak resident memory': lambda: f'{int(_read("/proc/self/status").split(b"VmHWM:")[1].split()[0]) >> 10} MiB',
        'open files': lambda: f'{limit if full else opened:d} of {limit}',
        'garbage collector': lambda: f'{collector}, counts {", ".join(map(str, gc.get_count()))}',
    }
    facts = {name: _attempt(question) for name, question in questions.items()}
    return {name: fact for name, fact in facts.items() if type(fact) is not _Failure}  # a platform may not tell


def _process(user: Callable[[int], str], alike: bool, parent: int, proc: str = 'self') -> _Process:
    pid, uid, state, command, reply = _os.getpid(), _os.getuid(), 'running', '', ''
    if proc != 'self':
        status = dict(re.findall(r'(\w+):\t(.*)', _read(f'/proc/{proc}/status').decode('utf-8', 'replace')))
        pid = int(proc if alike else status['NSpid'].split()[-1])  # by its number in our namespace
        uid, state = int(status['Uid'].split()[0]), status['State'][3:-1]
        arguments = _read(f'/proc/{proc}/cmdline').decode('utf-8', 'replace').rstrip('\0').split('\0')
        command = _line(' '.join(_redact_arguments(arguments)))[:_MAX_LINE]
        caught, ignored = (int(status[mask], 16) >> (signal.SIGUSR2 - 1) & 1 for mask in ('SigCgt', 'SigIgn'))
        reply = 'answers' if caught else 'ignores it' if ignored else 'dies of it'
    alone = proc == 'self' and type(_attempt(_os.waitid, os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is _Failure
    threads = [] if alone else _attempt(_os.listdir, f'/proc/{proc}/task')  # to ask thousands for children costs time
    lists = [_attempt(_read, f'/proc/{proc}/task/{thread}/children') for thread in threads]
    pids = sorted(int(child) for some in lists if type(some) is bytes for child in some.split())
    found = [_attempt(_process, user, alike, pid, str(child)) for child in pids]  # some have just ended
    return _Process(pid, parent, user(uid), uid, state, command, reply, [one for one in found if type(one) is _Process])


# -- Render: plain data in, text out ---

_FACTS = {'name': '{}', 'state': '{}', 'daemon': 'daemon', 'cpu_seconds': '{:.2f} s cpu'}  # else: native id 8680
_AGAIN = '    ({1:,} times in a row)', '    (these {0} frames {1:,} times in a row)'


class TextGuruMeditation(GuruMeditation):
    """The report for people, in the layout of oslo.reports."""

    def _render(self, sections: list[tuple[str, object]]) -> str:
        bar, lines = '=' * _WIDTH, list[str]()
        for title, data in [('Guru Meditation', '|' * _WIDTH + '\n\n'), *sections]:
            lines += [bar, f'===={" ".join(_clean(title).split()): ^{_WIDTH - 8}}====', bar]
            lines += _lines('(none)' if data in ([], {}) else data)
        return '\n'.join(lines)


def _lines(data: Any, indent: str = '') -> Iterator[str]:
    if type(data) in (_Entry, _Failure):
        head: Any = _entry_lines(data) if type(data) is _Entry else (data.error, 'Traceback (most recent call last):')
        stack = [one.text if type(one) is _Frame else _AGAIN[one.frames > 1].format(*one) for one in data.stack]
        yield '\n'.join([*head, *(stack or ['', 'No Traceback!']), ''])
    elif isinstance(data, _Glance):
        yield from _glance_lines(data)
    elif isinstance(data, _Process):
        who = f'Process {data.pid} (under {data.parent}) [ run by: {data.user} ({data.uid}), state: {data.state} ]'
        yield indent + who + (f' {data.command} (SIGUSR2: {data.signal})' if data.signal else '')
        yield from (line for child in data.children for line in _lines(child, indent + '    '))
    elif isinstance(data, dict):
        for key, value in data.items():
            if value and (isinstance(value, (dict, list)) or '\n' in str(value)):
                yield from ('', f'{key}:') if isinstance(data, _Configuration) else (f'{indent}{key} =',)
                yield from _lines(value, indent + '  ')
            else:
                yield from _lines(value) if isinstance(value, _Process) else [f'{indent}{key} = {value}']
    elif isinstance(data, list):
        for item in data:
            head = [f'{indent}[{type(item).__name__}]'] if type(item) in (dict, list) else []
            yield from (*head, *_lines(item, indent + '  ' * len(head)))
    else:
        yield from (indent + line for line in str(data).split('\n'))


def _glance_lines(glance: _Glance) -> Iterator[str]:
    age = int((glance.process['uptime'] or '-1').split()[0])
    d, h, m, s = age // 86400, age // 3600 % 24, age // 60 % 60, age % 60
    up = f', up {d} d {h} h' if d else f', up {h} h {m} min' if h else f', up {m} min {s} s' if m else f', up {s} s'
    head = '{program}, process {pid} on {host}{}, {time}, asked by {asked by}'.format(up * (age >= 0), **glance.process)
    findings, more = glance.findings[: _MAX_GLANCE // 2], len(glance.findings) - _MAX_GLANCE // 2
    yield from (head, *findings, f'... and {more:,} more findings' * (more > 0))
    rows = glance.entries[: _MAX_GLANCE - 3 - len(findings)]
    for row in rows:
        kind = f'{row.count:>3,} {row.kind.lower()}{"s" * (row.count > 1)}{", " * bool(row.state)}{row.state or ""}'
        where = row.frame.text[1:].replace('\n    ', '  ') if row.frame else 'No Traceback!'
        waits = f'  waits for {row.waits_for}' if row.waits_for else ''
        yield f'{kind:<22}  {where}{waits}  {row.members}'
    if len(rows) < len(glance.entries):
        yield f'... and {len(glance.entries) - len(rows):,} more stacks'


def _entry_lines(entry: _Entry) -> Iterator[str]:
    many, first = entry.count > 1, entry.members[0]
    single = f'{entry.kind} #{first["id"]}' if 'id' in first else entry.kind
    yield f'------{f"{entry.count:,} {entry.kind}s" if many else single: ^{_WIDTH - 12}}------\n'
    for member in entry.members:
        known = [(key, one) for key, one in member.items() if key != 'id' and one is not False]
        facts = ', '.join([_FACTS.get(key, key.replace('_', ' ') + ' {}').format(one) for key, one in known])
        yield f'#{member["id"]} {facts}' if many and 'id' in member else facts
    if entry.count > len(entry.members):
        yield f'... and {entry.count - len(entry.members):,} more'


class JSONGuruMeditation(GuruMeditation):
    """The report for programs: one JSON document on one line."""

    _ending = '.json'

    def __init__(self, version: object = None, frame: types.FrameType | None = None, conf: object = None) -> None:
        super().__init__(version, frame, conf)
        import json  # here, since nothing is imported while a report is made

        self._dumps = json.dumps

    def _render(self, sections: list[tuple[str, object]]) -> str:
        header = {'format': 2, 'time': strftime(_ISO_TIME, gmtime(time())), 'host': _HOST, 'pid': _os.getpid()}
        document: dict[str, object] = {'Guru Meditation': {**header, 'program': self._program}}
        for title, data in sections:
            document[title + ' (again)' * (title in document)] = _jsonable(data)  # a program's may be called as ours
        return self._dumps(document)


def _jsonable(data: Any) -> object:
    data = data.facts if type(data) is _Frame else data._asdict() if hasattr(data, '_asdict') else data  # a record
    if isinstance(data, dict):
        return {name: _jsonable(value) for name, value in data.items()}
    return list(map(_jsonable, data)) if isinstance(data, list) else data


# -- Deliver: a file in log_dir, else stderr, else a private file ---

register_section, setup_autorun = TextGuruMeditation.register_section, TextGuruMeditation.setup_autorun
_stderr_at_setup: list[os.stat_result] = []  # what descriptor 2 was


def _deliver(hold: _Hold, text: str, log_dir: object, name: str, timeout: float) -> None:
    create, path = functools.partial(hold.ask, _create_file, name, f'{text}\n'.encode(), timeout=timeout), None
    if isinstance(log_dir, (str, os.PathLike)) and log_dir:
        path = create(abspath(log_dir), key=('file', log_dir))
        where = path if type(path) is str else f'no file in {log_dir}: {path.error}\n{text}'
        text = f'Guru Meditation Report: {where}'
    if not _write_stderr(hold, f'{text}\n', timeout) and type(path) is not str:
        any(type(create(to, key=('file', to))) is str for to in (os.getenv('TMPDIR', '/tmp'), '/tmp', '/var/tmp', '.'))


def _write_stderr(hold: _Hold, text: str, timeout: float) -> bool:
    """Write to stderr and return whether all of it went out in time. The rest goes out when a reader comes."""
    stream: Any = getattr(sys, 'stderr', None)
    buffer = _attempt(getattr, stream, 'buffer') if type(stream) is io.TextIOWrapper else None
    raw: Any = _attempt(getattr, buffer, 'raw') if type(buffer) is io.BufferedWriter else buffer
    plain = type(raw) is io.FileIO and not raw.closed  # and nothing between that compresses, say
    if not plain and stream is not None:  # any object: its write() is foreign code
        key, put = ('stream', id(stream)), lambda: (stream.write(text), getattr(stream, 'flush', str)())
        if type(hold.ask(put, timeout=timeout, key=key, green=True)) is not _Failure:
            return True
    with contextlib.suppress(OSError, ValueError, LookupError):  # closed meanwhile, or a codec that is none
        descriptor = raw.fileno() if plain else 2
        file = _os.fstat(descriptor)
        # What the program has put there since by dup2() is inheritable; a file that has got a free number 2 is not.
        known = any(samestat(file, one) for one in _stderr_at_setup) or (plain and _os.get_inheritable(descriptor))
        if (known or descriptor != 2) and not samestat(file, _os.stat(os.devnull)):
            data = text.encode(stream.encoding if plain else 'ascii', 'backslashreplace')
            return hold.ask(_write, descriptor, data, timeout=timeout, key='stderr') is None
    return False


def _create_file(name: str, data: bytes, folder: str) -> object:
    for number in itertools.count(1):
        path = join(folder, name if number == 1 else re.sub(r'(\.json)?$', rf'_{number}\1', name, count=1))
        with contextlib.suppress(FileExistsError):
            descriptor = _os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, 'O_NOFOLLOW', 0), 0o600)
            break
    failure = _attempt(_write, descriptor, data)
    _os.close(descriptor)
    if failure:
        _os.unlink(path)  # a whole report elsewhere is better than half of one here
    return failure or path


def _write(descriptor: int, data: bytes) -> None:
    rest, file = memoryview(data), _os.fstat(descriptor)
    before = _signal.pthread_sigmask(signal.SIG_BLOCK, _WRITE_SIGNALS) if _WRITE_SIGNALS else None
    try:
        while rest:
            if not samestat(_os.fstat(descriptor), file):
                raise OSError(errno.EBADF, 'the program has opened another file there')
            try:
                rest = rest[_os.write(descriptor, rest) :]
            except BlockingIOError:
                _pause(0.02)
    finally:
        if before is not None:
            for came in _WRITE_SIGNALS & set(_signal.sigpending()):  # it would kill as soon as it is let in
                _signal.sigwait([came])
            _signal.pthread_sigmask(signal.SIG_SETMASK, before)


# -- Command line ---


def main(arguments: list[str] | None = None) -> int:
    import optparse
    import runpy

    parser = optparse.OptionParser('%prog [OPTIONS] [SCRIPT | -m MODULE] [ARGUMENTS]', version=f'gmr {__version__}')
    parser.disable_interspersed_args()  # what follows the program belongs to the program
    parser.add_option('-m', action='store_true', dest='module', help='the program is a module: -m http.server 8000')
    parser.add_option('--json', action='store_true', help='make the report as JSON')
    parser.add_option('--log-dir', metavar='DIR', help='write reports to files in DIR, not to stderr')
    parser.add_option('--watch-file', metavar='PATH', help='report also whenever PATH is touched')
    parser.add_option('--pid', type='int', help='ask this process: CPython 3.14, here and there')
    given, program = parser.parse_args(arguments)
    if (program and given.pid) or (not program and (given.module or given.log_dir or given.watch_file)):
        parser.error('--pid goes with --json alone, the other options with a program')
    form = JSONGuruMeditation if given.json else TextGuruMeditation
    sys.argv[:] = program or ['gmr']
    version = types.SimpleNamespace(product=sys.argv[0], version_string=lambda: _loaded('__main__', '__version__'))
    if not program:
        try:
            text = form(version).run() if given.pid is None else _ask(given.pid, form.__name__)
            with contextlib.suppress(BrokenPipeError):
                _write(1, f'{_clean(text)}\n'.encode())  # a hostile answer, perhaps
        except (OSError, RuntimeError, KeyboardInterrupt) as error:
            sys.exit(f'process {given.pid or _os.getpid()}: {str(error) or "interrupted"}')
        return int(text.startswith('no report: '))
    form.setup_autorun(version, None, given.log_dir, watch_file=given.watch_file)
    if given.module:
        sys.path[0] = os.getcwd()
        runpy.run_module(program[0], run_name='__main__', alter_sys=True)
    else:
        path, script = abspath(program[0]), types.ModuleType('__main__')
        script.__file__, sys.path[0], sys.modules['__main__'] = path, dirname(os.path.realpath(path)), script
        exec(compile(_read(path), path, 'exec', dont_inherit=True), vars(script))
    return 0


def _answer(form: str) -> str:
    """Return the report of this process: by its own copy of this module, if one is set up, which knows its sections."""
    own = next((_loaded(name, '_answer') for name in list(sys.modules) if _loaded(name, '_autorun')), None)
    if own not in (None, _answer):
        return own(form)  # type: ignore[no-any-return]
    report = globals()[form]()
    version = types.SimpleNamespace(product=report._program, version_string=_loaded('__main__', '__version__'))
    report.version, report.conf = next(((one.version, one.conf) for one in _autorun), (version, None))
    return _Hold(report._make, None, '--pid', monotonic() + 2 * _LOST).wait()  # run() leaves hooks behind


def _ask(pid: int, form: str) -> str:
    """Return what a process answers, which need not know of this module (PEP 768)."""
    import fcntl
    import marshal
    import tempfile

    if not hasattr(sys, 'remote_exec'):
        raise RuntimeError('to be asked takes CPython 3.14 or later, both here and there')
    if any(os.readlink(f'/proc/{pid}/{ns}') != os.readlink(f'/proc/self/{ns}') for ns in ('ns/mnt', 'ns/pid', 'root')):
        raise RuntimeError(f'it is in a container: ask it there, by nsenter --target {pid} --all --root')
    start = 'import _thread, marshal, sys; sys.modules.get("__original_module__thread", _thread).start_new'
    with tempfile.TemporaryDirectory(prefix='gmr-', dir='/tmp') as folder:  # $TMPDIR may be closed to the owner
        tell = f'open("{folder}/answer", "ab") as answer: answer.write(_answer("{form}").encode() + b"\\0")'.encode()
        code = marshal.dumps(compile(_read(_HERE) + b'with contextlib.suppress(OSError), ' + tell, _HERE, 'exec'))
        with open(f'{folder}/question', 'x') as question, open(f'{folder}/answer', 'x+b', 0) as answer:
            print(start, f'(exec, (marshal.loads({code!r}), {{"__name__": "gmr"}}))', file=question, flush=True)
            for path in (question.name, answer.name, folder):  # its owner's; gone when nobody waits any more
                os.chown(path, *map(int, re.findall(rb'(?m)^[UG]id:\t\d+\t(\d+)', _read(f'/proc/{pid}/status'))))
            data, turn = b'', _os.open(f'/proc/{pid}/status', os.O_RDONLY)
            fcntl.flock(turn, fcntl.LOCK_EX)  # until we end: a process holds one question only, and others may ask too
            try:
                sys.remote_exec(pid, question.name)  # starts a thread: what a handler raises goes to the program
                for _ in range(1000):
                    _pause(0.01)
                    data += answer.read()
                    if data.endswith(b'\0'):
                        return data[:-1].decode('utf-8', 'replace')
            finally:
                if not data and _read(f'/proc/{pid}/status'):  # raises if it has ended
                    sys.remote_exec(pid, os.devnull)  # takes the question back
    raise RuntimeError(f'no answer within 10 seconds; if its main thread does not run Python: py-spy dump --pid {pid}')


if __name__ == '__main__':  # the program may import this module by its name: the two must be one
    name = __spec__.name if __spec__ else basename(_HERE).partition('.')[0]
    sys.exit(sys.modules.setdefault(name, sys.modules['__main__']).main())
