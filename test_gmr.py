"""Tests of gmr.py. Each is named for a promise; signals go to real processes, after a handshake."""

# SPDX-License-Identifier: Apache-2.0

import argparse
import collections
import collections.abc
import configparser
import contextlib
import functools
import importlib.util
import itertools
import json
import os
import pwd
import py_compile
import re
import resource
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import types
import unittest
import unittest.mock
import urllib.request
import zipfile

import gmr

try:
    import greenlet
except ImportError:  # a bare interpreter: what needs greenlet is not defined there, so nothing is skipped
    greenlet = None

HERE = os.path.dirname(os.path.abspath(__file__))
DEADLINE = 60.0  # seconds for anything that a child does
LINUX = sys.platform == 'linux'
TITLE = re.compile(r'={72}\n==== *(.*?) *====\n={72}\n')

# What every child begins with. `ready` says that signals may come and `hold` waits for the parent, as a service waits.
PRELUDE = """\
import gc, os, select, signal, sys, threading, time
import gmr

def ready():
    os.write(1, b'ready\\n')

def hold():  # waits with a limit: a signal that comes just before a system call does not interrupt it
    os.write(1, b'ready\\n')
    while not select.select([0], [], [], 0.05)[0] or os.read(0, 1) == b'+':
        pass

def setup(*args, **kwargs):
    gmr.setup_autorun(*args, **kwargs)
    gmr.register_section('The End', lambda: 'of the report')

"""
END = '====                            The End                             ====\n' + '=' * 72 + '\nof the report\n'


@functools.cache
def installed(name):
    """Return whether a package can be imported; asked in a child, since some of them change their process."""
    return not subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', f'import {name}'], stderr=subprocess.DEVNULL
    ).returncode


class Child:
    """A process that runs PRELUDE and a body, its output collected by threads, its end certain."""

    def __init__(
        self,
        body='',
        *,
        command=(),
        options=(),
        arguments=(),
        stderr=subprocess.PIPE,
        cwd=None,
        limits=None,
        first='',
        **env,
    ):
        environment = {k: v for k, v in os.environ.items() if k not in ('PYTHONUNBUFFERED', 'PYTHONPATH', 'TMPDIR')}
        environment.update({'PYTHONPATH': HERE, 'PYTHONWARNINGS': 'ignore', **env})
        command = command or [*options, '-c', first + '\n' + PRELUDE + textwrap.dedent(body), *arguments]
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
            cwd=cwd,
            preexec_fn=limits,
        )
        self.pid = self.process.pid
        self.out, self.err = bytearray(), bytearray()
        self.changed = threading.Condition()
        self.pumps = [self.pump(self.process.stdout, self.out)]
        if self.process.stderr:
            self.pumps.append(self.pump(self.process.stderr, self.err))

    def pump(self, stream, buffer):
        def work():
            with stream:
                for data in iter(lambda: os.read(stream.fileno(), 65536), b''):
                    with self.changed:
                        buffer.extend(data)
                        self.changed.notify_all()
            with self.changed:
                self.changed.notify_all()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE)
        self.process.stdin.close()
        for pump in self.pumps:
            pump.join(DEADLINE)

    def wait_for(self, condition, what):
        with self.changed:
            if not self.changed.wait_for(lambda: condition() or self.process.poll() is not None, DEADLINE):
                raise AssertionError(f'{what} did not come:\n{self.text()}')
            if not condition():  # ended: its pipes may still hold something
                self.changed.wait_for(condition, 1)
            if not condition():
                raise AssertionError(f'ended with {self.process.poll()} before {what}:\n{self.text()}')

    def text(self):
        return f'{self.out.decode(errors="replace")}\n{self.err.decode(errors="replace")}'

    def wait_ready(self, count=1):
        self.wait_for(lambda: self.out.count(b'ready\n') >= count, 'ready')
        return self

    def reports(self):
        return self.err.decode(errors='replace').count(END)

    def signal(self, signum=signal.SIGUSR2):
        """Signal it and return what has come on stderr up to the end of one more report."""
        count, start = self.reports(), len(self.err)
        os.kill(self.pid, signum)
        self.wait_for(lambda: self.reports() > count, 'a report')
        return self.err[start:].decode(errors='replace')

    def finish(self):
        """Let it go on, and return its exit code."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        code = self.process.wait(DEADLINE)
        for pump in self.pumps:
            pump.join(DEADLINE)
        return code


def sections(report):
    """Return the sections of a text report by their titles."""
    parts = TITLE.split(report)
    return dict(zip(parts[1::2], parts[2::2]))


def report_of(body, **options):
    """Return the report of a child that is signalled once and goes on to its normal end."""
    with Child(body, **options) as child:
        text = child.wait_ready().signal()
        code = child.finish()
        if code != 0:
            raise AssertionError(f'exit code {code}:\n{child.text()}')
    return text


def report_on(value, title='Subject'):
    """Return how a registered section shows a value, in this process."""
    gmr.register_section(title, (lambda: value) if not callable(value) else value)
    try:
        return sections(gmr.TextGuruMeditation().run())[title].rstrip('\n')
    finally:
        del gmr.GuruMeditation._sections[title]


def configuration(conf):
    return sections(gmr.TextGuruMeditation(conf=conf).run())['Configuration']


def patient(test):
    """Give the sections of a test all the time that it has itself: machines are noisy."""
    return unittest.mock.patch.object(gmr.GuruMeditation, 'section_timeout', DEADLINE)(test)


class InterfaceTest(unittest.TestCase):
    def test_bad_arguments_raise_errors_that_name_them(self):
        for error, word, call in (
            (TypeError, 'section_title', lambda: gmr.register_section(1, str)),
            (TypeError, 'generator', lambda: gmr.register_section('x', 'y')),
            (TypeError, 'conf', lambda: gmr.setup_autorun(conf=42)),
            (TypeError, 'conf', lambda: gmr.setup_autorun(conf='a string')),
            (ValueError, 'signum', lambda: gmr.setup_autorun(signum=999)),
            (ValueError, 'signum', lambda: gmr.setup_autorun(signum=signal.SIGKILL)),
        ):
            with self.subTest(word), self.assertRaisesRegex(error, word):
                call()

    def test_set_up_outside_the_main_thread_says_where_to_call_it(self):
        caught = []

        def work():
            try:
                gmr.setup_autorun('1')
            except ValueError as error:
                caught.append(str(error))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        self.assertRegex(caught[0], 'main thread')

    def test_the_spelling_of_oslo_reports_works(self):
        text = report_of("""
            def some_section_generator():
                return 'spelled as in oslo.reports'
            gmr.TextGuruMeditation.register_section('Some Special Section', some_section_generator)
            gmr.TextGuruMeditation.setup_autorun('1.0', 'service', None, signal.SIGUSR2, {'option': 5}, True)
            gmr.register_section('The End', lambda: 'of the report')
            hold()
        """)
        self.assertEqual(sections(text)['Some Special Section'], 'spelled as in oslo.reports\n')
        self.assertIn('option = 5', text)

    def test_run_returns_the_report_from_any_thread_with_the_stack_of_its_caller(self):
        texts = []

        def health_endpoint():
            texts.append(gmr.TextGuruMeditation('1.0', None).run())

        thread = threading.Thread(target=health_endpoint, name='web')
        thread.start()
        thread.join()
        self.assertRegex(
            sections(texts[0])['Threads'],
            r'web, native id \d+, reporting, .*\n(.*\n)*.*in health_endpoint\n.*\.run\(\)\)`\n\n$',
        )

    def test_a_title_registered_again_replaces_its_generator(self):
        gmr.register_section('Twice', lambda: 'old')
        self.assertEqual(report_on('new', 'Twice'), 'new')

    def test_a_second_set_up_replaces_the_first(self):
        with Child("""
            setup('1')
            setup('2', signum=signal.SIGUSR1)
            assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL
            hold()
        """) as child:
            self.assertIn('version = 2', child.wait_ready().signal(signal.SIGUSR1))
            self.assertEqual(child.finish(), 0)

    def test_each_set_up_puts_back_what_the_one_before_had_found(self):
        with Child("""
            import faulthandler
            def own(*args): pass
            signal.signal(signal.SIGUSR2, own)
            setup('1', instant_stacks=True)
            setup('2')
            setup('3', setup_signal=False)
            assert signal.getsignal(signal.SIGUSR2) is own
            assert not faulthandler.unregister(signal.SIGUSR2)
            setup('4', instant_stacks=True)
            setup('5', signum=signal.SIGUSR1, instant_stacks=True)
            assert signal.getsignal(signal.SIGUSR2) is own
            assert not faulthandler.unregister(signal.SIGUSR2)
            assert faulthandler.unregister(signal.SIGUSR1)
        """) as child:
            self.assertEqual(child.finish(), 0, child.text())

    def test_setup_signal_false_leaves_signals_alone(self):
        with Child("""
            setup('1', setup_signal=False)
            assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL
        """) as child:
            self.assertEqual(child.finish(), 0, child.text())


class LayoutTest(unittest.TestCase):
    def test_the_layout_is_that_of_oslo_reports(self):
        text = report_of(
            """
            class Version:
                def vendor_string(self): return 'Cheese Shoppe'
                def product_string(self): return 'Sharp Cheddar'
                def version_string_with_package(self): return '1.0.0'
            gmr.register_section('Fromage', lambda: {
                'b': 1, 'a': {'x': None, 'list': ['p', 2.5]}, 'text': 'two\\nlines', 'none': {}})
            setup(Version(), conf={'z': 1, 'a': 'b', 'group': {'y': [1, 2], 'x': True}})
            exec(compile('def wait(): hold()', 'nowhere.py', 'exec'))
            wait()
            """
        )
        text = re.sub(r'Thread #\d+ ', 'Thread #1 ', text)
        text = re.sub(r'native id \d+, reporting, \d\.\d\d s cpu', 'native id 2, reporting, 0.01 s cpu', text)
        text = re.sub(r'<string>:\d+', '<string>:1', text)
        text = re.sub(r'Process \d+ \(under \d+\) \[ run by: .* \(\d+\)', 'Process 3 (under 4) [ run by: me (5)', text)
        text = re.sub(
            r'(?<=state: running \]\n)(.* = .*\n(  .*\n)*)+', 'facts\n', re.sub('command line =\n(  .*\n)*', '', text)
        )
        head, bar = '====', '=' * 72
        expected = f"""\
{bar}
{head}                        Guru Meditation                         {head}
{bar}
{'|' * 72}


{bar}
{head}                            Package                             {head}
{bar}
product = Sharp Cheddar
vendor = Cheese Shoppe
version = 1.0.0
{bar}
{head}                            Threads                             {head}
{bar}
------                         Thread #1                          ------

MainThread, native id 2, reporting, 0.01 s cpu

<string>:1 in <module>
    (source not found)

nowhere.py:1 in wait
    (source not found)

<string>:1 in hold
    (source not found)

{bar}
{head}                           Processes                            {head}
{bar}
Process 3 (under 4) [ run by: me (5), state: running ]
facts
{bar}
{head}                         Configuration                          {head}
{bar}

default:
  a = b
  z = 1

group:
  x = True
  y =
    1
    2
{bar}
{head}                            Fromage                             {head}
{bar}
b = 1
a =
  x = None
  list =
    p
    2.5
text =
  two
  lines
none = {{}}
{bar}
{END}"""
        # The heading of a thread is as wide as its number was.
        text = re.sub(
            r'-{6} +Thread #1 +-{6}', '------                         Thread #1                          ------', text
        )
        self.assertEqual(text, expected)

    def test_values_of_every_kind_are_shown_as_documented(self):
        for value, shown in (
            ('text', 'text'),
            (7, '7'),
            (2.5, '2.5'),
            (None, 'None'),
            ([], '(none)'),
            ({}, '(none)'),
            (['a', 1, ['b', 'c']], 'a\n1\n[list]\n  b\n  c'),
            ({'a': [{'b': 1}]}, 'a =\n  [dict]\n    b = 1'),
            ((n * n for n in range(3)), '0\n1\n4'),
            (b'bytes', 'bytes'),
            (float('nan'), 'nan'),
            (os.urandom(3_000_000) and b'\xff' * 2, '\\xff\\xff'),
            (10**5000, '(int of 16,610 bits)'),
        ):
            with self.subTest(shown[:20]):
                self.assertEqual(report_on(value), shown)

    @patient
    def test_ten_megabytes_are_shown_whole(self):
        self.assertTrue(report_on('x' * 10_000_000) == 'x' * 10_000_000)

    def test_a_model_of_oslo_reports_is_shown_by_its_own_text_view(self):
        class Model(dict):
            def set_current_view_type(self, view):
                self.view = view

            def __str__(self):
                return f'model as {self.view}'

        self.assertEqual(report_on(Model(a=1)), 'model as text')


class PackageTest(unittest.TestCase):
    def package(self, version):
        return sections(gmr.TextGuruMeditation(version).run())['Package'].splitlines()

    def test_every_kind_of_version_gives_what_it_can(self):
        def module(**names):
            result = types.ModuleType('magnum.version')
            vars(result).update(names)
            return result

        pbr = types.SimpleNamespace(package='magnum', version_string=lambda: '13.0.0')
        for version, product, shown in (
            ('13.0.0', None, '13.0.0'),
            ('no such distribution', None, 'no such distribution'),
            (None, None, None),
            (module(version_info=pbr), 'magnum', '13.0.0'),
            (module(version_string='14'), 'magnum', '14'),
            (module(version_string=lambda: '15'), 'magnum', '15'),
            (module(__version__='16'), 'magnum', '16'),
            (types.SimpleNamespace(product_string=lambda: 'P'), 'P', None),
        ):
            with self.subTest(version=version):
                self.assertEqual(self.package(version), [f'product = {product}', 'vendor = None', f'version = {shown}'])

    def test_the_name_of_an_installed_distribution_shows_its_facts(self):
        with tempfile.TemporaryDirectory() as folder:
            os.mkdir(os.path.join(folder, 'magnum-9.1.dist-info'))
            with open(os.path.join(folder, 'magnum-9.1.dist-info', 'METADATA'), 'w') as file:
                file.write('Metadata-Version: 2.1\nName: magnum\nVersion: 9.1\nMaintainer: OpenStack\n')
            sys.path.append(folder)
            self.addCleanup(sys.path.remove, folder)
            self.assertEqual(self.package('magnum'), ['product = magnum', 'vendor = OpenStack', 'version = 9.1'])


class ThreadsTest(unittest.TestCase):
    def test_all_threads_appear_those_with_one_stack_as_one_entry(self):
        text = sections(
            report_of("""
            import _thread
            done, started = threading.Event(), threading.Semaphore(0)
            def worker():
                started.release()
                done.wait()
            for n in range(30):
                threading.Thread(target=worker, name=f'pool-{n}', daemon=n % 2 == 0).start()
            def unknown_to_threading():
                started.release()
                time.sleep(100)
            _thread.start_new_thread(unknown_to_threading, ())
            for n in range(31):
                started.acquire()
            time.sleep(0.2)
            setup('1')
            hold()
            done.set()
        """)
        )['Threads']
        entries = re.split(r'------ +(.*?) +------\n', text)
        headings, bodies = entries[1::2], entries[2::2]
        self.assertRegex(headings[0], r'^Thread #\d+$')
        self.assertRegex(bodies[0], r'^\nMainThread, native id \d+, reporting, \d+\.\d\d s cpu\n')
        self.assertNotIn('_on_signal', text)
        self.assertEqual(headings[1], '30 Threads')
        self.assertRegex(bodies[1], r'\n#\d+ pool-0, daemon, native id \d+, sleeping, \d+\.\d\d s cpu\n')
        self.assertRegex(bodies[1], r'\n#\d+ pool-1, native id \d+, sleeping')
        self.assertIn('\n... and 10 more\n', bodies[1])
        self.assertIn('in worker', bodies[1])
        self.assertIn('in unknown_to_threading', bodies[2])
        self.assertEqual(len(headings), 3)

    def test_frames_run_oldest_first_and_a_repeated_one_is_counted(self):
        text = sections(
            report_of("""
            def descend(n):
                if n:
                    descend(n - 1)
                else:
                    hold()
            setup('1')
            descend(40)
        """)
        )['Threads']
        self.assertRegex(
            text, r'in <module>\n.*\n\n.* in descend\n.*\n    \(40 times in a row\)\n\n.* in descend\n.*\n\n.* in hold'
        )


if sys.version_info >= (3, 10):  # sys._current_exceptions() is new

    class ExceptionsTest(unittest.TestCase):
        def test_the_exception_that_a_thread_handles_is_shown(self):
            text = sections(
                report_of("""
                setup('1')
                try:
                    raise ConnectionError('broker went away, password=hunter2')
                except ConnectionError:
                    hold()
            """)
            )['Threads']
            self.assertIn('s cpu\nhandling ConnectionError: broker went away, password=***\n\n', text)


if greenlet:

    class GreenThreadsTest(unittest.TestCase):
        def test_suspended_ones_have_stacks_and_others_are_counted(self):
            text = sections(
                report_of("""
                import greenlet
                class Special(greenlet.greenlet):
                    pass
                def deep():
                    greenlet.getcurrent().parent.switch()
                def outer():
                    deep()
                kept = [kind(outer) for kind in [greenlet.greenlet] * 25 + [Special]]
                for one in kept:
                    one.switch()
                finished = [greenlet.greenlet(int) for n in range(3)]
                for one in finished:
                    one.switch()
                never = [greenlet.greenlet(outer) for n in range(4)]
                setup('1')
                hold()
            """)
            )['Green Threads']
            self.assertIn('26 Green Threads', text)
            self.assertIn('... and 6 more', text)
            self.assertRegex(text, r'in outer\n.*\n\n.*in deep\n')
            self.assertIn('3 finished Green Threads', text)
            self.assertIn('4 not started Green Threads', text)
            self.assertRegex(text, r'running in Thread #\d+\n\n.* in <module>')

        def test_a_signal_in_a_greenlet_shows_its_thread_once_and_the_greenlet_in_it(self):
            report = sections(
                report_of("""
                import greenlet
                def inside():
                    hold()
                setup('1')
                greenlet.greenlet(inside).switch()
            """)
            )
            self.assertEqual(report['Threads'].count('Thread #'), 1)
            self.assertRegex(report['Threads'], r'^.*\n\nMainThread.*\n\n.* in inside\n.*\n\n.* in hold\n')
            thread = re.search(r'Thread #(\d+)', report['Threads'])[1]
            self.assertRegex(report['Green Threads'], rf'running in Thread #{thread}\n\n.* in inside\n')
            self.assertRegex(report['Green Threads'], r'------ +Green Thread +------\n\n.*\n\n.* in <module>\n')

        def test_one_that_runs_in_another_thread_says_in_which(self):
            report = sections(
                report_of("""
                import greenlet
                started, stop = threading.Event(), []
                def spin():
                    started.set()
                    while not stop:
                        time.sleep(0.01)
                thread = threading.Thread(target=lambda: greenlet.greenlet(spin).switch(), name='spins')
                thread.start()
                started.wait()
                setup('1')
                hold()
                stop.append(1)
            """)
            )
            ident = re.search(r'Thread #(\d+) +------\n\nspins', report['Threads'])[1]
            self.assertIn(f'running in Thread #{ident}\n', report['Green Threads'])


class StressTest(unittest.TestCase):
    def test_stacks_of_threads_and_greenlets_that_move_on_are_whole(self):
        # Each function calls the next from one line only: any other line above it would be of another moment.
        with Child("""
            try:
                import greenlet
            except ImportError:
                greenlet = None
            source = [
                'def outer(n):', ' n += 1', ' n += 2', ' middle(n)', ' n += 3', ' n += 4',
                'def middle(n):', ' n += 1', ' inner(n)', ' n += 2', ' n += 3',
                'def inner(n):', ' n += 1', ' switch()', ' n += 2']
            calls = {'outer': 4, 'middle': 9}
            stop = []
            def outer_that_calls(switch):
                names = {'switch': switch}
                exec(compile(chr(10).join(source), 'stress.py', 'exec'), names)
                return names['outer']
            def threads_work():
                outer = outer_that_calls(int)
                while not stop:
                    outer(1)
            def greenlets_work():
                outer = outer_that_calls(lambda: greenlet.getcurrent().parent.switch())
                def body():
                    while not stop:
                        outer(1)
                kept = [greenlet.greenlet(body) for n in range(20)]
                while not stop:
                    for one in kept:
                        one.switch()
            threads = [threading.Thread(target=threads_work, daemon=True) for n in range(2)]
            if greenlet:
                threads.append(threading.Thread(target=greenlets_work, daemon=True))
            for thread in threads:
                thread.start()
            whole = 0
            class Report(gmr.GuruMeditation):
                def _render(self, sections):
                    global whole
                    for title, entries in sections:
                        for entry in entries if title in ('Threads', 'Green Threads') else ():
                            stack = [frame for frame in entry.stack if frame.file == 'stress.py']
                            for above, below in zip(stack, stack[1:]):
                                assert above.line == calls[above.name], stack
                                assert (above.name, below.name) in (('outer', 'middle'), ('middle', 'inner')), stack
                                whole += 1
                    return 'fine'
            for n in range(1000):
                text = Report('1').run()
                assert text == 'fine', text
            stop.append(1)
            for thread in threads:
                thread.join()
            print(whole)
        """) as child:
            child.process.wait(10 * DEADLINE)
            self.assertEqual(child.finish(), 0, child.text()[-2000:])
            self.assertGreater(int(child.out), 1000)


def patched_tests(patch):
    """Return the tests of a real monkey-patched program."""

    class PatchedTest(unittest.TestCase):
        def check(self, then='', **options):
            report = sections(
                report_of(
                    f"""
                {then}
                def deep(n):
                    time.sleep(100)
                import threading as patched
                for n in range(3):
                    patched.Thread(target=deep, args=(n,), daemon=True).start()
                time.sleep(0.1)
                gmr.register_section('Lock', lambda: [patched.Lock().acquire()])
                gmr.register_section('Handled', lambda: repr(sys.exc_info()[1]))
                setup('1')
                try:
                    raise TimeoutError('db-3')
                except TimeoutError:
                    import posix  # not eventlet's, which runs the hub: that handles no exception
                    ready()
                    while not posix.read(0, 1) == b'':
                        pass
            """,
                    **options,
                )
            )
            self.assertRegex(report['Green Threads'], r'3 Green Threads(.*\n)+?.* in deep\n')
            self.assertEqual(report['Threads'].count('Thread #'), 1)
            handled = r'handling TimeoutError: db-3\n' if sys.version_info >= (3, 10) else ''
            self.assertRegex(report['Threads'], rf'MainThread, native id \d+, reporting, .*\n{handled}')
            self.assertEqual(report['Lock'], 'True\n')
            self.assertEqual(report['Handled'], "TimeoutError('db-3')\n")

        def test_patched_before_gmr_is_imported(self):
            self.check(first=patch)

        def test_patched_after_gmr_is_imported(self):
            self.check(patch)

        def test_a_section_that_hangs_is_reported(self):
            with Child(f"""
                {patch}
                import posix
                hang, go = posix.pipe()
                gmr.GuruMeditation.section_timeout = 0.5
                gmr.register_section('Hangs', lambda: posix.read(hang, 1))
                setup('1')
                def release(*_):
                    posix.write(go, b'one')
                signal.signal(signal.SIGTERM, release)
                ready()
                while posix.read(0, 1):
                    ready()
            """) as child:
                os.kill(child.wait_ready().pid, signal.SIGUSR2)
                child.wait_for(lambda: child.err.count(b'no answer within') == 2, 'a report')
                text = child.err.decode()
                hangs = r'no answer within 0.5 seconds: Thread #\d+ is at it(.*\n)+.*<lambda>'
                self.assertRegex(sections(text)['Hangs'], hangs)
                os.kill(child.pid, signal.SIGTERM)
                os.write(child.process.stdin.fileno(), b'+')
                child.wait_ready(2)
                self.assertEqual(sections(child.signal())['Hangs'].strip(), 'n')
                self.assertEqual(child.finish(), 0, child.text())

        def test_a_handler_that_raises_in_a_section_is_not_swallowed(self):
            for handler in ('stop', 'service.stop', 'service', 'functools.partial(stop, signal.SIGTERM)'):
                with (
                    self.subTest(handler),
                    Child(f"""
                    {patch}
                    import functools
                    def stop(*_):
                        signal.signal(signal.SIGTERM, signal.SIG_IGN)
                        sys.exit(7)
                    class Service:
                        def stop(self, signum, frame):
                            sys.exit(7)
                        __call__ = stop
                    service = Service()
                    signal.signal(signal.SIGTERM, {handler})
                    def work():
                        os.kill(os.getpid(), signal.SIGTERM)
                        until = time.monotonic() + 0.3
                        while time.monotonic() < until:
                            pass
                    gmr.register_section('Exits', lambda: sys.exit('not a handler'))
                    gmr.register_section('Work', work)
                    setup('1')
                    hold()
                """) as child,
                ):
                    text = child.wait_ready().signal()
                    self.assertIn('SystemExit: not a handler', sections(text)['Exits'])
                    self.assertEqual(child.process.wait(DEADLINE), 7)

        def test_a_green_thread_that_waits_for_its_report_can_be_killed_and_others_signalled(self):
            with Child(f"""
                {patch}
                import greenlet
                def sleep():
                    posix.write(1, b'ready' + bytes([10]))
                    time.sleep(0.5)
                import posix
                gmr.register_section('Sleeps', sleep)
                setup('1')
                spawn = __import__('gevent').spawn if 'gevent' in sys.modules else __import__('eventlet').spawn
                ended = []
                def work():
                    try:
                        gmr.TextGuruMeditation().run()
                    except greenlet.GreenletExit:
                        ended.append(1)
                one = spawn(work)
                time.sleep(0.2)
                gmr.GuruMeditation._sections.pop('Sleeps')
                os.kill(os.getpid(), signal.SIGUSR2)
                one.kill()
                deadline = time.monotonic() + {DEADLINE}
                while not ended and time.monotonic() < deadline:
                    time.sleep(0.05)
                assert ended
                while gmr._turn.empty() or gmr._clients:
                    time.sleep(0.05)
                assert not gmr._helpers and not gmr._torn and gc.isenabled()
            """) as child:
                self.assertEqual(child.finish(), 0, child.text())
                self.assertEqual(child.reports(), 1)

        def test_a_watcher_whose_section_hangs_lets_the_signal_through(self):
            with (
                tempfile.TemporaryDirectory() as folder,
                Child(f"""
                {patch}
                import posix
                hang, go = posix.pipe()
                gmr.GuruMeditation.section_timeout = 0.5
                gmr.register_section('Hangs', lambda: posix.read(hang, 1))
                setup('1', watch_file={folder!r}, watch_interval=0.05)
                ready()
                while posix.read(0, 1):
                    pass
            """) as child,
            ):
                os.utime(child.wait_ready() and folder)
                child.wait_for(lambda: child.reports() == 1, 'the report of the watcher')
                self.assertIn('no answer within 0.5 seconds', child.err.decode())
                child.signal()
                self.assertEqual(child.finish(), 0, child.text())

        def test_a_section_may_run_a_program_and_wait_in_a_green_way(self):
            with Child(f"""
                {patch}
                import subprocess
                import threading as patched
                def status():
                    time.sleep(0.2)
                    return subprocess.check_output(['grep', 'SigBlk', '/proc/self/status'])
                gmr.register_section('Status', status)
                texts = []
                threads = [
                    patched.Thread(target=lambda: texts.append(gmr.TextGuruMeditation().run())) for n in range(2)
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert len(texts) == 2 and any('SigBlk:\\t0000000000000000' in text for text in texts), texts
                assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
                assert gc.isenabled() and not gmr._turn.empty() and not gmr._clients and not gmr._torn
            """) as child:
                self.assertEqual(child.finish(), 0, child.text())

        def test_a_busy_hub_is_reported(self):
            text = report_of(f"""
                {patch}
                import threading as patched
                stop = []
                def spin():
                    ready()
                    while not stop:
                        pass
                setup('1')
                def quit(*args):
                    stop.append(1)
                signal.signal(signal.SIGTERM, quit)
                gmr.register_section('The End', lambda: os.kill(os.getpid(), signal.SIGTERM) or 'of the report')
                thread = patched.Thread(target=spin)
                thread.start()
                thread.join()
            """)
            self.assertRegex(text, r'running in Thread #\d+\n\n(.*\n)*?.* in spin\n')

    return PatchedTest


if greenlet and installed('gevent'):
    GeventTest = patched_tests('import gevent.monkey; gevent.monkey.patch_all()')
if greenlet and installed('eventlet'):
    EventletTest = patched_tests(
        'import warnings; warnings.simplefilter("ignore"); import eventlet; eventlet.monkey_patch()'
    )


def options_of(text):
    """Return {group: {option: value}} as a report shows a configuration."""
    groups = {}
    for line in text.splitlines():
        if line.endswith(':') and not line.startswith(' '):
            groups[line[:-1]] = group = {}
        elif ' = ' in line:
            name, _, value = line.strip().partition(' = ')
            group[name] = value
    return groups


class ConfigurationTest(unittest.TestCase):
    def check(self, conf, expected):
        self.assertEqual(options_of(configuration(conf)), expected)

    def test_mappings_flat_and_with_groups(self):
        self.check({'a': 1}, {'default': {'a': '1'}})
        self.check(
            {'z': None, 'db': {'host': 'h', 'password': 'p'}},
            {'default': {'z': 'None'}, 'db': {'host': 'h', 'password': '***'}},
        )

    def test_config_parser_each_option_on_its_own(self):
        parser = configparser.ConfigParser()
        parser.read_string('[DEFAULT]\nverbose = yes\n[db]\nhost = h\nurl = mysql://u:p@h/d\nbroken = %(nothing)s\n')
        shown = options_of(configuration(parser))
        self.assertEqual(shown['default'], {'verbose': 'yes'})
        self.assertEqual(shown['db']['url'], 'mysql://u:***@h/d')
        self.assertIn('InterpolationMissingOptionError', shown['db']['broken'])

    def test_environment_namespace_and_object(self):
        with unittest.mock.patch.dict(os.environ, {'GMR_TOKEN': 'abc', 'GMR_PORT': '80'}):
            shown = options_of(configuration(os.environ))['default']
        self.assertEqual((shown['GMR_TOKEN'], shown['GMR_PORT']), ('***', '80'))
        self.check(argparse.Namespace(port=80, api_key='k'), {'default': {'port': '80', 'api_key': '***'}})
        self.check(
            types.SimpleNamespace(db=types.SimpleNamespace(user='u', passwd='p')),
            {'db': {'user': 'u', 'passwd': '***'}},
        )

    def test_config_opts_of_oslo_config_with_what_it_marks_secret(self):
        class Group(collections.abc.Mapping):
            def __init__(self, **values):
                self.values = values

            def __getitem__(self, key):
                if isinstance(self.values[key], Exception):
                    raise self.values[key]
                return self.values[key]

            def __iter__(self):
                return iter(self.values)

            def __len__(self):
                return len(self.values)

        def declare(**marks):
            return {k: {'opt': types.SimpleNamespace(secret=v), 'cli': False} for k, v in marks.items()}

        conf = Group(debug=True, pin=1234, keystone_authtoken=Group(auth_url='http://h:5000', admin='root', unset=None))
        conf.values['bad'] = ValueError('no such option, password=hunter2')
        conf._opts = declare(debug=False, pin=True, bad=False)
        conf._groups = {
            'keystone_authtoken': types.SimpleNamespace(_opts=declare(auth_url=False, admin=True, unset=True))
        }
        expected = {
            'default': {'debug': 'True', 'pin': '***', 'bad': '(ValueError: no such option, password=***)'},
            'keystone_authtoken': {'auth_url': 'http://h:5000', 'admin': '***', 'unset': 'None'},
        }
        self.check(conf, expected)
        module = types.SimpleNamespace(CONF=conf)
        with unittest.mock.patch.dict(sys.modules, {'oslo_config.cfg': module}):
            self.check(None, expected)

    def test_without_one_the_section_says_so(self):
        if 'oslo_config.cfg' not in sys.modules:
            self.assertEqual(configuration(None), 'No configuration was given to setup_autorun().')

    def test_options_are_read_when_the_report_is_made(self):
        with Child("""
            conf = {'level': 1}
            setup('1', conf=conf)
            conf['level'] = 2
            hold()
        """) as child:
            self.assertIn('level = 2\n', child.wait_ready().signal())


if installed('oslo_config'):

    class OsloConfigTest(unittest.TestCase):
        def test_a_real_global_conf_is_found_and_shown(self):
            text = report_of("""
                from oslo_config import cfg
                cfg.CONF.register_opts([cfg.StrOpt('pin', secret=True, default='4711'), cfg.PortOpt('port', default=80)])
                cfg.CONF.register_opts([cfg.StrOpt('auth_url', default='http://h')], group='keystone_authtoken')
                cfg.CONF([])
                setup('1')
                hold()
            """)
            shown = options_of(sections(text)['Configuration'])
            self.assertEqual((shown['default']['pin'], shown['default']['port']), ('***', '80'))
            self.assertEqual(shown['keystone_authtoken'], {'auth_url': 'http://h'})


class ProcessesTest(unittest.TestCase):
    def test_the_process_and_its_children_recursively(self):
        with Child("""
            import subprocess
            code = "import subprocess, sys; p = subprocess.Popen(['cat'], stdin=-1); print(p.pid, flush=True); p.wait()"
            child = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE)
            os.write(1, b'%d %s' % (child.pid, child.stdout.readline()))
            setup('1')
            hold()
            child.terminate()
            child.wait()
        """) as child:
            text = sections(child.wait_ready().signal())['Processes']
            below, lowest = map(int, child.out.split()[:2])
            os.kill(lowest, signal.SIGTERM)
            child.finish()
        name = rf'run by: {re.escape(pwd.getpwuid(os.getuid()).pw_name)} \({os.getuid()}\)'
        self.assertRegex(
            text,
            rf'^Process {child.pid} \(under {os.getpid()}\) \[ {name}, state: running \]\n'
            rf'    Process {below} \(under {child.pid}\) \[ {name}, state: [\w ]+ \]\n'
            rf'        Process {lowest} \(under {below}\) \[ {name}, state: [\w ]+ \]\n'
            r'time = \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00\n',
        )
        for fact in ('start time', 'uptime', 'command line', 'working directory', 'python', 'platform', 'cpu seconds'):
            self.assertIn(f'\n{fact} =', text)
        self.assertRegex(text, r'\nopen files = \d+ of \d+\ngarbage collector = enabled, ')

    def test_the_argument_after_password_is_hidden_in_the_command_line(self):
        with Child('setup("1")\nhold()', arguments=['--password', 'hunter2', '--port', '80', '--token=abc']) as child:
            text = child.wait_ready().signal()
        self.assertIn('--password *** --port 80 --token=***', text)
        self.assertNotIn('hunter2', text)


class SectionsTest(unittest.TestCase):
    """A generator may do what it likes."""

    def setUp(self):
        self.addCleanup(setattr, gmr.GuruMeditation, 'section_timeout', gmr.GuruMeditation.section_timeout)
        gmr.GuruMeditation.section_timeout = 0.5

    def test_a_failing_one_is_shown_with_its_traceback_and_all_others_appear(self):
        def fail(error):
            raise error

        gmr.register_section('After', lambda: 'appears')
        self.addCleanup(gmr.GuruMeditation._sections.pop, 'After')
        for error in (
            ValueError('bad'),
            SystemExit(3),
            KeyboardInterrupt(),
            GeneratorExit(),
            type('B', (BaseException,), {})(),
        ):
            with self.subTest(type(error).__name__):
                gmr.register_section('Fails', functools.partial(fail, error))
                self.addCleanup(gmr.GuruMeditation._sections.pop, 'Fails', None)
                shown = sections(gmr.TextGuruMeditation().run())
                self.assertRegex(
                    shown['Fails'],
                    rf'{type(error).__name__}.*\nTraceback .*\n\n.*test_gmr.py:\d+ in fail\n    `raise error`',
                )
                self.assertEqual(shown['After'], 'appears\n')

    @patient
    def test_hostile_values_are_shown_as_far_as_they_go(self):
        class Hostile:
            def __init__(self, **methods):
                self.methods = methods

            def __str__(self):
                return self.methods['str']()

            def __repr__(self):
                raise RuntimeError('repr')

            def __len__(self):
                raise RuntimeError('len')

        class HostileList(list):
            def __iter__(self):
                yield 'first'
                raise RuntimeError('iter')

        class HostileKey:
            def __str__(self):
                raise RuntimeError('key')

        circle = {'name': 'circle'}
        circle['self'] = [circle]
        deep = []
        for _ in range(3000):
            deep = [deep]
        for value, shown in (
            ({'a': Hostile(str=lambda: 1 / 0), 'b': 2}, 'a = (ZeroDivisionError: division by zero)\nb = 2'),
            ({'a': Hostile(str=sys.exit), 'b': 2}, 'a = (SystemExit)\nb = 2'),
            ({'secret': Hostile(str=str), 'b': 2}, 'secret = (RuntimeError: len)\nb = 2'),
            (HostileList([1]), 'first\n(RuntimeError: iter)'),
            ({HostileKey(): 1, 'b': 2}, '(RuntimeError: key) = 1\nb = 2'),
            (circle, 'name = circle\nself =\n  (itself)'),
            ('lone \ud800 surrogate', 'lone \\ud800 surrogate'),
            (b'\xff\x00', '\\xff\\x00'),
            ('\x1b[2Jcleared', '\\x1b[2Jcleared'),
        ):
            with self.subTest(shown):
                self.assertEqual(report_on(value), shown)
        self.assertIn('(too deep)', report_on(deep))
        self.assertIn('cut', report_on(itertools.count())[-20:])

    def test_one_that_never_returns_is_late_with_its_stack_and_not_started_again(self):
        stop, started = threading.Event(), []

        def stuck_generator():
            started.append(1)
            stop.wait()

        gmr.register_section('Stuck', stuck_generator)
        self.addCleanup(gmr.GuruMeditation._sections.pop, 'Stuck')
        threads = threading.active_count(), len(sys._current_frames())
        shown = [sections(gmr.TextGuruMeditation().run())['Stuck'] for _ in range(50)]
        self.assertRegex(
            shown[0],
            r'^no answer within 0.5 seconds: Thread #\d+ is at it since .* \(\d s\)\n(.*\n)*.* in stuck_generator\n',
        )
        self.assertEqual(re.findall('since (.*) [(]', shown[0]), re.findall('since (.*) [(]', shown[49]))
        self.assertEqual(len(started), 1)
        self.assertLessEqual(len(sys._current_frames()), threads[1] + 1)
        stop.set()
        deadline = time.monotonic() + DEADLINE
        while gmr._helpers and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertEqual(sections(gmr.TextGuruMeditation().run())['Stuck'], 'None')

    def test_the_text_of_an_exception_that_never_comes_leaves_one_stuck_thread_and_the_report(self):
        gate = threading.Event()

        class StuckError(Exception):
            def __str__(self):
                gate.wait(DEADLINE)
                return 'late'

        def handle():
            try:
                raise StuckError
            except StuckError:
                handling.set()
                gate.wait(DEADLINE)

        handling = threading.Event()
        thread = threading.Thread(target=handle)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(gate.set)
        handling.wait(DEADLINE)
        before = len(sys._current_frames())
        for _ in range(5):
            self.assertIn('in handle\n', sections(gmr.TextGuruMeditation().run())['Threads'])
        self.assertLessEqual(len(sys._current_frames()), before + 1)

    def test_one_that_wants_a_lock_of_the_interrupted_code_does_not_freeze_it(self):
        text = report_of("""
            lock = threading.Lock()
            gmr.TextGuruMeditation.section_timeout = 0.3
            gmr.register_section('Wants', lambda: lock.acquire() and 'never')
            setup('1')
            with lock:
                hold()
        """)
        self.assertIn('no answer within 0.3 seconds', sections(text)['Wants'])


class StandardErrorTest(unittest.TestCase):
    """A report finds a way out whatever has become of stderr."""

    def private_report(self, body, code=0, **options):
        with tempfile.TemporaryDirectory() as folder:
            with Child(body, TMPDIR=folder, **options) as child:
                os.kill(child.wait_ready().pid, signal.SIGUSR2)
                self.wait_for_files(folder, 1)
                self.assertEqual(child.finish(), code, child.text())
                self.assertIn(b'survived', child.out)
            (name,) = os.listdir(folder)
            self.assertRegex(name, rf'^-c_gurumeditation_\d{{14}}_{child.pid}$')
            path = os.path.join(folder, name)
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
            with open(path, encoding='utf-8') as file:
                text = file.read()
        self.assertTrue(text.endswith(END), text[-200:])
        return text

    def wait_for_files(self, folder, count):
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            paths = [os.path.join(folder, name) for name in os.listdir(folder)]
            if sum(os.path.getsize(path) > 0 for path in paths) >= count:
                return
            time.sleep(0.01)
        self.fail('no private file')

    def waits(self, *lines):
        return '\n'.join((*lines, 'hold()', 'os.write(1, b"survived")'))

    def test_interrupted_in_the_middle_of_the_programs_own_write(self):
        with Child("""
            setup('1')
            ready()
            for n in range(3000):
                print('x' * 100, file=sys.stderr)
            os.write(1, b'printed')
            hold()
        """) as child:
            child.wait_ready()
            for _ in range(20):
                child.signal()
            self.assertEqual(child.finish(), 0)
            self.assertEqual(child.err.count(b'x' * 100 + b'\n'), 3000)
            self.assertNotIn(b'reentrant', child.err)

    def test_closed_or_none_or_replaced_but_descriptor_2_is_still_what_it_was(self):
        for line in (
            'sys.stderr = None',
            'sys.stderr.close()',
            'import io; sys.stderr = io.StringIO()',
            'sys.stderr = object()',
        ):
            with self.subTest(line):
                report_of(f'setup("1")\n{line}\nhold()\nsys.stderr = None')

    def test_the_null_device(self):
        self.private_report(self.waits("setup('1')"), stderr=subprocess.DEVNULL)

    def test_descriptor_2_closed(self):
        self.private_report(self.waits("setup('1')", 'os.close(2)'))

    def test_descriptor_2_closed_and_taken_by_a_file_of_the_program(self):
        with tempfile.NamedTemporaryFile() as base:
            self.private_report(
                self.waits("setup('1')", 'sys.stderr = None', 'os.close(2)', f'kept = open({base.name!r}, "r+")')
            )
            self.assertEqual(base.read(), b'')

    def test_a_pipe_whose_reader_is_gone_even_if_sigpipe_kills(self):
        for default in ('', 'signal.signal(signal.SIGPIPE, signal.SIG_DFL)'):
            with self.subTest(default):
                reader, writer = os.pipe()
                os.close(reader)
                try:
                    self.private_report(self.waits("setup('1')", default), stderr=writer)
                finally:
                    os.close(writer)

    def test_a_full_pipe_holds_the_program_no_longer_than_the_deadline_and_loses_nothing(self):
        for blocking in (True, False):
            with self.subTest(blocking=blocking), tempfile.TemporaryDirectory() as folder:
                reader, writer = os.pipe()
                os.set_blocking(writer, False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        os.write(writer, b'f' * 4096)
                os.set_blocking(writer, blocking)
                lines = "setup('1')", 'gmr.TextGuruMeditation.delivery_timeout = 0.5'
                with Child(self.waits(*lines), stderr=writer, TMPDIR=folder) as child:
                    os.close(writer)
                    child.wait_ready()
                    for count in (1, 2):
                        os.kill(child.pid, signal.SIGUSR2)
                        self.wait_for_files(folder, count)
                    data = b''
                    while not data.endswith(END.encode()):
                        data += os.read(reader, 65536)
                    self.assertIn(b'f=====', data)
                    os.close(reader)
                    self.assertEqual(child.finish(), 0)
                    self.assertIn(b'survived', child.out)

    def test_a_full_pipe_holds_the_program_no_longer_where_no_thread_can_be_had(self):
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b'f' * 4096)
        os.set_blocking(writer, True)
        lines = (
            "setup('1')",
            'gmr.TextGuruMeditation.delivery_timeout = 0.5',
            'gmr._thread.start_new_thread = gmr._native_start = None',
        )
        with (
            tempfile.TemporaryDirectory() as folder,
            Child(self.waits(*lines), stderr=writer, TMPDIR=folder) as child,
        ):
            os.close(writer)
            child.wait_ready()
            os.kill(child.pid, signal.SIGUSR2)
            self.wait_for_files(folder, 1)
            self.assertEqual(child.finish(), 0)
            self.assertIn(b'survived', child.out)

    def test_a_pipe_that_is_drained_slowly_gets_all_of_it(self):
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        body = "gmr.register_section('Long', lambda: 'x' * 300_000)\nsetup('1')\nhold()"
        with Child(body, stderr=writer) as child, open(reader, 'rb', buffering=0) as pipe:
            os.close(writer)
            os.kill(child.wait_ready().pid, signal.SIGUSR2)
            data = b''
            while not data.endswith(END.encode()):
                data += pipe.read(10_000)
                time.sleep(0.001)
            self.assertEqual(data.count(b'x' * 300_000), 1)
            self.assertEqual(child.finish(), 0)

    def test_ascii_only(self):
        text = report_of("gmr.register_section('X', lambda: '\\u00e9'); setup('1'); hold()", PYTHONIOENCODING='ascii')
        self.assertEqual(sections(text)['X'], '\\xe9\n')

    def test_a_file_that_has_got_the_number_of_a_full_stderr_is_not_written_to(self):
        with tempfile.TemporaryDirectory() as folder:
            child = Child(f"""
                reader, writer = os.pipe()
                os.set_blocking(writer, False)
                os.dup2(writer, 2)
                try:
                    while True:
                        os.write(2, b'x' * 4096)
                except BlockingIOError:
                    pass
                os.environ['TMPDIR'] = {folder!r}
                gmr.GuruMeditation.delivery_timeout = 0.2
                setup('1')
                os.kill(os.getpid(), signal.SIGUSR2)
                assert gmr._helpers
                os.close(2)
                data = os.open({folder!r} + '/data', os.O_RDWR | os.O_CREAT)
                assert data == 2
                while gmr._helpers:
                    time.sleep(0.01)
                sys.exit(os.fstat(data).st_size)
            """)
            with child:
                self.assertEqual(child.finish(), 0, child.text())


class LogDirTest(unittest.TestCase):
    def check_falls_back(self, log_dir, **options):
        body = f"with warnings.catch_warnings(record=True): setup('1', log_dir={log_dir!r})\nhold()"
        with Child(f'import warnings\n{body}', **options) as child:
            text = child.wait_ready().signal()
            self.assertEqual(child.finish(), 0)
        self.assertRegex(text, f'^Guru Meditation Report: no file in {re.escape(log_dir)}: .*Error.*\n={{72}}\n')
        return text

    def test_it_falls_back_to_stderr_with_the_reason(self):
        with tempfile.NamedTemporaryFile() as file:
            for log_dir in ('/nowhere/at/all', file.name, '/proc'):
                with self.subTest(log_dir):
                    self.check_falls_back(log_dir)

    def test_the_set_up_warns_if_it_is_missing(self):
        for arguments in ("log_dir='/nowhere/at/all'", "conf={'oslo_reports': {'log_dir': '/nowhere/at/all'}}"):
            with Child(f"setup('1', {arguments}); hold()", options=['-W', 'always']) as child:
                line = b'RuntimeWarning: log_dir: there is no folder /nowhere/at/all yet'
                child.wait_for(lambda child=child, line=line: line in child.err, 'the warning')
                child.wait_ready()
                self.assertEqual(child.finish(), 0)

    def test_a_full_disk_leaves_no_half_a_report(self):
        limits = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (700, 700))
        with tempfile.TemporaryDirectory() as folder:
            self.check_falls_back(folder, limits=limits)
            self.assertEqual(os.listdir(folder), [])

    def test_no_descriptor_left(self):
        with tempfile.TemporaryDirectory() as folder:
            text = report_of(
                f"""
                setup('1', log_dir={folder!r})
                kept = []
                try:
                    while True:
                        kept.append(os.dup(0))
                except OSError:
                    pass
                hold()
            """,
                limits=functools.partial(resource.setrlimit, resource.RLIMIT_NOFILE, (64, 64)),
            )
        self.assertIn('Too many open files', text)
        self.assertIn('open files = 64 of 64', text)

    def test_files_are_private_and_unique_and_follow_no_link(self):
        with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile() as target:
            with Child(f"""
                os.umask(0o777)
                os.chdir({folder!r})
                setup('1', 'my/service', log_dir='.')
                gmr.TextGuruMeditation.timestamp_fmt = 'NOW'
                os.symlink({target.name!r}, 'my_service_gurumeditation_NOW_%d' % os.getpid())
                os.chdir('/')
                hold()
            """) as child:
                child.wait_ready()
                for count in range(1, 4):
                    os.kill(child.pid, signal.SIGUSR2)
                    child.wait_for(lambda: child.err.count(b'\n') == count, 'a path')  # noqa: B023
                self.assertEqual(child.finish(), 0)
            stem = os.path.join(os.path.realpath(folder), f'my_service_gurumeditation_NOW_{child.pid}')
            expected = [f'{stem}_{count}' for count in (2, 3, 4)]
            self.assertEqual(child.err.decode().splitlines(), [f'Guru Meditation Report: {path}' for path in expected])
            for path in expected:
                self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
                with open(path, encoding='utf-8') as file:
                    self.assertTrue(file.read().endswith(END))
            self.assertEqual(target.read(), b'')

    def test_the_configuration_may_name_it(self):
        with (
            tempfile.TemporaryDirectory() as folder,
            Child(f"""
            setup('1', conf={{'oslo_reports': {{'log_dir': {folder!r}}}}})
            hold()
        """) as child,
        ):
            os.kill(child.wait_ready().pid, signal.SIGUSR2)
            child.wait_for(lambda: child.err.count(b'\n') == 1, 'a path')
            self.assertEqual(len(os.listdir(folder)), 1)
            self.assertEqual(child.finish(), 0)


class InterruptedTest(unittest.TestCase):
    """The signal arrives at the worst moment."""

    def check(self, body, count=1, **options):
        with Child(body, **options) as child:
            child.wait_ready()
            texts = [child.signal() for _ in range(count)]
            self.assertEqual(child.finish(), 0, child.text())
        return texts

    def test_ten_frames_below_the_recursion_limit(self):
        self.check(
            """
            setup('1')
            def descend(n):
                if n:
                    descend(n - 1)
                else:
                    hold()
            sys._getframe()
            def depth():
                frame, n = sys._getframe(), 0
                while frame:
                    frame, n = frame.f_back, n + 1
                return n
            descend(sys.getrecursionlimit() - depth() - 13)
            assert sys.getrecursionlimit() == 1000
            assert gc.isenabled()
        """,
            count=2,
        )

    def test_ten_frames_below_the_recursion_limit_where_no_thread_can_be_had(self):
        for names in ('gmr._thread.start_new_thread', 'gmr._thread.start_new_thread = gmr._native_start'):
            self.check(f"""
                setup('1')
                {names} = None
                def depth():
                    frame, n = sys._getframe(), 0
                    while frame:
                        frame, n = frame.f_back, n + 1
                    return n
                def descend(n):
                    if n:
                        descend(n - 1)
                    else:
                        hold()
                descend(sys.getrecursionlimit() - depth() - 13)
                while sys.getrecursionlimit() != 1000:
                    time.sleep(0.01)
            """)

    def test_containers_that_other_threads_change_are_shown(self):
        with Child("""
            import collections
            cache, names, last = {0: 'the first'}, {0}, collections.deque([0])
            conf = {'group': {'option': 'value'}, 'extra': 1}
            def change():
                n = 0
                while True:
                    n += 1
                    cache[n] = n
                    names.add(n)
                    last.append(n)
                    conf[f'extra{n}'] = conf.pop('extra' if n == 1 else f'extra{n - 1}')
                    if not n % 500:
                        cache.clear(), names.clear(), last.clear()
                        time.sleep(0.0001)
            gmr.register_section('Cache', lambda: cache)
            gmr.register_section('Names', lambda: names)
            gmr.register_section('Last', lambda: last)
            setup('1', conf=conf)
            threading.Thread(target=change, daemon=True).start()
            for n in range(30):
                text = gmr.TextGuruMeditation('1', conf=conf).run()
                assert 'option = value' in text, text
                assert 'Runtime' + 'Error: ' not in text, text
        """) as child:
            self.assertEqual(child.finish(), 0, child.text()[-3000:])

    def test_nothing_is_imported_meanwhile(self):
        self.check("""
            class Finder:
                names = []
                @classmethod
                def find_spec(cls, name, path=None, target=None):
                    cls.names.append(name)
            gmr.register_section('Fails', lambda: 1 / 0)
            gmr.register_section('Data', lambda: {'password': 'x', 'url': 'a://b:c@d'})
            setup('1', conf={'a': 1})
            sys.meta_path.insert(0, Finder)
            hold()
            assert not Finder.names, Finder.names
        """)

    def test_no_finalizer_runs_meanwhile(self):
        self.check("""
            class Finalized:
                early = []
                def __init__(self):
                    self.me = self
                def __del__(self):
                    self.early.extend(gmr._before)
            gmr.register_section('Garbage', lambda: [str(Finalized()) for n in range(3000)])
            setup('1')
            hold()
            gc.collect()
            assert not Finalized.early
        """)

    def test_holding_the_lock_of_the_thread_registry_or_of_logging_or_of_an_import(self):
        for lines in (
            'with threading._active_limbo_lock: hold()',
            'import logging; h = logging.StreamHandler(); logging.getLogger().addHandler(h)\nwith h.lock: hold()',
            "import importlib._bootstrap as b\nlock = b._get_module_lock('json')\nlock.acquire()\nhold()\nlock.release()",
        ):
            with self.subTest(lines):
                self.check(f"setup('1')\n{lines}")

    def test_a_burst_of_signals_gives_whole_reports_one_after_the_other(self):
        with Child("""
            setup('1')
            hold()
            hold()
        """) as child:
            child.wait_ready()
            for _ in range(100):
                os.kill(child.pid, signal.SIGUSR2)
            child.process.stdin.write(b'-')
            child.process.stdin.flush()
            child.wait_ready(2)
            child.wait_for(child.reports, 'a report')
            self.assertEqual(child.finish(), 0)
        text = child.err.decode()
        self.assertEqual(text.count('Guru Meditation'), text.count(END))
        self.assertEqual(len(TITLE.findall(text)), text.count(END) * 6)

    def test_threads_start_and_end_and_fork_all_the_time(self):
        self.check(
            """
            stop = []
            def churn():
                while not stop:
                    thread = threading.Thread(target=int)
                    thread.start()
                    thread.join()
            def fork():
                while not stop:
                    pid = os.fork()
                    if not pid:
                        os._exit(0 if gc.isenabled() and not gmr._turn.empty() and sys.getrecursionlimit() == 1000 else 1)
                    if os.waitpid(pid, 0)[1]:
                        os._exit(9)
            threads = [threading.Thread(target=work) for work in (churn, churn, fork)]
            for thread in threads:
                thread.start()
            setup('1')
            hold()
            stop.append(1)
            for thread in threads:
                thread.join()
        """,
            count=20,
        )

    def test_during_interpreter_exit(self):
        with Child("""
            import atexit
            atexit.register(hold)
            setup('1')
        """) as child:
            child.wait_ready().signal()
            self.assertEqual(child.finish(), 0)

    def test_no_thread_can_be_started(self):
        text = self.check("""
            import resource
            gmr.register_section('In Place', lambda: 'made')
            setup('1')
            gmr._thread.start_new_thread = None
            gmr._native_start = None
            hold()
        """)[0]
        self.assertIn('made\n', text)
        self.check("""
            import resource
            setup('1')
            resource.setrlimit(resource.RLIMIT_AS, (int(open('/proc/self/statm').read().split()[0]) * 4096 + 500_000,) * 2)
            hold()
        """)

    def test_a_handler_that_ends_the_program_ends_it_also_where_no_thread_can_be_started(self):
        for first in ('', 'threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()\n'):
            with Child(
                first
                + textwrap.dedent("""
                signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
                def work():
                    os.kill(os.getpid(), signal.SIGTERM)
                    until = time.monotonic() + 0.3
                    while time.monotonic() < until:
                        pass
                gmr.register_section('Work', work)
                setup('1')
                gmr._thread.start_new_thread = gmr._native_start = None
                hold()
            """)
            ) as child:
                self.assertTrue(child.wait_ready().signal().endswith(END))
                self.assertEqual(child.process.wait(DEADLINE), 7)

    def test_of_two_handlers_that_raise_the_one_that_ends_the_program_wins(self):
        for first, second in (('TERM', 'ALRM'), ('ALRM', 'TERM')):
            with Child(f"""
                def alarm(signum, frame):
                    raise TimeoutError
                signal.signal(signal.SIGALRM, alarm)
                signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
                def work():
                    for signum in (signal.SIG{first}, signal.SIG{second}):
                        os.kill(os.getpid(), signum)
                        time.sleep(0.2)
                gmr.register_section('Work', work)
                setup('1')
                hold()
            """) as child:
                child.wait_ready().signal()
                self.assertEqual(child.process.wait(DEADLINE), 7)

    def test_a_child_that_a_handler_forks_meanwhile_is_not_held(self):
        with Child("""
            def fork(signum, frame):
                if not os.fork():
                    signal.signal(signal.SIGALRM, signal.SIG_DFL)
                    signal.alarm(20)  # kills it if it is held, before a minute is over
            signal.signal(signal.SIGALRM, fork)
            main = os.getpid()
            def work():
                os.kill(main, signal.SIGALRM)
                time.sleep(0.3)
            gmr.register_section('Work', work)
            setup('1')
            os.kill(main, signal.SIGUSR2)
            if os.getpid() != main:
                os.write(1, b'child')
                os._exit(3)
            assert os.waitstatus_to_exitcode(os.wait()[1]) == 3
            ready()
        """) as child:
            self.assertEqual(child.finish(), 0, child.text())
            self.assertIn(b'child', child.out)

    def test_a_report_that_never_ends_lets_the_program_go_on_as_it_was(self):
        with Child("""
            gmr._MAX_HOLD = 0.5
            gmr._collect_processes = lambda timeout: time.sleep(3600)  # as from a disk that does not answer
            setup('1')
            before = gc.isenabled(), sys.getrecursionlimit(), sys.getswitchinterval()
            os.kill(os.getpid(), signal.SIGUSR2)
            assert before == (gc.isenabled(), sys.getrecursionlimit(), sys.getswitchinterval())
            os.write(1, b'survived')
        """) as child:
            self.assertEqual(child.finish(), 0, child.text())
            self.assertIn(b'survived', child.out)

    def test_what_other_signals_handlers_raise_reaches_the_program_and_not_the_report(self):
        with Child("""
            def alarm(signum, frame):
                raise TimeoutError('of the program')
            signal.signal(signal.SIGALRM, alarm)
            gmr.register_section('Alarm', lambda: os.kill(os.getpid(), signal.SIGALRM) or time.sleep(0.2) or 'asked for')
            setup('1')
            try:
                hold()
            except TimeoutError:
                os.write(1, b'caught')
            assert gc.isenabled() and sys.getrecursionlimit() == 1000
            hold()
        """) as child:
            text = child.wait_ready().signal()
            self.assertEqual(sections(text)['Alarm'], 'asked for\n')
            child.wait_ready(2).signal()
            self.assertIn(b'caught', child.out)

    def test_handlers_that_raise_at_any_moment_leave_it_working(self):
        with Child("""
            import random
            class Alarm(Exception):
                pass
            def alarm(signum, frame):
                raise Alarm
            signal.signal(signal.SIGALRM, alarm)
            setup('1')
            asked = came = 0
            deadline = time.monotonic() + 3
            while time.monotonic() < deadline:
                asked += 1
                try:
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.01))
                    os.kill(os.getpid(), signal.SIGUSR2)
                    while True:
                        time.sleep(0.001)
                except Alarm:
                    came += 1
            assert asked == came > 20, (asked, came)
            time.sleep(0.1)
            assert gc.isenabled() and sys.getrecursionlimit() == 1000 and threading.stack_size() == 0 and not gmr._turn.empty()
            hold()
        """) as child:
            child.wait_ready().signal()
            self.assertEqual(child.finish(), 0)

    def test_a_generator_may_recurse_without_end(self):
        text = self.check("""
            def endless():
                return sorted([1, 2], key=lambda item: endless())
            gmr.register_section('Endless', endless)
            threading.stack_size(65536)
            setup('1')
            hold()
        """)[0]
        self.assertIn('RecursionError', sections(text)['Endless'])

    def test_extreme_settings_of_the_program(self):
        self.check("""
            sys.setrecursionlimit(2**31 - 1)
            threading.stack_size(65536)
            sys.argv = []
            sys.settrace(lambda *args: None)
            class Stream:
                encoding = property(lambda self: 1 / 0)
            setup('1')
            sys.stderr = Stream()
            hold()
            assert sys.getrecursionlimit() == 2**31 - 1 and threading.stack_size() == 65536
            sys.stderr = None
        """)

    def test_the_heap_holds_horrors(self):
        self.check(
            """
            import weakref
            %s
            class Meta(type):
                def __hash__(cls): os._exit(3)
                def __eq__(cls, other): os._exit(4)
            class Horror(metaclass=Meta):
                __class__ = property(lambda self: os._exit(5))
                def __getattr__(self, name): os._exit(6)
            kept = [Horror() for n in range(10)]
            class Dies: pass
            dies = Dies()
            proxy = [weakref.proxy(dies)]
            del dies
            setup('1')
            hold()
        """
            % ('import greenlet' if greenlet else '')
        )

    def test_source_that_cannot_be_read_safely(self):
        with tempfile.TemporaryDirectory() as folder:
            fifo, bad = os.path.join(folder, 'fifo.py'), os.path.join(folder, 'bad.py')
            os.mkfifo(fifo)
            with open(bad, 'wb') as file:
                file.write(b'hold()  # \xff\xfe\n')
            text = self.check(f"""
                setup('1')
                def nest(*names):
                    code = compile('nest(*names)' if names[1:] else 'hold()', names[0], 'exec')
                    exec(code, dict(nest=nest, names=names[1:], hold=hold))
                nest({fifo!r}, '/dev/zero', {folder!r} + '/deleted.py', '<string>', {bad!r})
            """)[0]
        self.assertIn(f'{fifo}:1 in <module>\n    (source not found)', text)
        self.assertIn('/dev/zero:1 in <module>\n    (source not found)', text)
        self.assertIn('/deleted.py:1 in <module>\n    (source not found)', text)
        self.assertIn('<string>:1 in <module>\n    (source not found)', text)
        self.assertIn('bad.py:1 in <module>\n    `hold()', text)

    def test_source_in_a_zip_archive_is_shown(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, 'archive.zip')
            with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
                archive.writestr('package/__init__.py', '')
                archive.writestr('package/inside.py', 'def work(hold):\n    hold()  # shown from the archive\n')
            text = self.check(f"""
                sys.path.insert(0, {path!r})
                from package import inside
                setup('1')
                inside.work(hold)
            """)[0]
        self.assertIn('`hold()  # shown from the archive`', text)


class AftermathTest(unittest.TestCase):
    def test_a_forked_child_reports_itself_under_its_own_pid(self):
        with Child("""
            setup('1')
            pid = os.fork()
            if pid == 0:
                hold()
                os._exit(0)
            os.write(1, b'%d ' % pid)
            os.waitpid(pid, 0)
        """) as child:
            child.wait_ready()
            child.wait_for(lambda: re.search(rb'\d+ ', child.out), 'the pid')
            pid = int(re.search(rb'(\d+) ', child.out)[1])
            os.kill(pid, signal.SIGUSR2)
            child.wait_for(child.reports, 'a report')
            self.assertIn(f'Process {pid} (under {child.pid})', child.err.decode())
            self.assertIn(f'MainThread, native id {pid}, reporting', child.err.decode())
            self.assertEqual(child.finish(), 0)

    def test_five_hundred_reports_leave_nothing_behind(self):
        with Child("""
            def resources():
                gc.collect()
                with open('/proc/self/status') as file:
                    status = dict(line.split(':', 1) for line in file)
                return len(os.listdir('/proc/self/fd')), int(status['Threads']), len(gc.get_objects()), int(status['VmRSS'].split()[0])
            def reports(count):
                for n in range(count):
                    signal.raise_signal(signal.SIGUSR2)
            handlers = [signal.getsignal(n) for n in signal.valid_signals() if n != signal.SIGUSR2]
            def boom():
                try:
                    1 / 0
                finally:
                    raise SystemExit
            gmr.register_section('Fails', boom)
            setup('1', conf={'a': 1})
            reports(20)
            time.sleep(0.1)
            before = resources()
            reports(500)
            while len(os.listdir('/proc/self/task')) > 1:
                time.sleep(0.01)
            after = resources()
            assert after[0] <= before[0], (before, after)
            assert after[1] <= before[1], (before, after)
            assert after[2] <= before[2] + 50, (before, after)
            assert after[3] <= before[3] + 8000, (before, after)
            assert gc.isenabled() and sys.getrecursionlimit() == 1000 and abs(sys.getswitchinterval() - 0.005) < 1e-6
            assert handlers == [signal.getsignal(n) for n in signal.valid_signals() if n != signal.SIGUSR2]
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            gc.garbage.clear()
            reports(3)
            gc.collect()
            assert not [o for o in gc.garbage if type(o).__name__ in ('frame', 'traceback')], list(map(type, gc.garbage))
        """) as child:
            self.assertEqual(child.finish(), 0, child.text()[-3000:])

    def test_what_the_program_sets_meanwhile_stays_and_what_it_has_set_before_comes_back(self):
        with Child("""
            sys.setswitchinterval(0.000799)
            before = sys.getswitchinterval()
            setup('1')
            signal.raise_signal(signal.SIGUSR2)
            assert abs(sys.getswitchinterval() - before) < 1e-7, (before, sys.getswitchinterval())
            def change():
                sys.setrecursionlimit(5000)
                sys.setswitchinterval(0.05)
            gmr.register_section('Changes', change)
            signal.raise_signal(signal.SIGUSR2)
            assert sys.getrecursionlimit() == 5000 and abs(sys.getswitchinterval() - 0.05) < 1e-6
        """) as child:
            self.assertEqual(child.finish(), 0, child.text()[-2000:])

    def test_no_thread_exists_while_nothing_is_asked(self):
        with Child("""
            setup('1')
            gmr.TextGuruMeditation('1').run()
            while len(os.listdir('/proc/self/task')) > 1 or len(sys._current_frames()) > 1:
                time.sleep(0.01)
        """) as child:
            self.assertEqual(child.finish(), 0, child.text())


class SecretsTest(unittest.TestCase):
    """Each row: what a program shows, and exactly what appears."""

    def check(self, rows):
        for value, shown in rows:
            with self.subTest(value=value):
                self.assertEqual(report_on(value), shown)

    def test_values_under_a_secret_name_are_hidden_at_any_depth(self):
        for name in (
            'password', 'DB_PASSWORD', 'passphrase', 'client_secret', 'token', 'x-auth-token', 'api_key', 'apiKey', 'API-Key',
            'private_key', 'access_key', 'aws_secret_access_key', 'credentials', 'Authorization', 'Set-Cookie', 'session_id',
            'signature', 'salt', 'SENTRY_DSN', 'passwd', 'db_pass', 'pwd',
        ):  # fmt: skip
            self.check(
                [({'a': [{name: 'x'}]}, f'a =\n  [dict]\n    {name} = ***'), ({name: ['x', {'y': 1}]}, f'{name} = ***')]
            )
        self.check(
            [
                ({'token': 5}, 'token = ***'),
                ({'token': b'abc'}, 'token = ***'),
                ({b'token': 'abc'}, 'token = ***'),
                (collections.namedtuple('Login', 'user password')('u', 'p'), 'user = u\npassword = ***'),
                (['prog', '--password=correct horse', 'host=h'], 'prog\n--password=***\nhost=h'),
                (
                    [('Authorization', 'Basic abc'), ('Host', 'h')],
                    '[list]\n  Authorization\n  ***\n[list]\n  Host\n  h',
                ),
                (['prog', '--password', 'hunter2', '-v'], 'prog\n--password\n***\n-v'),
                (['--password=hunter2', 'notes.txt'], '--password=***\nnotes.txt'),
                (['prog', '--api-key=abc'], 'prog\n--api-key=***'),
            ]
        )

    def test_what_is_not_set_stays_and_so_does_what_is_no_secret(self):
        self.check(
            [
                ({'password': None}, 'password = None'),
                ({'password': ''}, 'password = '),
                ({'password': False}, 'password = False'),
                ({'password': []}, 'password = []'),
                ({'host': 'h', 'port': 5432, 'user': 'u'}, 'host = h\nport = 5432\nuser = u'),
                ('http://h:80/a@b', 'http://h:80/a@b'),
                ('https://user@h/path', 'https://user@h/path'),
                ('postgresql://h:5432/db', 'postgresql://h:5432/db'),
                ('password=None, token=', 'password=None, token='),
                ('the passwords match', 'the passwords match'),
                (['prog', '--port', '80'], 'prog\n--port\n80'),
            ]
        )

    def test_secrets_inside_longer_texts_are_hidden(self):
        self.check([
            ('mysql://u:p@h:3306/d', 'mysql://u:***@h:3306/d'),
            ('redis://:p@h:6379/0', 'redis://:***@h:6379/0'),
            ('amqp://u:p@q@h//', 'amqp://u:***@h//'),
            ('rabbit://u:p@h1:5672,u2:p2@h2:5672/', 'rabbit://u:***@h2:5672/'),
            ('postgres://u:p/w@h/d', 'postgres://u:***@h/d'),
            (b'mysql://u:p@h/d', 'mysql://u:***@h/d'),
            ('host=h password=hunter2 dbname=d', 'host=h password=*** dbname=d'),
            ("host=h password='hunter 2' dbname=d", "host=h password='***' dbname=d"),
            ('Server=s;UID=sa;PWD=hunter2;Database=d', 'Server=s;UID=sa;PWD=***;Database=d'),
            ('https://h/p?token=abc&page=2', 'https://h/p?token=***&page=2'),
            ("{'password': 'hunter2', 'port': 1}", "{'password': '***', 'port': 1}"),
            ('{"api_key": "abc", "port": 1}', '{"api_key": "***", "port": 1}'),
            ('Config(password=abc, user=u)', 'Config(password=***, user=u)'),
            ('run --password hunter2 --port 80', 'run --password *** --port 80'),
            ('Authorization: Bearer abc.def', 'Authorization: ***'),
            ('Cookie: a=b; c=d', 'Cookie: ***'),
            ("Command '['mysql', '--password', 'p', '-v']' failed", "Command '['mysql', '--password', '***', '-v']' failed"),
            ("[('Authorization', 'Basic p'), ('Host', 'h')]", "[('Authorization', '***'), ('Host', 'h')]"),
            ('{"passwords": ["a", "b"], "port": 1}', '{"passwords": ***, "port": 1}'),
            ('{"password":null,"user":"u"}', '{"password":null,"user":"u"}'),
            ('smtp://u@h.org:p@h:587/', 'smtp://u@h.org:***@h:587/'),
            ('http://[::1]:80/a@b', 'http://[::1]:80/a@b'),
            ("ALTER USER u WITH PASSWORD 'p'", "ALTER USER u WITH PASSWORD '***'"),
            ('PWD={a b;c=p};UID=u', 'PWD=***;UID=u'),
            ('password             = p', 'password             = ***'),
            ('\u0130 PASSWORD=p', '\u0130 PASSWORD=***'),
            ('password: correct horse\nuser: u', 'password: ***\nuser: u'),
            ({'key': 'mysql://u:p@h'}, 'key = mysql://u:***@h'),
            ({'mysql://u:p@h': 1}, 'mysql://u:***@h = 1'),
            ('<password>a b</password><user>u</user>', '<password>***</password><user>u</user>'),
            ('<wsse:Password Type="x">p</wsse:Password>', '<wsse:Password Type="x">***</wsse:Password>'),
            ('<add key="password" value="p"/>', '<add key="password" value="***"/>'),
            ('{"name": "DB_PASSWORD", "value": "p"}', '{"name": "DB_PASSWORD", "value": "***"}'),
            ({'name': 'DB_PASSWORD', 'value': 'p'}, 'name = DB_PASSWORD\nvalue = ***'),
            ({'name': 'DB_HOST', 'value': 'h'}, 'name = DB_HOST\nvalue = h'),
            ('{"credentials": {"a": {"b": {"c": ")p"}}}, "port": 1}', '{"credentials": ***, "port": 1}'),
            ('secrets=[{a: (p', 'secrets=***'),
            ('password: |\n  p\n  q\nuser: u', 'password: ***\nuser: u'),
            ('secrets:\n  a: p\n  b: q\nuser: u', 'secrets:\n  ***\nuser: u'),
            ('passwords:\n  - p\n  - q\nuser: u', 'passwords:\n  ***\nuser: u'),
            ('password = """p"""; user', 'password = """***"""; user'),
            ('run --db.password p -v', 'run --db.password *** -v'),
            ('password\tp', 'password\t***'),
            ('pass phrase: p', 'pass phrase: ***'),
            ('https://h/?sv=1&sig=p&se=2', 'https://h/?sv=1&sig=***&se=2'),
            ('https://ghp_abcdefghijklmnop:x@github.com/o', 'https://***:***@github.com/o'),
            ('if token > 5: <b>x</b>', 'if token > 5: <b>x</b>'),
        ])  # fmt: skip

    def test_literals_in_source_lines_are_hidden(self):
        for line, shown in (
            ('password: str = "p"; work()', 'password: str = "***"; work()'),
            ('config.set("db", "password", "p")', 'config.set("db", "password", "***")'),
            ("setattr(conf, 'password', 'p')", "setattr(conf, 'password', '***')"),
            ('password = """p"""', 'password = """***"""'),
            ('password: str = get("x")', 'password: str = get("x")'),
        ):
            with self.subTest(line):
                self.assertEqual(gmr._redact(line, literals=True), shown)

    def test_long_texts_take_little_memory(self):
        with Child("""
            import resource
            texts = ['password="' + 8_000_000 * 'a', 'token=' + 8_000_000 * 'a', '-----BEGIN ' + 100_000 * 'PRIVATE KEY']
            in_use = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (in_use + 200_000_000,) * 2)
            assert list(map(gmr._redact, texts)) == ['password="***', 'token=***', texts[2]]
        """) as child:
            self.assertEqual(child.finish(), 0, child.text()[-2000:])

    @patient
    def test_a_megabyte_of_secrets_takes_no_time(self):
        # Quadratic time would hold the interpreter lock for minutes: nothing but a late section could come of it.
        for text in (
            'token=1,' * 120_000,
            'password=' * 100_000,
            'cookie:' * 150_000,
            '"token": {' * 100_000,
            '://a:' * 200_000,
        ):
            with self.subTest(text[:10]):
                self.assertNotIn('no answer within', report_on(text))

    def test_exception_texts_and_literals_in_source_lines(self):
        def connect(**options):
            raise ConnectionError(f'cannot connect: {options}')

        shown = report_on(lambda: connect(password='hunter2', user='me'))
        self.assertIn("ConnectionError: cannot connect: {'password': '***', 'user': 'me'}\n", shown)
        self.assertNotIn('hunter2', shown)

    def test_a_program_may_replace_the_pattern(self):
        with unittest.mock.patch.object(gmr, 'SECRET_NAMES', 'flavour'):
            self.check(
                [
                    (
                        {'Flavour': 'x', 'password': 'y', 'text': 'FLAVOUR=a'},
                        'Flavour = ***\npassword = y\ntext = FLAVOUR=***',
                    )
                ]
            )


class LiveFactsTest(unittest.TestCase):
    def test_the_thread_that_burns_the_processor_stands_out(self):
        text = sections(
            report_of("""
            stop = []
            def burn():
                while not stop:
                    pass
            thread = threading.Thread(target=burn, name='burner')
            thread.start()
            while time.process_time() < 0.5:
                time.sleep(0.05)
            setup('1')
            hold()
            stop.append(1)
        """)
        )['Threads']
        self.assertRegex(text, r'\nburner, native id \d+, (running|sleeping), (0\.[1-9]|[1-9])\d* s cpu\n')


class AsyncioTest(unittest.TestCase):
    """Every unfinished task appears, with its whole chain of awaits."""

    PROGRAM = """
        import asyncio
        async def inner(event):
            await event.wait()
        async def outer(event):
            await inner(event)
        async def generate(event):
            await outer(event)
            yield
        async def consume(event):
            async for item in generate(event):
                pass
        async def wait_for(task):
            await task
        async def gather(event):
            await asyncio.gather(outer(event), inner(event))
        def blocked():
            hold()
        async def block():
            blocked()
        async def main():
            event = asyncio.Event()
            tasks = [asyncio.ensure_future(coroutine) for coroutine in (
                *(outer(event) for n in range(5000)), consume(event), gather(event))]
            tasks[0].set_name('password=hunter2')
            tasks.append(asyncio.ensure_future(wait_for(tasks[1])))
            done = asyncio.ensure_future(asyncio.sleep(0))
            await asyncio.sleep(0.1)
            fresh = asyncio.ensure_future(inner(event))
            await block()
            event.set()
            await asyncio.gather(fresh, *tasks)
        setup('1')
    """

    def check(self, text):
        text = sections(text)['Asyncio Tasks']
        self.assertRegex(
            text, r'5,001 Tasks(.*\n)+?\.\.\. and 4,981 more\n\n.* in outer\n.*\n\n.* in inner\n.*\n\n.* in wait\n'
        )
        self.assertRegex(
            text, r'waiting\n\n.* in consume\n.*\n\n.* in generate\n.*\n\n.* in outer\n.*\n\n.* in inner\n'
        )
        self.assertRegex(text, r'waiting, waits for Task-\d+, Task-\d+\n\n.* in gather\n')
        self.assertRegex(text, r'waiting, waits for Task-\d+\n\n.* in wait_for\n')
        self.assertRegex(text, r'Task-\d+, not started\n\n.* in inner\n')
        self.assertRegex(
            text, r'running in Thread #\d+\n\n.* in main\n.*\n\n.* in block\n.*\n\n.* in blocked\n.*\n\n.* in hold\n'
        )
        self.assertNotIn('hunter2', text)
        self.assertNotIn('sleep', text)

    def test_on_a_loop_that_is_blocked_in_user_code(self):
        self.check(report_of(textwrap.dedent(self.PROGRAM) + 'asyncio.run(main())'))

    def test_on_a_loop_in_another_thread(self):
        text = report_of("""
            import asyncio
            started = threading.Event()
            async def waits():
                started.set()
                await asyncio.sleep(100)
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_until_complete, args=(waits(),), daemon=True).start()
            started.wait()
            time.sleep(0.1)
            setup('1')
            hold()
            os._exit(0)
        """)
        self.assertRegex(sections(text)['Asyncio Tasks'], r'Task-1, waiting\n\n.* in waits\n.*\n\n.* in sleep\n')

    def test_hostile_tasks_and_awaitables_cost_nothing_but_themselves(self):
        text = sections(
            report_of("""
            import asyncio, collections.abc
            class Hostile(asyncio.Task):
                _fut_waiter = _state = property(lambda self: 1 / 0)
                def get_name(self): raise ValueError('no name')
            class Circle:
                def __await__(self): return iter(lambda: None, self.coroutine)
            class Foreign(collections.abc.Coroutine):
                def send(self, value): return None
                def throw(self, *args): raise args[0]
                def __await__(self): return self
            async def waits(event):
                await event.wait()
            async def circles(circle):
                await circle
            async def generate(event):
                await event.wait()
                yield 1
            async def step(event):
                await generate(event).__anext__()
            async def main():
                event, circle = asyncio.Event(), Circle()
                circle.coroutine = circles(circle)
                kept = [asyncio.ensure_future(circle.coroutine), asyncio.ensure_future(step(event)),
                        Hostile(waits(event), loop=asyncio.get_running_loop()), asyncio.get_running_loop().create_task(Foreign())]
                await asyncio.sleep(0.1)
                hold()
                os._exit(0)
            setup('1')
            asyncio.run(main())
        """)
        )['Asyncio Tasks']
        self.assertIn('ValueError: no name, waiting', text)
        self.assertRegex(text, r'in circles\n')
        self.assertRegex(text, r'in step\n.*\n\n.* in generate\n.*\n\n.* in wait\n')
        self.assertIn('No Traceback!', text)

    def test_no_such_section_where_there_are_no_tasks(self):
        self.assertNotIn('Asyncio', report_of("import asyncio\nsetup('1')\nhold()"))

    if installed('uvloop'):

        def test_under_uvloop(self):
            run = 'import uvloop; loop = uvloop.new_event_loop(); loop.run_until_complete(main())'
            self.check(report_of(textwrap.dedent(self.PROGRAM) + run))

    if sys.version_info >= (3, 12):

        def test_eager_tasks_and_task_groups(self):
            text = sections(
                report_of("""
                import asyncio
                async def member(event):
                    await event.wait()
                async def main():
                    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
                    event = asyncio.Event()
                    async with asyncio.TaskGroup() as group:
                        for n in range(3):
                            group.create_task(member(event))
                        asyncio.get_running_loop().call_later(0.1, hold)
                        asyncio.get_running_loop().call_later(0.2, event.set)
                setup('1')
                asyncio.run(main())
            """)
            )['Asyncio Tasks']
            self.assertRegex(text, r'3 Tasks(.*\n)+?\n.* in member\n')
            self.assertRegex(text, r'in main\n.*\n\n.* in __aexit__\n')


class JSONTest(unittest.TestCase):
    def report(self, body):
        with Child('gmr.setup_autorun = gmr.JSONGuruMeditation.setup_autorun\n' + textwrap.dedent(body)) as child:
            os.kill(child.wait_ready().pid, signal.SIGUSR2)
            child.wait_for(lambda: child.err.endswith(b'\n'), 'a report')
            self.assertEqual(child.finish(), 0)
            self.assertEqual(child.err.count(b'\n'), 1)
            return json.loads(child.err), child

    def test_the_schema(self):
        document, child = self.report("""
            import asyncio
            gmr.register_section('Data', lambda: {'a': [1, 2.5, None, True, 'x'], 'password': 'y'})
            gmr.register_section('Threads', lambda: 'of our own')
            gmr.register_section('Fails', lambda: 1 / 0)
            def descend(n):
                descend(n - 1) if n else hold()
            setup('1.0', conf={'level': 1, 'db': {'port': 2}})
            descend(3)
        """)
        header = document['Guru Meditation']
        self.assertEqual((header['format'], header['pid'], header['program']), (1, child.pid, '-c'))
        self.assertRegex(header['time'], r'^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$')
        self.assertEqual(header['host'], os.uname().nodename)
        self.assertEqual(document['Package']['version'], '1.0')
        (thread,) = document['Threads']
        self.assertEqual((thread['kind'], thread['count'], thread['members'][0]['name']), ('Thread', 1, 'MainThread'))
        self.assertEqual(set(thread['stack'][0]), {'file', 'line', 'name', 'code'})
        self.assertEqual(
            [(f['name'], f.get('repeated')) for f in thread['stack'][1:3]], [('descend', 4), ('hold', None)]
        )
        self.assertEqual(document['Processes']['process']['pid'], child.pid)
        self.assertEqual(document['Configuration'], {'default': {'level': 1}, 'db': {'port': 2}})
        self.assertEqual(document['Data'], {'a': [1, 2.5, None, True, 'x'], 'password': '***'})
        self.assertEqual(document['Threads (again)'], 'of our own')
        self.assertEqual(document['Fails']['error'], 'ZeroDivisionError: division by zero')
        self.assertEqual(document['Fails']['stack'][0]['name'], '<lambda>')

    def test_it_can_always_be_read(self):
        for value in (
            float('nan'),
            float('inf'),
            '\ud800',
            b'\xff',
            {1: 2, None: 3},
            10**5000,
            {'a': object()},
            '\x00"\\',
            [[]],
        ):
            with self.subTest(value=value):
                gmr.register_section('Subject', lambda: value)  # noqa: B023
                self.addCleanup(gmr.GuruMeditation._sections.pop, 'Subject', None)
                text = gmr.JSONGuruMeditation().run()
                json.loads(text, parse_constant=self.fail)
                self.assertNotIn('\n', text)

    def test_a_file_of_it_ends_with_json(self):
        with (
            tempfile.TemporaryDirectory() as folder,
            Child(f"""
            gmr.JSONGuruMeditation.setup_autorun('1', 'service', {folder!r})
            hold()
        """) as child,
        ):
            os.kill(child.wait_ready().pid, signal.SIGUSR2)
            child.wait_for(lambda: child.err.endswith(b'\n'), 'a path')
            self.assertRegex(child.err.decode(), rf'/service_gurumeditation_\d{{14}}_{child.pid}\.json\n$')
            with open(os.path.join(folder, os.listdir(folder)[0]), encoding='utf-8') as file:
                self.assertEqual(json.load(file)['Package']['version'], '1')


class WatchTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, 'watched')

    def touch(self, child, change=None):
        """Change the file and return the report that follows."""
        count, start = child.reports(), len(child.err)
        (change or self.write)()
        child.wait_for(lambda: child.reports() > count, 'a report')
        return child.err[start:].decode()

    def write(self):  # one change of the modification time, as touch makes it
        try:
            os.utime(self.path)
        except FileNotFoundError:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL))

    def child(self, body='hold()', arguments='', **options):
        lines = f"setup('1', watch_file={self.path!r}, watch_interval=0.05{arguments})\n"
        return Child(lines + textwrap.dedent(body), **options)

    def test_missing_then_there_then_touched_then_gone_and_back(self):
        with self.child() as child:
            child.wait_ready()
            self.touch(child)
            text = self.touch(child)
            self.assertRegex(sections(text)['Threads'], r'MainThread, native id \d+, sleeping')
            self.assertNotIn('_watch', text)
            os.unlink(self.path)
            time.sleep(0.2)
            self.touch(child)
            time.sleep(0.3)  # no more than one each
            self.assertEqual(child.finish(), 0)
            self.assertEqual(child.reports(), 3)

    def test_a_directory(self):
        os.mkdir(self.path)
        with self.child() as child:
            child.wait_ready()
            self.touch(child, lambda: os.mkdir(os.path.join(self.path, 'new')))
            child.signal()

    def test_a_main_thread_stuck_in_c(self):
        with self.child("""
            import sqlite3
            query = 'with recursive r(n) as (select 1 union all select n + 1 from r) select max(n) from r'
            ready()
            sqlite3.connect(':memory:').execute(query).fetchall()
        """) as child:
            text = self.touch(child.wait_ready())
            self.assertRegex(
                sections(text)['Threads'], r'MainThread, native id \d+, running.*\n\n<string>:\d+ in <module>'
            )

    def test_each_forked_worker_answers(self):
        with self.child("""
            pid = os.fork()
            hold()
        """) as child:
            child.wait_ready(2)
            self.write()
            child.wait_for(lambda: child.reports() == 2, 'two reports')
            pids = set(re.findall(r'^Process (\d+) ', child.err.decode(), re.MULTILINE))
            self.assertEqual(len(pids), 2)
            for pid in pids - {str(child.pid)}:
                os.kill(int(pid), signal.SIGKILL)

    def test_set_up_twice_there_is_one_watcher_and_it_ends_with_the_program(self):
        with self.child(f"""
            setup('2', watch_file={self.path!r}, watch_interval=0.05)
            hold()
            setup('3', watch_file={self.path!r}, watch_interval=1000)
            while len(os.listdir('/proc/self/task')) > 2:
                time.sleep(0.01)
        """) as child:
            self.assertIn('version = 2', self.touch(child.wait_ready()))
            time.sleep(0.3)
            self.assertEqual(child.reports(), 1)
            self.assertEqual(child.finish(), 0)

    if importlib.util.find_spec('_testcapi'):  # the interpreter's own tests are installed

        def test_a_sub_interpreter_that_ends_does_not_take_the_process_along(self):
            with Child(f"""
                import _testcapi
                code = 'import sys, time; sys.path[:] = ' + repr(sys.path) + '; import gmr; '
                code += 'gmr.setup_autorun(setup_signal=False, watch_file=' + repr({self.path!r}) + '); time.sleep(0.2)'
                assert _testcapi.run_in_subinterp(code) == 0
            """) as child:
                self.assertEqual(child.finish(), 0, child.text())

    def test_the_configuration_may_name_it(self):
        with Child(f"""
            class Group:
                file_event_handler = {self.path!r}
                file_event_handler_interval = 0.05
                log_dir = None
            class Conf:
                def __init__(self):
                    self.oslo_reports = Group()
            setup('1', conf=Conf())
            hold()
        """) as child:
            self.touch(child.wait_ready())

    def test_bad_input(self):
        for interval in (0, -1, float('nan'), float('inf'), 'x', None):
            with self.subTest(interval=interval), self.assertRaisesRegex(ValueError, 'watch_interval'):
                gmr.setup_autorun(watch_file=self.path, watch_interval=interval, setup_signal=False)
        self.path += '/later/file'
        with self.child(PYTHONWARNINGS='default') as child:
            child.wait_ready()
            child.wait_for(lambda: b'RuntimeWarning: watch_file' in child.err, 'the warning')
            os.makedirs(os.path.dirname(self.path))
            self.touch(child)

    if greenlet:

        def test_a_blocked_hub_does_not_silence_it(self):
            for name in ('gevent', 'eventlet'):
                if installed(name):
                    with self.subTest(name):
                        patch = {
                            'gevent': 'import gevent.monkey; gevent.monkey.patch_all()',
                            'eventlet': 'import eventlet; eventlet.monkey_patch()',
                        }[name]
                        first = f'import warnings; warnings.simplefilter("ignore"); {patch}'
                        with self.child('ready()\nwhile True: pass', first=first) as child:
                            self.touch(child.wait_ready())


class InstantStacksTest(unittest.TestCase):
    def check(self, work):
        with Child(f"""
            setup('1', instant_stacks=True)
            def stuck():
                {work}
            ready()
            stuck()
            hold()
        """) as child:
            child.wait_ready()
            deadline = time.monotonic() + DEADLINE
            while b' in stuck\n' not in child.err and time.monotonic() < deadline:
                os.kill(child.pid, signal.SIGUSR2)  # more than once: the first may come before it is stuck
                time.sleep(0.2)
            self.assertIn(b' in stuck\n', child.err)

    def test_raw_stacks_appear_while_the_main_thread_is_in_an_endless_query(self):
        self.check(
            "import sqlite3; sqlite3.connect(':memory:').execute("
            "'with recursive r(n) as (select 1 union all select n + 1 from r) select max(n) from r').fetchall()"
        )

    def test_raw_stacks_appear_while_the_interpreter_is_held_by_a_regular_expression(self):
        self.check("import re; re.match('(a+)+b', 'a' * 60)")

    def test_the_report_follows_when_the_main_thread_returns(self):
        text = report_of("setup('1', instant_stacks=True)\nhold()")
        self.assertLess(text.index('most recent call first'), text.index('Guru Meditation'))


OBJECT = 'class Object:\n    def __del__(self):\n        print("finalized")\nkept = Object()\n'
CAUGHT = """\
import atexit, sys
def show():
    try:
        {}['k']
    except KeyError:
        sys.excepthook(*sys.exc_info())
"""
PROBE = """\
import __main__, os, sys
facts = {name: '' if 'object at' in repr(value) else repr(value) for name, value in globals().items()}
print(sorted(facts.items()), type(__loader__), __main__.__dict__ is globals())
print(sys.argv, sys.path, sorted(name for name in ('gmr', '__main__') if name in globals()))
"""


def run(*command, **options):
    """Return the exit status and the outputs of a python command."""
    environment = {k: v for k, v in os.environ.items() if k not in ('PYTHONUNBUFFERED', 'PYTHONPATH', 'TMPDIR')}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=DEADLINE, env=environment, **options
    )
    return done.returncode, done.stdout, done.stderr


class RunnerTest(unittest.TestCase):
    """`gmr.py SCRIPT` and `gmr.py -m MODULE` against `python SCRIPT` and `python -m MODULE`."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.realpath(folder.name)

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w', encoding='utf-8') as stream:
            stream.write(textwrap.dedent(text))
        return path

    def check_same(self, *command, flags=(), runner=(gmr.__file__,), **options):
        with self.subTest(command):
            plain = run(*flags, *command, cwd=self.folder, **options)
            self.assertEqual(run(*flags, *runner, *command, cwd=self.folder, **options), plain)
            return plain

    def test_the_program_finds_everything_as_it_is_without_gmr(self):
        self.write('probe.py', PROBE)
        self.write('app/__main__.py', PROBE)
        self.write('package/__init__.py', '')
        self.write('package/__main__.py', PROBE)
        self.write('other/__init__.py', '')
        os.symlink(os.path.join(self.folder, 'app', '__main__.py'), os.path.join(self.folder, 'link.py'))
        py_compile.compile(os.path.join(self.folder, 'probe.py'), os.path.join(self.folder, 'compiled.pyc'))
        with zipfile.ZipFile(os.path.join(self.folder, 'archive.zip'), 'w') as archive:
            archive.writestr('__main__.py', PROBE)
        safe = ['-P'] if sys.version_info >= (3, 11) else ['-I']
        for command in (
            ['probe.py', '--json', '-m', 'x'],
            ['./probe.py'],
            [os.path.join(self.folder, 'probe.py')],
            ['link.py'],
            ['compiled.pyc'],
            ['app', 'x'],
            ['archive.zip', '--', '-x'],
            ['-m', 'probe', '--help'],
            ['-m', 'package', '-m'],
        ):
            status, out, err = self.check_same(*command)
            self.assertEqual((status, err), (0, ''))
            self.assertIn("('__name__', \"'__main__'\")", out)
        for command in (['probe.py'], ['app'], ['archive.zip']):
            self.check_same(*command, flags=safe)

    def test_the_program_finds_its_own_modules_of_names_that_gmr_has_loaded(self):
        names = {'getopt', 'resource', 'select'} - set(sys.builtin_module_names)
        for name in names:
            self.write(f'own/{name}.py', 'mine = 42')
        self.write(
            'own/app.py', f'import signal, {", ".join(names)}; print({".mine, ".join(names)}.mine, signal.SIGINT)'
        )
        self.assertIn('42', self.check_same(os.path.join('own', 'app.py'))[1])

    def test_it_ends_as_it_does_without_gmr(self):
        for number, (status, text) in enumerate(
            (
                (3, 'import sys; sys.exit(3)'),
                (1, "raise SystemExit('a word')"),
                (1, 'def f():\n    1 / 0\nf()'),
                (1, "try:\n    1 / 0\nexcept ZeroDivisionError:\n    raise ValueError('x')"),
                (1, 'import nowhere'),
                (1, 'this is no Python'),
                (-signal.SIGINT, 'raise KeyboardInterrupt'),
                (5, 'import os; os._exit(5)'),
                (3, OBJECT + 'raise SystemExit(3)'),
                (1, OBJECT + '1 / 0'),
                (1, CAUGHT + 'atexit.register(show)\n1 / 0'),
                (0, CAUGHT + 'import threading\nthreading.Timer(0.2, show).start()'),
                (0, 'import atexit; atexit.register(print, "bye")'),
                (
                    0,
                    'import sys, threading\ndef f():\n    print(sys.modules["__main__"].f is f)\nthreading.Timer(0.1, f).start()',
                ),
                (1, 'import sys; sys.excepthook = lambda *details: print("mine", details)\n1 / 0'),
                (0, '# -*- coding: latin-1 -*-\nprint(ascii("\\u00e9"))'),
                (
                    0,
                    'import multiprocessing\ndef f():\n    print(__name__, flush=True)\nif __name__ == "__main__":\n'
                    '    child = multiprocessing.get_context("spawn").Process(target=f)\n'
                    '    child.start(); child.join()',
                ),
            )
        ):
            name = f'program{number}'
            self.write(name + '.py', text)
            for command in ([name + '.py'], ['-m', name]):
                plain = run(*command, cwd=self.folder)
                ours = run(gmr.__file__, *command, cwd=self.folder)
                if 'details' in text:  # the hook gets the traceback object itself
                    plain, ours = (re.sub('0x[0-9a-f]+', '0x', str(one)) for one in (plain, ours))
                    self.assertIn('mine', plain)
                else:
                    self.assertEqual(plain[0], status, plain)
                self.assertEqual(ours, plain)
        for command in (['-m', 'nowhere'], ['-m', 'program0.nowhere'], ['-m', '']):
            self.check_same(*command)
        self.write('empty/readme', '')
        self.check_same('empty')
        self.write('calm.py', '')
        for name in ('calm.py', 'program0.py', 'program2.py'):
            self.check_same(name, flags=['-i'], input='print(6 * 7)\n')

    def test_the_program_imports_the_very_same_module(self):
        body = """\
            import {0}
            import os, pickle, select, sys, {1}
            assert {1} is sys.modules['{1}'] and not hasattr(sys.modules['__main__'], 'setup_autorun')
            assert {1}.__name__ == '{1}' == {1}.__spec__.name, {1}.__spec__
            assert sys.modules[{1}.GuruMeditation._on_signal.__module__ if 0 else '{1}'].__dict__ is {1}.__dict__
            assert pickle.loads(pickle.dumps([{1}.TextGuruMeditation, {1}._read])) == [{1}.TextGuruMeditation, {1}._read]
            {1}.register_section('The End', lambda: 'of the report')
            os.write(1, b'ready\\n')
            while not select.select([0], [], [], 0.05)[0]:
                pass
            """
        self.write('plain.py', body.format('json', 'gmr'))
        shutil.copy(gmr.__file__, os.path.join(self.folder, 'gmr.py'))  # the program's own copy is not loaded
        self.write('project/__init__.py', '')
        self.write('project/vendor/__init__.py', '')
        shutil.copy(gmr.__file__, os.path.join(self.folder, 'project', 'vendor', '_report.py'))
        self.write('project/app.py', body.format('project', 'project.vendor._report'))
        self.write('early/__init__.py', 'import early._report\nearly._report.register_section("Early", int)')
        shutil.copy(gmr.__file__, os.path.join(self.folder, 'early', '_report.py'))
        self.write('early/app.py', body.format('early', 'early._report'))
        for command in (
            [gmr.__file__, 'plain.py'],
            [gmr.__file__, '-m', 'plain'],
            ['-m', 'gmr', 'plain.py'],
            ['-m', 'project.vendor._report', '-m', 'project.app'],
            ['-m', 'project.vendor._report', os.path.join('project', 'app.py')],
            ['-m', 'early._report', '-m', 'early.app'],
        ):
            env = {'PYTHONPATH': self.folder}
            with self.subTest(command), Child(command=command, cwd=self.folder, **env) as child:
                text = child.wait_ready().signal()
                self.assertIn(f'product = {command[-1]}\n', text)
                self.assertEqual('Early' in sections(text), 'early' in command[1])
                self.assertEqual(child.finish(), 0)

    def test_each_option_does_what_it_says(self):
        path = self.write('waits.py', PRELUDE + "__version__ = '7.7'\nhold()\n")
        watched = os.path.join(self.folder, 'watched')
        for options, check in (
            (['--json'], lambda err, files: json.loads(err)['Package']['version'] == '7.7'),
            (['--signal', 'USR1'], lambda err, files: 'version = 7.7' in err),
            (['--signal=SIGUSR1'], lambda err, files: 'version = 7.7' in err),
            ([f'--signal={int(signal.SIGUSR1)}'], lambda err, files: 'version = 7.7' in err),
            (['--log-dir', self.folder], lambda err, files: any('waits.py_gurumeditation_' in name for name in files)),
            (['--instant-stacks'], lambda err, files: 'most recent call first' in err and 'version = 7.7' in err),
            (['--watch-file', watched], lambda err, files: 'version = 7.7' in err),
        ):
            with self.subTest(options), Child(command=[gmr.__file__, *options, path]) as child:
                child.wait_ready()
                if '--watch-file' in options:
                    self.write('watched', '')
                else:
                    os.kill(child.pid, signal.SIGUSR1 if 'signal' in options[0] else signal.SIGUSR2)
                child.wait_for(lambda: child.err.endswith(b'\n'), 'a report')
                self.assertEqual(child.finish(), 0)
                self.assertTrue(check(child.err.decode(), os.listdir(self.folder)), child.text())

    def reported(self, child, number):
        return child.err.count(b'No configuration was given') == number

    def test_a_server_of_the_standard_library_reports_and_serves_on(self):
        with socket.create_server(('127.0.0.1', 0)) as listener:
            port = listener.getsockname()[1]
        command = [gmr.__file__, '-m', 'http.server', str(port), '--bind', '127.0.0.1']
        with Child(command=command, cwd=self.folder) as child:

            def page():
                with urllib.request.urlopen(f'http://127.0.0.1:{port}/', timeout=DEADLINE) as answer:
                    return answer.status

            deadline = time.monotonic() + DEADLINE
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    page()
                    break
                time.sleep(0.05)
            for number in (1, 2):
                os.kill(child.pid, signal.SIGUSR2)
                child.wait_for(functools.partial(self.reported, child, number), 'a report')
                self.assertEqual(page(), 200)
            self.assertIn('product = http.server\n', child.err.decode())
            self.assertIn('in serve_forever\n', child.err.decode())


class CommandTest(unittest.TestCase):
    def test_without_a_program_it_reports_on_itself(self):
        status, out, err = run('-S', gmr.__file__)
        self.assertEqual((status, err), (0, ''))
        self.assertIn(f'product = gmr\nvendor = None\nversion = {gmr.__version__}\n', out)
        self.assertRegex(
            out, r'MainThread, native id \d+, reporting, .*\n\n.* in <module>\n.*\n\n.* in main\n    `return _print'
        )
        self.assertNotIn('_on_signal', out)
        self.assertEqual(json.loads(run(gmr.__file__, '--json')[1])['Package']['product'], 'gmr')

    def test_it_prints_wherever_its_output_goes_and_nowhere_else(self):
        with tempfile.TemporaryDirectory() as folder:
            for target, status, word in (('/dev/null', 0, ''), ('&-', 1, 'Bad file'), ('/dev/full', 1, 'No space')):
                for arguments in ('', '--json', '--help'):
                    with self.subTest(target + arguments):
                        line = f'{shlex.quote(sys.executable)} {shlex.quote(gmr.__file__)} {arguments} >{target}'
                        done = subprocess.run(
                            ['sh', '-c', line], stderr=subprocess.PIPE, text=True, env={**os.environ, 'TMPDIR': folder}
                        )
                        self.assertEqual((done.returncode, done.stderr.count('\n')), (status, status), done.stderr)
                        self.assertIn(word, done.stderr)
                        self.assertEqual(os.listdir(folder), [])

    def test_help_fits_one_screen_and_shows_three_examples(self):
        for option in ('-h', '--help'):
            status, out, err = run(gmr.__file__, option)
            self.assertEqual((status, err), (0, ''))
            lines = out.splitlines()
            self.assertLessEqual(len(lines), 24)
            self.assertLessEqual(max(map(len, lines)), 80)
            self.assertEqual(len(lines) - lines.index('examples:') - 1, 3)
        self.assertEqual(run(gmr.__file__, '--version'), (0, f'gmr {gmr.__version__}\n', ''))

    def test_wrong_usage_is_one_line_and_status_2(self):
        for arguments, word in (
            (['--nonsense'], '--nonsense'),
            (['-x'], '-x'),
            (['-m'], 'module'),
            (['--signal'], '--signal'),
            (['--signal', 'NONSENSE', 'x.py'], 'NONSENSE'),
            (['--signal', '_UNBLOCK', 'x.py'], '_UNBLOCK'),
            (['--signal', 'KILL', 'x.py'], '9'),
            (['--signal', '999', 'x.py'], 'gmr.py: there is no signal 999'),
            (['--signal', '', 'x.py'], "there is no signal ''"),
            (['--pid', 'x'], '--pid'),
            (['--pid', '0'], '--pid'),
            (['--pid', '1', '--timeout', '-1'], '--timeout'),
            (['--pid', '1', '--timeout', 'nan'], '--timeout'),
            (['--pid', '1', '--timeout', 'inf'], '--timeout'),
            (['--pid', '1', 'x.py'], '--pid'),
            (['--pid', '1', '--log-dir', 'x'], '--pid'),
            (['--timeout', '3', 'x.py'], '--pid'),
            (['--timeout', '3'], '--pid'),
            (['--log-dir', 'x'], 'a program'),
            (['/nowhere/x.py'], "can't open file '/nowhere/x.py': [Errno 2] No such file or directory"),
        ):
            with self.subTest(arguments):
                status, out, err = run(gmr.__file__, *arguments)
                self.assertEqual((status, out, err.count('\n')), (2, '', 1), err)
                self.assertTrue(err.startswith('gmr.py: '), err)
                self.assertIn(word, err)

    def test_a_missing_folder_is_one_line_and_the_program_runs(self):
        for option in ('--log-dir', '--watch-file'):
            status, out, err = run('-W', 'error', gmr.__file__, option, '/nowhere/at/all', '-m', 'this')
            self.assertEqual((status, err.count('\n')), (0, 1), err)
            self.assertIn('The Zen of Python', out)
            name = option[2:].replace('-', '_')
            self.assertTrue(err.startswith(f'gmr.py: {name}: there is no folder /nowhere/at'), err)

    if not hasattr(sys, 'remote_exec'):

        def test_pid_says_which_python_it_needs(self):
            status, out, err = run(gmr.__file__, '--pid', str(os.getpid()))
            self.assertEqual((status, out, err.count('\n')), (1, '', 1), err)
            self.assertIn('3.14', err)


if hasattr(sys, 'remote_exec'):  # CPython 3.14

    class ForeignProcessTest(unittest.TestCase):
        """`gmr.py --pid`, which asks processes that never heard of gmr."""

        MAY = 'import ctypes; ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0)\n'  # Yama: let siblings look

        def child(self, body, **options):
            body = 'import os, sys, time\n' + self.MAY + textwrap.dedent(body)
            return Child(command=['-c', body], **options)

        def ask(self, child, *options):
            return run(gmr.__file__, '--pid', str(child.pid), *options)

        def check(self, body, *options):
            """Return the report of a child that goes on to its normal end with nothing on its stderr."""
            with self.child(body) as child:
                status, out, err = self.ask(child.wait_ready(), '--timeout', str(DEADLINE), *options)
                self.assertEqual((status, err), (0, ''))
                self.assertEqual(child.finish(), 0, child.text())
                self.assertEqual(child.err, b'')
            return out, child.out.decode()

        def test_a_busy_loop(self):
            text, _ = self.check("""
                import select
                os.write(1, b'ready\\n')
                while not select.select([0], [], [], 0)[0]:
                    pass
            """)
            self.assertRegex(sections(text)['Threads'], r'MainThread, native id \d+, (running|sleeping)')
            self.assertNotIn(' Thread ', sections(text)['Threads'].replace(' Thread ', '', 1))  # that one alone
            self.assertEqual(
                list(sections(text)), ['Guru Meditation', 'Package', 'Threads', 'Processes', 'Configuration']
            )
            self.assertNotIn('_answer', text)

        def test_an_idle_loop_with_other_threads_as_json(self):
            text, _ = self.check(
                """
                import select, threading
                threading.Thread(target=threading.Event().wait, name='waiter', daemon=True).start()
                os.write(1, b'ready\\n')
                while not select.select([0], [], [], 0.05)[0]:
                    pass
            """,
                '--json',
            )
            names = [entry['members'][0]['name'] for entry in json.loads(text)['Threads']]
            self.assertEqual(names, ['MainThread', 'waiter'])

        def test_asyncio(self):
            text, _ = self.check("""
                import asyncio
                async def tick():
                    while not select.select([0], [], [], 0)[0]:
                        await asyncio.sleep(0.05)
                async def main():
                    sleeper = asyncio.create_task(asyncio.sleep(3600), name='sleeper')
                    os.write(1, b'ready\\n')
                    await tick()
                import select
                asyncio.run(main())
            """)
            self.assertIn('\nsleeper, waiting\n', sections(text)['Asyncio Tasks'])
            self.assertRegex(sections(text)['Asyncio Tasks'], r'(?s)in main\n.*in tick\n.*in sleep\n')

        def test_one_that_has_set_up_gmr_shows_its_own_sections(self):
            text, _ = self.check(f"""
                sys.path.insert(0, {HERE!r})
                import gmr, select
                gmr.register_section('Mine', lambda: 42)
                gmr.setup_autorun('7.7', conf={{'answer': 42}})
                os.write(1, b'ready\\n')
                while not select.select([0], [], [], 0.05)[0]:
                    pass
            """)
            found = sections(text)
            self.assertIn('version = 7.7', found['Package'])
            self.assertIn('answer = 42', found['Configuration'])
            self.assertEqual(found['Mine'].strip(), '42')

        def test_it_leaves_nothing_behind(self):
            with self.child(
                """
                import ctypes, gc, select, signal, threading
                {imports}
                def state():
                    gc.collect()
                    mine = [one for one in gc.get_objects() if type(one) is type(state) and '_QUESTION' in one.__globals__]
                    return (sorted(sys.modules), sys.path, sys.getrecursionlimit(), sys.getswitchinterval(),
                        gc.isenabled(), threading.stack_size(), signal.getsignal(signal.SIGUSR2), mine,
                        os.listdir('/proc/self/task'), os.listdir('/proc/self/fd'))
                before = state()
                os.write(1, b'ready\\n')
                while not select.select([0], [], [], 0.05)[0]:
                    pass
                after = state()
                assert before == after, (before, after)
            """.format(
                    imports='import atexit, contextlib, errno, functools, io, itertools, math, operator, pwd, re, '
                    'resource, stat, types, warnings, _queue, collections.abc, select, __future__'
                )
            ) as child:
                child.wait_ready()
                for _ in range(3):
                    self.assertEqual(self.ask(child)[0], 0)
                self.assertEqual(child.finish(), 0, child.text())
                self.assertEqual(child.err, b'')
            self.assertEqual(self.left(), [])

        SLOW = f"""
            import select, threading
            sys.path.insert(0, {HERE!r})
            import gmr
            asked, gate = threading.Event(), threading.Event()
            def slow():
                os.write(1, b'asked\\n')
                gate.wait({DEADLINE})
            gmr.GuruMeditation.section_timeout = {DEADLINE}
            gmr.register_section('Slow', slow)
        """

        def setUp(self):
            self.before = set(os.listdir('/tmp'))

        def left(self):
            return [name for name in os.listdir('/tmp') if name.startswith('gmr-') and name not in self.before]

        def asker(self, child, *options):
            asker = Child(command=[gmr.__file__, '--pid', str(child.pid), '--timeout', str(DEADLINE), *options])
            self.addCleanup(asker.__exit__)
            return asker

        def test_ctrl_c_while_it_is_asked_reaches_the_program(self):
            body = (
                textwrap.dedent(self.SLOW)
                + """
try:
    os.write(1, b'ready\\n')
    while True:
        time.sleep(0.01)
except KeyboardInterrupt:
    gate.set()
    os.write(1, b'interrupted\\n')
select.select([0], [], [])
"""
            )
            with self.child(body) as child:
                asker = self.asker(child.wait_ready())
                child.wait_for(lambda: b'asked' in child.out, 'the section')
                os.kill(child.pid, signal.SIGINT)
                child.wait_for(lambda: b'interrupted' in child.out, 'the interrupt')
                self.assertEqual(asker.finish(), 0, asker.text())
                self.assertIn('Slow', sections(asker.out.decode()))
                self.assertEqual((child.finish(), child.err), (0, b''))

        def test_ten_askers_at_once_get_ten_answers(self):
            with self.child("""
                import select
                os.write(1, b'ready\\n')
                while not select.select([0], [], [], 0.05)[0]:
                    pass
            """) as child:
                child.wait_ready()
                for asker in [self.asker(child) for _ in range(10)]:
                    self.assertEqual(asker.finish(), 0, asker.text())
                    self.assertIn('Configuration', sections(asker.out.decode()))
                self.assertEqual((child.finish(), child.err), (0, b''))

        def test_one_that_ends_while_it_is_asked_leaves_nothing(self):
            loop = "os.write(1, b'ready\\n')\nwhile True:\n    time.sleep(0.01)\n"
            with self.child(textwrap.dedent(self.SLOW) + loop) as child:
                asker = self.asker(child.wait_ready())
                child.wait_for(lambda: b'asked' in child.out, 'the section')
                child.process.kill()
                child.process.wait(DEADLINE)
                self.assertEqual(asker.finish(), 1)
                self.assertEqual(asker.err.decode(), f'gmr.py: process {child.pid} has ended\n')
            self.assertEqual(self.left(), [])

        def test_who_gives_up_asking_takes_the_question_back(self):
            for signum in (signal.SIGINT, signal.SIGTERM):
                with self.child("os.write(1, b'ready\\n')\nos.read(0, 1)\ntime.sleep(0.1)") as child:
                    asker = self.asker(child.wait_ready())
                    deadline = time.monotonic() + DEADLINE
                    while len(self.left()) < 2:
                        self.assertLess(time.monotonic(), deadline, asker.text())
                        time.sleep(0.05)
                    time.sleep(0.2)  # it is put where the process will find it
                    os.kill(asker.pid, signum)
                    self.assertEqual(asker.finish(), 130, asker.text())
                    self.assertEqual(asker.err.count(b'\n'), 1, asker.text())
                    self.assertEqual(self.left(), [])
                    self.assertEqual((child.finish(), child.err), (0, b''))

        def test_whoever_answers_cannot_steer_the_terminal(self):
            text, _ = self.check("""
                import select, types
                class Fake:
                    def __init__(self, version): pass
                    def _run(self, *_): return 'first\\n\x1b]0;owned\x07'
                sys.modules['fake'] = fake = types.ModuleType('fake')
                fake._autorun, fake.TextGuruMeditation, fake._register_hooks = [], Fake, int
                os.write(1, b'ready\\n')
                while not select.select([0], [], [], 0.05)[0]:
                    pass
            """)
            self.assertEqual(text, 'first\n\\x1b]0;owned\\x07\n')

        if LINUX and os.geteuid() == 0:

            def test_root_does_for_a_user_what_the_user_may_do_and_no_more(self):
                with tempfile.TemporaryDirectory() as jail:
                    os.chmod(jail, 0o755)
                    folder = os.path.join(jail, 'tmp')
                    os.mkdir(folder)
                    body = f"os.chroot({jail!r}); os.setgid(65534); os.setuid(65534); os.write(1, b'ready\\n'); os.read(0, 1)"
                    with self.child(body) as child:
                        for mode, word in ((0o755, 'Permission denied'), (0o1777, 'no answer')):
                            os.chmod(folder, mode)
                            status, _, err = self.ask(child.wait_ready(), '--timeout', '0.5')
                            self.assertEqual((status, err.count('\n')), (1, 1), err)
                            self.assertIn(word, err)
                            self.assertEqual(os.listdir(folder), [])

        def test_of_one_that_does_not_answer_the_stacks_are_shown_from_outside(self):
            for body, function, call in (
                ('import threading\nt = threading.Thread(target=hold)\nt.start()\nt.join()', 'Thread.join', 'hold'),
                ('hold()', 'hold', 'hold'),
            ):
                with (
                    self.subTest(function),
                    self.child("def hold():\n    os.write(1, b'ready\\n')\n    os.read(0, 1)\n" + body) as child,
                ):
                    status, out, err = self.ask(child.wait_ready(), '--timeout', '0.5')
                    self.assertEqual((status, err.count('\n')), (1, 1), err)
                    self.assertIn('no answer', err)
                    self.assertRegex(sections(out)['Threads'], f'MainThread, native id {child.pid}\n')
                    self.assertRegex(
                        sections(out)['Processes'],
                        rf'Process {child.pid} \(under {os.getpid()}\) .*\ncommand line =\s+\S*python\S* -c ',
                    )
                    document = json.loads(self.ask(child, '--timeout', '0.1', '--json')[1])
                    self.assertEqual(document['Guru Meditation']['pid'], child.pid)
                    self.assertIn('python', document['Guru Meditation']['program'])
                    self.assertIn(f' in {function}\n', out)
                    self.assertIn(f' in {call}\n', out)
                    self.assertEqual(child.finish(), 0, child.text())
                    self.assertEqual(child.err, b'')  # nothing is asked of it any more when it comes back
            self.assertEqual(self.left(), [])

        def test_each_reason_for_no_answer_is_one_clear_line(self):
            def check(pid, word, **options):
                with self.subTest(word):
                    status, out, err = run(gmr.__file__, '--pid', str(pid), **options)
                    self.assertEqual((status, out, err.count('\n')), (1, '', 1), err)
                    self.assertIn(word, err)

            ended = subprocess.Popen(['true'])
            ended.wait()
            check(ended.pid, 'there is no process')
            with subprocess.Popen(['sleep', '3600']) as sleeper:
                check(sleeper.pid, 'not a Python')
                sleeper.kill()
            with Child('hold()', options=['-X', 'disable-remote-debug']) as child:
                check(child.wait_ready().pid, 'not enabled')
            if os.geteuid() == 0:
                with Child('hold()') as child:
                    check(child.wait_ready().pid, 'ermitted', user='nobody')
            for other in ('python3.13', 'python3.14', 'python3.15'):
                version = other.removeprefix('python')
                path = shutil.which(other)
                if path and version != '{}.{}'.format(*sys.version_info):
                    with subprocess.Popen(
                        [path, '-c', 'input()'], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
                    ) as child:
                        check(child.pid, version)
                        child.kill()


def readme_blocks():
    """Return the literal blocks of the manual."""
    with open(os.path.join(HERE, 'README.rst'), encoding='utf-8') as stream:
        lines = stream.read().split('\n')
    blocks = []
    for number, line in enumerate(lines):
        if line.endswith('::') and not line.startswith('..'):
            rest = lines[number + 2 :]
            indent = re.match(' +', rest[0])[0]
            block = itertools.takewhile(lambda line, indent=indent: not line or line.startswith(indent), rest)
            blocks.append(textwrap.dedent('\n'.join(block)).strip('\n') + '\n')
    return blocks


def comparable(text):
    """Return an output without what differs from machine to machine and from one CPython to the next."""
    text = re.sub(r'(?m)^\S*/python3\.\d+/\S*:\d+ in .*\n    .*\n\n?', '', text)  # frames of the standard library
    text = re.sub(r'(?m)^  File "\S*/python3\.\d+/.*\n(?:    .*\n)?', '', text)
    text = re.sub(r'(?m)^\S*/(\w+\.py:\d+ in )', r'\1', text)
    text = re.sub(r'"/\S*/(\w+\.py)"', r'"\1"', text)
    text = re.sub(r'(?m)^(platform|python|command line|working directory) = .*', r'\1', text)
    text = re.sub(r'run by: \S+', 'run by', text)
    text = re.sub(r'"(user|host|program)": ".*?"', r'"\1"', text)
    text = re.sub(r'(?m)^[ ~^]+\n|^handling .*\n', '', text)  # CPython 3.11 and 3.10
    text = re.sub(r'(?m)^(Thread|Current thread) (0x\w+) \[.*?\]', r'\1 \2', text)  # CPython 3.14
    text = re.sub(r'0x[0-9a-f]+|\d[\d,.]*', '9', text)
    return re.sub(r'\n\n+', '\n\n', re.sub(' +', ' ', text)).strip()


def like(block):
    """Return the pattern of an output in the manual, in which a line `...` is anything."""
    parts = map(comparable, re.split(r'(?m)^ *\.\.\.\n', block))
    return r'\s+(?:.*\n)*?\s*'.join(map(re.escape, filter(None, parts)))


RUN_BY = (  # what each block begins with, in their order
    ('test_the_first_commands', 'python3 gmr.py\n'),
    ('.ci/run', 'python3 -m venv'),
    ('test_the_first_commands', 'python3 gmr.py -m http.server --bind 127.0.0.1 8000 &\n'),
    ('test_the_set_up', 'import gmr\n'),
    ('test_a_real_report', 'import queue\n'),
    ('test_a_real_report', 'python3 shop.py &\n'),
    ('test_a_real_report', '='),
    ('.ci/run', 'pip install .\n'),
    ('test_any_program', 'python3 gmr.py --help\n'),
    ('test_any_program', 'usage: '),
    ('test_any_program', 'sudo python3 gmr.py --pid PID\n'),
    ('test_asyncio', 'import asyncio\n'),
    ('test_asyncio', '='),
    ('test_sections', 'import threading\n'),
    ('test_sections', '='),
    ('test_a_report_in_code', 'import sys\n'),
    ('test_a_report_in_code', 'Traceback '),
    ('test_a_port_for_operators', 'import http.server\n'),
    ('test_a_port_for_operators', 'curl '),
    ('test_migration', '-from oslo_reports'),
    ('test_migration', 'CONF.register_opts('),
    ('test_json', 'import threading\n'),
    ('test_json', 'Guru Meditation Report: '),
    ('test_json', 'cat reports/'),
    ('test_json', '{\n'),
    ('test_stuck_without_the_interpreter', 'import hashlib\n'),
    ('test_stuck_without_the_interpreter', 'touch '),
    ('test_stuck_without_the_interpreter', '='),
    ('test_stuck_with_the_interpreter', 'import threading\n'),
    ('test_stuck_with_the_interpreter', 'Thread 0x'),
    ('test_gunicorn', 'def post_worker_init('),
    ('test_gunicorn', 'gunicorn '),
    ('test_uvicorn', 'uvicorn '),
    ('test_celery', '@celery.signals.'),
    ('test_celery', 'celery -A '),
    ('test_uwsgi', '@uwsgidecorators.'),
    ('test_uwsgi', 'uwsgi '),
    ('test_mod_wsgi', 'gmr.setup_autorun('),
    ('test_multiprocessing', 'def set_up('),
    ('test_multiprocessing', 'kill -USR2 PID\n'),
    ('test_systemd', 'systemctl '),
    ('test_container', 'docker '),
    ('test_jupyter', 'import os\n'),
    ('test_jupyter', 'print('),
    ('test_secrets', 'import gmr\n'),
    ('test_secrets', '='),
    ('test_the_cost_is_what_the_benchmark_prints', 'CPython '),
    ('test_started_with_the_signal_ignored', 'sh -c '),
)


# For commands of the manual that a small machine lacks.
STAND_IN = """\
import os, re, signal, sys, urllib.request
name, *arguments = sys.argv[1:]
if name == 'curl':
    sys.exit(print(urllib.request.urlopen(arguments[-1]).read().decode()))
parent = arguments[arguments.index('-P') + 1]
pattern = arguments[arguments.index('-f') + 1] if '-f' in arguments else ''
found = open(f'/proc/{parent}/task/{parent}/children').read().split()
found = [pid for pid in found if re.search(pattern, open(f'/proc/{pid}/cmdline').read().replace('\\0', ' '))]
for pid in found:
    print(pid) if name == 'pgrep' else os.kill(int(pid), signal.SIGUSR2)
sys.exit(not found)
"""
# A service that can be asked and does nothing else.
WAITING = """\
import time
import gmr
gmr.setup_autorun('2.1.0')
print('ready', flush=True)
while True:
    time.sleep(0.05)
"""


class ManualTestCase(unittest.TestCase):
    """Runs blocks of the manual as they stand there."""

    maxDiff = None

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.realpath(folder.name)
        shutil.copy(gmr.__file__, self.folder)
        self.blocks = [block for (test, _), block in zip(RUN_BY, readme_blocks()) if test == self._testMethodName]
        self.command('python3', f'exec {sys.executable} "$@"')
        self.command('sudo', 'exec "$@"')
        for name in ('curl', 'pgrep', 'pkill'):
            if not shutil.which(name):
                self.command(name, f'exec {sys.executable} -c {shlex.quote(STAND_IN)} {name} "$@"')

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w', encoding='utf-8') as stream:
            stream.write(text)
        return path

    def command(self, name, line):
        """Make a command of the manual, as it is on this machine."""
        os.chmod(self.write(f'bin/{name}', f'#!/bin/sh\n{line}\n'), 0o755)

    def shell(self, script, **env):
        """Start a shell with the commands of the manual. `sleep 1` waits until the last process has its handler."""
        wait = "sleep() { until grep -q '^SigCgt:.*[89a-f]..$' /proc/$!/status; do command sleep 0.05; done; }\n"
        wait = wait if 'sleep' in script else ''
        path = f'{self.folder}/bin:{os.path.dirname(sys.executable)}:{os.environ["PATH"]}'
        command = ['-c', 'import os, sys; os.execvp("sh", ["sh", "-c", sys.argv[1]])', wait + script]
        return Child(command=command, cwd=self.folder, **{'PATH': path, **env})

    def output(self, script):
        with self.shell(script) as child:
            self.assertEqual(child.finish(), 0, child.text())
        return child.out.decode()

    def background(self, script, **env):
        """Start a script that starts a service with `&`, and return it with the pid of the service."""
        child = self.shell(f'{script}\necho pid $!\nwait\n', **env)
        child.__enter__()
        self.addCleanup(child.__exit__)
        child.wait_for(lambda: re.search(rb'pid \d+\n', child.out), 'its pid')
        pid = int(re.search(rb'pid (\d+)\n', child.out)[1])
        self.addCleanup(self.end, pid, child.pid)
        return child, pid

    def end(self, pid, parent):
        with contextlib.suppress(FileNotFoundError), open(f'/proc/{pid}/stat') as stream:
            if int(stream.read().rpartition(')')[2].split()[1]) == parent:
                os.kill(pid, signal.SIGKILL)

    def stop(self, child, pid, signum=signal.SIGTERM):
        """End a service as its operator would, and wait for it."""
        os.kill(pid, signum)
        child.process.wait(DEADLINE)

    def program(self, name, text):
        """Start a program of the manual, and return it when it can be signalled."""
        self.write(name, text)
        child, pid = self.background(f'python3 {name} &\nsleep 1')
        return child, pid

    def until(self, condition, what, child):
        deadline = time.monotonic() + DEADLINE
        while not condition():
            self.assertLess(time.monotonic(), deadline, f'{what} did not come:\n{child.text()}')
            time.sleep(0.05)

    def await_like(self, child, block, ask):
        """Ask until an output comes that is like the block: the program may not have come so far yet."""
        deadline = time.monotonic() + DEADLINE
        pattern, last = re.compile(like(block)), ''
        while time.monotonic() < deadline:
            start = len(child.err)
            ask()
            until = time.monotonic() + 5
            while time.monotonic() < until:
                last = comparable(child.err[start:].decode())
                if pattern.search(last):
                    return
                time.sleep(0.1)
        self.fail(f'{last}\n\nis not like\n\n{pattern.pattern}')


class ReadmeTest(ManualTestCase):
    """Every block of the manual but its recipes."""

    def test_every_block_is_run(self):
        blocks = readme_blocks()
        self.assertEqual(len(blocks), len(RUN_BY))
        for block, (test, start) in zip(blocks, RUN_BY):
            self.assertTrue(block.startswith(start), (block[:80], start))
            if test != '.ci/run' and NEEDS.get(test, True):
                self.assertTrue(hasattr(ReadmeTest, test) or hasattr(RecipeTest, test), test)

    def test_the_first_commands(self):
        first, second = self.blocks
        self.assertIn('product = gmr\n', self.output(first))
        with socket.create_server(('127.0.0.1', 0)) as listener:
            port = listener.getsockname()[1]
        child, _ = self.background(second.replace('8000', str(port)))
        child.wait_for(lambda: b'No configuration was given' in child.err, 'a report')
        self.assertIn(b'product = http.server\n', child.err)

    def test_the_set_up(self):
        (lines,) = self.blocks
        text = report_of('import queue; orders, conf = queue.Queue(), {}\n' + lines + "setup('2.1.0')\nhold()")
        self.assertIn('version = 2.1.0\n', text)
        self.assertEqual(sections(text)['Orders'].strip(), 'waiting = 0')

    def test_a_real_report(self):
        program, command, report = self.blocks
        self.write('shop.py', program)
        child, pid = self.background(command)
        self.await_like(child, report, lambda: os.kill(pid, signal.SIGUSR2))

    def test_any_program(self):
        command, usage, ask = self.blocks
        self.assertEqual(self.output(command), usage)
        _, pid = self.program('busy.py', 'import gmr\ngmr.setup_autorun("1.0")\nwhile True:\n    pass\n')
        if hasattr(sys, 'remote_exec'):
            self.assertIn('version = 1.0\n', self.output(ask.replace('PID', str(pid))))
        else:
            self.assertIn('needs CPython 3.14', self.output(ask.replace('PID', f'{pid} 2>&1 || true')))

    def test_asyncio(self):
        program, report = self.blocks
        child, pid = self.program('crawl.py', program)
        self.await_like(child, report, lambda: os.kill(pid, signal.SIGUSR2))

    def test_sections(self):
        program, report = self.blocks
        child, pid = self.program('sections.py', program)
        self.await_like(child, report, lambda: os.kill(pid, signal.SIGUSR2))

    def test_a_report_in_code(self):
        program, output = self.blocks
        self.write('hook.py', program)
        child, _ = self.background('python3 hook.py &')
        self.await_like(child, output, lambda: None)

    def test_a_port_for_operators(self):
        program, command = self.blocks
        with socket.create_server(('127.0.0.1', 0)) as listener:
            port = str(listener.getsockname()[1])
        self.write('health.py', program.replace('8080', port))
        self.background('python3 health.py &')
        command = command.replace('8080', port)
        command = f'for _ in $(seq 100); do {{ {command.strip()}; }} 2>/dev/null && break; command sleep 0.1; done'
        self.assertEqual(json.loads(self.output(command))['Package']['version'], '1.0')

    def test_migration(self):
        diff, options = self.blocks
        after = ''.join(line[1:] + '\n' for line in diff.split('\n') if line[:1] in ('+', ' '))
        self.assertNotIn('oslo', after)
        stand_in = 'import types; CONF = types.SimpleNamespace(register_opts=print); generator = dict; version = "1"\n'
        self.write('after.py', stand_in + after)
        self.output('python3 after.py')
        if installed('oslo_config'):
            program = f'from oslo_config import cfg\nCONF = cfg.CONF\n{options}CONF([])\n'
            program += 'import gmr\nassert gmr._oslo_option(CONF, "file_event_handler_interval") == 1\n'
            self.write('options.py', program)
            self.output('python3 options.py')

    def test_json(self):
        program, line, command, document = self.blocks
        child, pid = self.program('report_json.py', program)
        os.mkdir(os.path.join(self.folder, 'reports'))
        self.await_like(child, '/shop_gurumeditation_9_9.json\n', lambda: os.kill(pid, signal.SIGUSR2))
        self.assertRegex(child.err.decode(), re.sub(r'\d+', r'\\d+', line.replace('/tmp/readme/run', self.folder)))
        self.assertRegex(comparable(self.output(command)), like(document))

    def test_stuck_without_the_interpreter(self):
        program, command, report = self.blocks
        child, _ = self.program('stuck.py', program)
        self.await_like(child, report, lambda: self.output(command))

    def test_stuck_with_the_interpreter(self):
        program, stacks = self.blocks
        child, pid = self.program('instant.py', program)
        self.await_like(child, stacks, lambda: os.kill(pid, signal.SIGUSR2))

    def test_secrets(self):
        program, report = self.blocks
        self.write('licence.py', program)
        self.assertRegex(comparable(self.output('python3 licence.py')), like(report))

    def test_the_cost_is_what_the_benchmark_prints(self):
        (table,) = self.blocks
        with open(os.path.join(HERE, '.ci', 'bench.py'), encoding='utf-8') as stream:
            code = stream.read()
        for row in table.split('\n')[3:-1]:
            label = re.split('  +', row)[0]
            self.assertIn(re.sub(r'each of [\d,]+', 'each of {count:,}', label), code)

    def test_started_with_the_signal_ignored(self):
        (command,) = self.blocks
        start = "print('ready', flush=True)\nwhile not os.path.exists('go'):\n    time.sleep(0.05)\n"
        self.write('shop.py', f'import os, time, gmr\n{start}gmr.setup_autorun("1.0")\ntime.sleep(3600)\n')
        child, pid = self.background(command.strip() + ' &')
        child.wait_for(lambda: b'ready' in child.out, 'ready')
        os.kill(pid, signal.SIGUSR2)
        self.write('go', '')
        self.until(lambda: handles_usr2(pid), 'the set-up', child)
        self.await_like(child, 'version = 1.0', lambda: os.kill(pid, signal.SIGUSR2))


def handles_usr2(pid):
    """Return whether a process has a handler for SIGUSR2; a fresh child of gunicorn still has all of its master's."""
    try:
        with open(f'/proc/{pid}/status') as stream:
            caught = int(re.search(r'SigCgt:\s*(\w+)', stream.read())[1], 16)
    except OSError:
        return False
    return bool(caught >> (signal.SIGUSR2 - 1) & 1) and not caught >> (signal.SIGCHLD - 1) & 1


def children_of(pid):
    with open(f'/proc/{pid}/task/{pid}/children') as stream:
        return list(map(int, stream.read().split()))


class RecipeTest(ManualTestCase):
    """The recipes of the manual, each on the real thing where it is installed."""

    APP = """
import os, time
def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'here']

async def app(scope, receive, send):
    if scope['type'] == 'http':
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        await send({'type': 'http.response.body', 'body': b'here'})
"""

    def setUp(self):
        super().setUp()
        os.chmod(self.folder, 0o755)
        with socket.create_server(('127.0.0.1', 0)) as listener:
            self.port = listener.getsockname()[1]

    def page(self):
        with contextlib.suppress(OSError), urllib.request.urlopen(f'http://127.0.0.1:{self.port}/', timeout=5) as page:
            return page.read() == b'here'

    def reported(self, child):
        return set(map(int, re.findall(r'^Process (\d+) \(under', child.text(), re.MULTILINE)))

    def check(self, child, pids, ask):
        """Ask, and wait until each of these processes has reported; all of them still run."""
        self.assertEqual(self.reported(child), set())
        for line in ask:
            with self.shell(line) as shell:
                self.assertEqual(shell.finish(), 0, shell.text())
        self.until(lambda: self.reported(child) >= set(pids), 'a report of each', child)
        self.assertTrue(all(map(handles_usr2, pids)), child.text())

    def test_gunicorn(self):
        hook, commands = self.blocks
        start, ask = commands.strip().split('\n')
        self.write('gunicorn.conf.py', hook)
        self.write('app.py', self.APP)
        kinds = ['sync', 'gthread'] + ['gevent'] * installed('gevent')
        for options in (*(f'--worker-class {kind}' for kind in kinds), '--preload'):
            with self.subTest(options):
                options += f' --bind 127.0.0.1:{self.port}'
                child, pid = self.background(f'{start} &', GUNICORN_CMD_ARGS=options)
                self.until(lambda pid=pid: sum(map(handles_usr2, children_of(pid))) == 2, 'two workers', child)
                self.check(child, children_of(pid), [ask])
                self.until(self.page, 'a page', child)
                self.stop(child, pid)

    def test_uvicorn(self):
        (commands,) = self.blocks
        start, ask = commands.strip().split('\n')
        self.write('app.py', self.APP + "import gmr\ngmr.setup_autorun('2.1.0')\n")
        child, pid = self.background(f'{start} &', UVICORN_PORT=str(self.port))
        self.until(lambda: sum(map(handles_usr2, children_of(pid))) == 2, 'two workers', child)
        self.until(self.page, 'a page', child)
        self.check(child, filter(handles_usr2, children_of(pid)), [ask.replace('PID', str(pid))])
        self.assertTrue(self.page())
        self.stop(child, pid)

    def test_celery(self):
        hook, commands = self.blocks
        start, *ask = commands.strip().split('\n')
        redis = subprocess.Popen(
            ['redis-server', '--port', str(self.port), '--bind', '127.0.0.1', '--save', ''], stdout=subprocess.DEVNULL
        )
        self.addCleanup(redis.wait)
        self.addCleanup(redis.kill)
        url = f'redis://127.0.0.1:{self.port}/0'
        self.write(
            'tasks.py', f'import celery, celery.signals, gmr\napp = celery.Celery("tasks", broker="{url}")\n{hook}'
        )
        child, pid = self.background(f'{start} &')
        self.until(lambda: sum(map(handles_usr2, children_of(pid))) == 2, 'two children', child)
        self.until(lambda: handles_usr2(pid), 'the main process', child)
        self.check(child, [pid, *children_of(pid)], [line.replace('PID', str(pid)) for line in ask])
        self.stop(child, pid)

    def test_uwsgi(self):
        hook, commands = self.blocks
        start, ask = commands.strip().split('\n')
        self.write('app.py', f'import gmr, uwsgidecorators\n{self.APP}\n{hook}')
        child, pid = self.background(start.replace('8000', str(self.port)) + ' --die-on-term &')
        self.until(self.page, 'a page', child)
        self.until(lambda: len(children_of(pid)) == 2, 'two workers', child)

        def asked():
            self.output(ask)
            time.sleep(1.5)
            return self.reported(child) >= set(children_of(pid))

        self.until(asked, 'a report of each worker', child)
        self.assertTrue(self.page())
        self.stop(child, pid)

    def test_mod_wsgi(self):
        (line,) = self.blocks
        watched = os.path.join(self.folder, 'report-please')
        self.write('app.wsgi', 'import gmr\n' + line.replace('/run/shop/report-please', watched) + self.APP)
        modules = '/usr/lib/apache2/modules'
        config = f"""
            ServerName localhost
            Listen 127.0.0.1:{self.port}
            PidFile httpd.pid
            DefaultRuntimeDir {self.folder}
            ErrorLog /dev/stderr
            LoadModule mpm_event_module {modules}/mod_mpm_event.so
            LoadModule authz_core_module {modules}/mod_authz_core.so
            LoadModule wsgi_module {modules}/mod_wsgi.so
            WSGISocketPrefix wsgi
            WSGIDaemonProcess shop processes=2 threads=5 python-path={self.folder}
            WSGIScriptAlias / {self.folder}/app.wsgi process-group=shop application-group=%{{GLOBAL}}
            <Location />
                Require all granted
            </Location>
            """
        self.write('httpd.conf', config + ('User www-data\nGroup www-data\n' if os.geteuid() == 0 else ''))
        child, pid = self.background(f'/usr/sbin/apache2 -d {self.folder} -f httpd.conf -DFOREGROUND &')
        self.until(self.page, 'a page', child)

        def asked():
            self.write('report-please', '')
            time.sleep(1.5)
            return len(self.reported(child)) == 2

        self.until(asked, 'a report of each process', child)
        self.assertTrue(self.page())
        self.stop(child, pid)

    def test_multiprocessing(self):
        program, commands = self.blocks
        commands = commands.strip().split('\n')
        for method in ('fork', 'spawn', 'forkserver'):
            with self.subTest(method):
                text = 'import multiprocessing, os, signal, time\nimport gmr\n' + program.replace(
                    "'spawn'", f"'{method}'"
                )
                text += "    print('workers', *(child.pid for child in pool._pool), flush=True)\n    time.sleep(3600)\n"
                self.write('shop.py', text)
                child, pid = self.background('python3 shop.py &')
                child.wait_for(lambda child=child: re.search(rb'workers .*\n', child.out), 'the workers')
                workers = list(map(int, re.search(rb'workers (.*)\n', child.out)[1].split()))
                self.until(lambda pids=(pid, *workers): all(map(handles_usr2, pids)), 'all set up', child)
                ask = [line.replace('PID', str(pid)) for line in commands[: 3 if method == 'forkserver' else 2]]
                self.check(child, [pid, *workers], ask)
                self.assertNotIn('died unexpectedly', child.text())
                self.stop(child, pid, signal.SIGKILL)  # its workers find their pipe closed

    def test_systemd(self):
        (commands,) = self.blocks  # with stand-ins that do what the real ones did
        child, pid = self.program('shop.py', WAITING)
        case = '[ "$*" = "kill --signal=USR2 --kill-whom=main shop" ]'
        self.command('systemctl', f'{case} && kill -USR2 {pid}')
        self.command('journalctl', '[ "$*" = "-u shop -o cat" ]')
        self.check(child, [pid], [commands])

    def test_container(self):
        (commands,) = self.blocks  # with stand-ins, and a pid namespace where one can be had
        self.write('shop.py', WAITING)
        unshare = ['unshare', '--user', '--map-root-user', '--pid', '--fork', '--kill-child']
        inside = (
            shutil.which('nsenter') and not subprocess.run([*unshare, 'true'], stderr=subprocess.DEVNULL).returncode
        )
        for command in commands.strip().split('\n'):
            with self.subTest(command):
                child, pid = self.background(f'{shlex.join(unshare) if inside else ""} python3 shop.py &')
                child.wait_for(lambda child=child: b'ready' in child.out, 'ready')
                first = children_of(pid)[0] if inside else pid
                enter = f'nsenter --preserve-credentials --user --pid --target {first}' if inside else ''
                execute = f'{enter} sh -c "kill -USR2 {1 if inside else first}"'
                for tool, arguments, line in (
                    ('docker', 'kill --signal USR2 shop', f'kill -USR2 {first}'),
                    ('docker', 'exec shop sh -c kill -USR2 1', execute),
                    ('kubectl', 'exec POD -- sh -c kill -USR2 1', execute),
                ):
                    if command.replace("'", '') == f'{tool} {arguments}':
                        self.command(tool, f'[ "$*" = "{arguments}" ] && {line}')
                self.output(command)
                self.until(lambda child=child: 'version = 2.1.0' in child.text(), 'a report', child)
                self.stop(child, first, signal.SIGKILL)

    def test_jupyter(self):
        cell, at_once = self.blocks
        self.write(
            'front.py',
            f"""
import os, queue, signal, time
import jupyter_client
kernel = jupyter_client.KernelManager()
kernel.start_kernel()
client = kernel.blocking_client()
client.start_channels()
client.wait_for_ready(timeout={DEADLINE})

def run(code, between=lambda: None):
    client.execute(code)
    found, deadline = '', time.monotonic() + {DEADLINE}
    while time.monotonic() < deadline:
        message = client.get_iopub_msg(timeout={DEADLINE})
        content = message['content']
        found += content.get('text', '') + str(content.get('data', {{}}).get('text/plain', ''))
        if message['msg_type'] == 'execute_input':
            between()
        if content.get('execution_state') == 'idle' and message['parent_header'].get('msg_type') == 'execute_request':
            return found

pid = int(run({cell!r}))
text = run('import time\\ndef slow():\\n    time.sleep(4)\\nslow()', lambda: time.sleep(1) or os.kill(pid, signal.SIGUSR2))
assert 'version = notebook' in text and 'in slow\\n    `time.sleep(4)`' in text, text
text = run({at_once!r})
assert 'Guru Meditation' in text and 'reporting' in text, text
assert run('6 * 7') == '42'
client.stop_channels()
kernel.shutdown_kernel(now=True)
""",
        )
        self.output('python3 front.py')


NEEDS = {
    'test_gunicorn': installed('gunicorn'),
    'test_uvicorn': installed('uvicorn'),
    'test_celery': installed('celery') and installed('redis') and bool(shutil.which('redis-server')),
    'test_uwsgi': os.path.exists(os.path.join(os.path.dirname(sys.executable), 'uwsgi')),
    'test_mod_wsgi': os.path.exists('/usr/lib/apache2/modules/mod_wsgi.so'),
    'test_jupyter': installed('ipykernel') and installed('jupyter_client'),
}
for name in NEEDS:
    if not NEEDS[name]:
        delattr(RecipeTest, name)


if __name__ == '__main__':
    unittest.main()
