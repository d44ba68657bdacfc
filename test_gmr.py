"""Tests of gmr.py. Each is named for a promise; signals go to real processes, after a handshake."""

# SPDX-License-Identifier: Apache-2.0

import argparse
import collections
import collections.abc
import configparser
import contextlib
import ctypes
import dataclasses
import datetime
import errno
import functools
import gzip
import importlib.util
import io
import itertools
import json
import os
import pathlib
import pwd
import re
import resource
import select
import shlex
import shutil
import signal
import socket
import stat
import struct
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
import warnings
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
END_OF_REPORT = r'==== {28}The End {29}====\n={72}\n.+\n'
END = '====                            The End                             ====\n' + '=' * 72 + '\nof the report\n'


def environment(**changes):
    """Return the environment of a child, without what makes a Python write or find its modules in another way."""
    kept = {k: v for k, v in os.environ.items() if k not in ('PYTHONUNBUFFERED', 'PYTHONPATH', 'TMPDIR', 'COLUMNS')}
    return {**kept, **changes}


class Child:
    """A process that runs PRELUDE and a body from a file, its output collected by threads, its end certain."""

    def __init__(
        self,
        body='',
        *,
        command=(),
        options=(),
        arguments=(),
        python=(sys.executable,),
        stderr=subprocess.PIPE,
        cwd=None,
        limits=None,
        first='',
        **env,
    ):
        self.folder = tempfile.TemporaryDirectory()
        if not command:
            path = os.path.join(os.path.realpath(self.folder.name), 'program.py')
            with open(path, 'w', encoding='utf-8', errors='surrogateescape') as stream:
                stream.write(f'{first}\n{PRELUDE}{textwrap.dedent(body)}')
            command = *options, path, *arguments
        self.process = subprocess.Popen(
            [*python, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment(**{'PYTHONPATH': HERE, 'PYTHONWARNINGS': 'ignore', **env}),
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
        self.folder.cleanup()

    def wait_for(self, condition, what):
        deadline = time.monotonic() + DEADLINE
        with self.changed:
            while not condition() and self.process.poll() is None and time.monotonic() < deadline:
                self.changed.wait(0.1)  # nobody tells of its end
            if not condition():
                self.changed.wait_for(condition, 1)  # ended: its pipes may still hold something
            if not condition():
                raise AssertionError(f'{what} did not come, exit code {self.process.poll()}:\n{self.text()}')

    def text(self):
        return f'{self.out.decode(errors="replace")}\n{self.err.decode(errors="replace")}'

    def wait_ready(self, count=1):
        self.wait_for(lambda: self.out.count(b'ready\n') >= count, 'ready')
        return self

    def reports(self):
        return len(re.findall(END_OF_REPORT, self.err.decode(errors='replace')))

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


@functools.cache
def installed(name):
    """Return whether a package can be imported; elsewhere, since some of them change their process."""
    command = [sys.executable, '-W', 'ignore', '-c', f'import {name}']  # Debian has some for one CPython of several
    there = importlib.util.find_spec(name) is not None
    return there and subprocess.run(command, stderr=subprocess.DEVNULL, timeout=DEADLINE).returncode == 0


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
            r'web, native id \d+, reporting, .*\n(.*\n)*.*in .*health_endpoint\n.*\.run\(\)\)`\n\n$',
        )

    def test_eight_threads_that_ask_at_once_each_get_their_report(self):
        barrier, texts = threading.Barrier(8), {}

        def ask(number):
            barrier.wait(DEADLINE)
            texts[number] = gmr.TextGuruMeditation(f'{number}.0').run()

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number in range(8):
            self.assertIn(f'version = {number}.0\n', texts[number])

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
        text = re.sub(r'={72}\n==== +At a Glance +====\n={72}\n(?:(?!={72}).*\n)*', '', text)
        text = re.sub(r'Thread #\d+ ', 'Thread #1 ', text)
        text = re.sub(r'native id \d+, reporting, \d\.\d\d s cpu', 'native id 2, reporting, 0.01 s cpu', text)
        text = re.sub(r'/\S+/program.py:\d+', 'program.py:1', text)
        text = re.sub(r'(?<= in hold\n).*\n', '    `as it stands`\n', text)
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

program.py:1 in <module>
    `wait()`

nowhere.py:1 in wait
    (source not found)

program.py:1 in hold
    `as it stands`

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
        self.assertEqual(re.findall(r'#\d+ (pool-\d+),', bodies[1]), [f'pool-{n}' for n in range(20)])
        self.assertRegex(bodies[1], r'\n#\d+ pool-0, daemon, native id \d+, sleeping, \d+\.\d\d s cpu\n')
        self.assertRegex(bodies[1], r'\n#\d+ pool-1, native id \d+, sleeping')
        self.assertIn('\n... and 10 more\n', bodies[1])
        self.assertIn('in worker', bodies[1])
        self.assertIn('in unknown_to_threading', bodies[2])
        self.assertEqual(len(headings), 3)

    def test_frames_run_oldest_first_and_repeated_ones_are_counted(self):
        for cycle, count in (('a', ''), ('ab', 'these 2 frames '), ('abc', 'these 3 frames ')):
            functions = ''.join(
                f'def {one}(n): {two}(n - 1) if n else hold()\n' for one, two in zip(cycle, cycle[1:] + 'a')
            )
            text = sections(report_of(f"{functions}setup('1')\na({40 * len(cycle) - 1})"))['Threads']
            each = ''.join(rf'.* in {one}\n    `.*\n\n' for one in cycle)[:-4]
            self.assertRegex(text, rf'in <module>\n.*\n\n{each}\n    \({count}40 times in a row\)\n\n.* in hold\n')

    def test_frames_that_tell_nothing_are_left_out(self):
        text = sections(
            report_of("""
            import runpy
            class Worker(threading.Thread):
                def run(self):
                    def inner():
                        hold()
                    inner()
            def start():
                worker = Worker()
                worker.start()
                worker.join()
            with open(__file__ + '.module', 'w') as file:
                file.write('import threading; start()')
            setup('1')
            runpy.run_path(__file__ + '.module', {'start': start})
        """)
        )['Threads']
        for noise in ('runpy.py', '_bootstrap', 'frozen'):
            self.assertNotIn(noise, text)
        names = ('Worker.run', 'Worker.run.<locals>.inner') if sys.version_info >= (3, 11) else ('run', 'inner')
        self.assertRegex(text, r'(?s)program.py:\d+ in {}\n.* in {}\n.* in hold\n'.format(*map(re.escape, names)))

    def test_no_name_forges_a_section(self):
        text = report_of("""
            import asyncio
            forged = 'x\\n' + '=' * 72 + '\\n====  Forged  ====\\n' + '=' * 72 + '\\n'
            async def wait():
                await asyncio.sleep(3600)
            async def main():
                task = asyncio.create_task(wait(), **{'name': forged})
                await asyncio.sleep(0)
                names = {'hold': hold}
                exec(compile('def wait(): hold()', forged, 'exec'), names)
                thread = threading.Thread(target=names['wait'], name=forged)
                thread.start()
                thread.join()
                task.cancel()
            gmr.register_section(forged, int)
            gmr.register_section('Mine', lambda: {forged: 1})
            setup('1', conf={forged: 1, 'group' + forged: {forged: 1}})
            asyncio.run(main())
        """)
        self.assertNotIn('Forged', sections(text))
        self.assertNotRegex(text, '(?m)^(====  Forged|x$)')


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
            self.assertIn('s cpu, handling ConnectionError: broker went away, password=***\n\n', text)


if greenlet:

    class GreenThreadsTest(unittest.TestCase):
        def test_suspended_ones_have_stacks_and_finished_ones_are_not_shown(self):
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
            self.assertRegex(text, r'4 Green Threads(.*\n)+?\nNo Traceback!')
            self.assertEqual(text.count('in <module>'), 0)  # what runs is a thread

        def test_one_that_runs_is_shown_as_its_thread_and_what_it_has_left_as_a_green_thread(self):
            report = sections(
                report_of("""
                import greenlet
                started, stop = threading.Event(), []
                def spin():
                    started.set()
                    while not stop:
                        time.sleep(0.01)
                def inside():
                    hold()
                threading.Thread(target=lambda: greenlet.greenlet(spin).switch(), name='spins').start()
                started.wait()
                setup('1')
                greenlet.greenlet(inside).switch()
                stop.append(1)
            """)
            )
            self.assertEqual(report['Threads'].count(' Thread #'), 2)
            self.assertRegex(report['Threads'], r'^.*\n\nMainThread.*\n\n.* in inside\n.*\n\n.* in hold\n')
            self.assertRegex(report['Threads'], r'spins(.*\n)+.* in spin\n')
            self.assertNotRegex(report['Green Threads'], ' in (inside|spin)\n')
            self.assertRegex(report['Green Threads'], r' in <module>\n')

        def test_one_that_is_loaded_lazily_stays_so(self):
            report_of("""
                import importlib.util
                spec = importlib.util.find_spec('greenlet')
                spec.loader = importlib.util.LazyLoader(spec.loader)
                sys.modules['greenlet'] = module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                kind = object.__getattribute__(module, '__class__')
                setup('1')
                hold()
                assert object.__getattribute__(module, '__class__') is kind and 'greenlet._greenlet' not in sys.modules
            """)


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
            import json
            whole = 0
            for n in range(500):
                document = json.loads(gmr.JSONGuruMeditation('1').run())
                for entry in document['Threads'] + document.get('Green Threads', []):
                    stack = [frame for frame in entry['stack'] if frame['file'] == 'stress.py']
                    for above, below in zip(stack, stack[1:]):
                        assert above['line'] == calls[above['name']], stack
                        assert (above['name'], below['name']) in (('outer', 'middle'), ('middle', 'inner')), stack
                        whole += 1
            stop.append(1)
            for thread in threads:
                thread.join()
            print(whole)
        """) as child:
            child.process.wait(10 * DEADLINE)
            self.assertEqual(child.finish(), 0, child.text()[-2000:])
            self.assertGreater(int(child.out), 500)


def patched_tests(patch, spawn):
    """Return the tests of a real monkey-patched program."""

    class PatchedTest(unittest.TestCase):
        def program(self, body, **options):
            lines = f'from {spawn} import spawn, sleep\nimport posix, threading as patched\n'  # posix is never patched
            lines += """
import contextlib

def read():  # natively, with a limit: a signal that comes just before a system call does not interrupt it
    posix.set_blocking(0, False)
    while True:
        gmr._pause(0.1)  # first: the signal that follows on `ready` shall not see the exception
        with contextlib.suppress(BlockingIOError):
            return posix.read(0, 1)

def hold():  # with the hub, whose eventlet kind does not come back from select() at the end of a pipe
    posix.set_blocking(0, False)
    sleep(0)
    ready()
    while True:
        try:
            if posix.read(0, 1) != b'+':
                return
        except BlockingIOError:
            sleep(0.05)
"""
            return Child(patch + '\n' + lines + textwrap.dedent(body), **options)

        def check(self, **options):
            with self.program(
                """
                def deep(n):
                    time.sleep(100)
                for n in range(3):
                    patched.Thread(target=deep, args=(n,), daemon=True).start()
                time.sleep(0.1)
                gmr.register_section('Lock', lambda: [patched.Lock().acquire()])
                setup('1')
                try:
                    raise TimeoutError('db-3')
                except TimeoutError:
                    ready()
                    read()  # not with the hub, which handles no exception
            """,
                **options,
            ) as child:
                report = sections(child.wait_ready().signal())
                self.assertEqual(child.finish(), 0, child.text())
            self.assertRegex(report['Green Threads'], r'3 Green Threads(.*\n)+?.* in deep\n')
            self.assertEqual(report['Threads'].count('Thread #'), 1)
            self.assertRegex(
                report['Threads'], r'MainThread, native id \d+, reporting, .*, handling TimeoutError: db-3\n'
            )
            self.assertEqual(report['Lock'], 'True\n')

        def test_patched_before_gmr_is_imported(self):
            self.check(first=patch)

        def test_patched_after_gmr_is_imported(self):
            self.check()

        def test_a_section_that_hangs_is_reported(self):
            with self.program("""
                hang, go = posix.pipe()
                gmr.GuruMeditation.section_timeout = 0.5
                gmr.register_section('Hangs', lambda: posix.read(hang, 1))
                setup('1')
                signal.signal(signal.SIGTERM, lambda *_: posix.write(go, b'one'))
                ready()
                while read():
                    ready()
            """) as child:
                os.kill(child.wait_ready().pid, signal.SIGUSR2)
                child.wait_for(child.reports, 'a report')
                self.assertIn('no answer in time', sections(child.err.decode())['Hangs'])
                os.kill(child.pid, signal.SIGTERM)
                os.write(child.process.stdin.fileno(), b'+')
                child.wait_ready(2)
                self.assertEqual(sections(child.signal())['Hangs'].strip(), 'n')
                self.assertEqual(child.finish(), 0, child.text())

        def test_a_section_that_wants_a_lock_of_the_interrupted_green_thread_waits_and_that_goes_on(self):
            with self.program("""
                lock, done, served = patched.Lock(), [], []
                def stats():
                    with lock:
                        served.append(True)
                        return 'seven hits'
                def work():
                    with lock:
                        posix.kill(os.getpid(), signal.SIGUSR2)
                        until = time.perf_counter() + 0.1
                        while time.perf_counter() < until:
                            pass
                    done.append(True)
                gmr.GuruMeditation.hold = 0.5
                gmr.register_section('Cache', stats)
                setup('1')
                spawn(work)
                while not (done and served):
                    sleep(0.05)
                hold()
            """) as child:
                child.wait_ready().wait_for(child.reports, 'a report')
                self.assertRegex(sections(child.err.decode())['Cache'], r'^no answer in time: waiting or working since')
                self.assertEqual(sections(child.signal())['Cache'], 'seven hits\n')
                self.assertEqual(child.finish(), 0, child.text())

        def test_of_those_that_wait_for_a_lock_none_is_lost(self):
            with self.program("""
                lock, got = patched.Lock(), []
                def stats():
                    with lock:
                        return 'seven hits'
                def holder():
                    with lock:
                        sleep(0.9)
                def waiter(n):
                    with lock:
                        got.append(n)
                gmr.GuruMeditation.hold = 0.5
                gmr.register_section('Cache', stats)
                setup('1')
                spawn(holder)
                sleep(0.05)
                spawn(waiter, 1)
                sleep(0.05)
                posix.kill(os.getpid(), signal.SIGUSR2)
                spawn(waiter, 2)
                sleep(0.05)
                spawn(waiter, 3)
                while len(got) < 3:
                    sleep(0.05)
                assert sorted(got) == [1, 2, 3], got
                deadline = time.monotonic() + 60
                while lock.locked() and time.monotonic() < deadline:
                    sleep(0.05)
                assert lock.acquire(False)
                gmr.GuruMeditation.hold = 30.0  # for the exit, on a slow machine
            """) as child:
                self.assertEqual(child.finish(), 0, child.text())
                self.assertIn('waiting or working since', sections(child.err.decode())['Cache'])

        def test_in_the_hub_a_section_that_waits_is_an_error_and_the_hub_goes_on(self):
            with self.program("""
                gmr.register_section('Waits', lambda: sleep(0.1))
                gmr.register_section('Works', lambda: 'fine')
                setup('1')
                hold()
            """) as child:
                child.wait_ready()
                for _ in range(3):
                    report = sections(child.signal())
                    self.assertEqual(report['Works'], 'fine\n')
                    self.assertIn(report['Waits'].partition('\n')[0].partition(' ')[0], ('None', 'no', 'AssertionError:', 'gevent.exceptions.BlockingSwitchOutError:', 'RuntimeError:'))  # fmt: skip
                self.assertEqual(child.finish(), 0, child.text())

        if spawn == 'gevent':

            def test_while_the_hub_is_being_made(self):
                with self.program("""
                    class Finder:
                        @classmethod
                        def find_spec(cls, name, path=None, target=None):
                            if name == 'pprint':  # which the hub needs
                                sys.meta_path.remove(cls)
                                os.kill(os.getpid(), signal.SIGUSR2)
                    setup('1')
                    sys.modules.pop('pprint', None)
                    sys.meta_path.insert(0, Finder)
                    hold()
                """) as child:
                    child.wait_ready().wait_for(child.reports, 'a report')
                    self.assertEqual(child.finish(), 0, child.text())

        def test_a_green_thread_that_waits_for_its_report_can_be_killed_and_others_signalled(self):
            with self.program("""
                import greenlet
                def rest():
                    posix.write(1, b'resting' + bytes([10]))
                    sleep(0.5)
                gmr.register_section('Rests', rest)
                setup('1')
                ended = []
                def work():
                    try:
                        gmr.TextGuruMeditation().run()
                    except greenlet.GreenletExit:
                        pass
                    ended.append(1)
                one = spawn(work)
                sleep(0.2)
                gmr.register_section('Rests', int)
                posix.kill(os.getpid(), signal.SIGUSR2)
                one.kill()
                while not ended:
                    sleep(0.05)
                assert gc.isenabled() and sys.getswitchinterval() > 0.004
                hold()
            """) as child:
                child.wait_ready().signal()
                self.assertEqual(child.finish(), 0, child.text())

        def test_a_watcher_whose_section_hangs_lets_the_signal_through(self):
            with (
                tempfile.TemporaryDirectory() as folder,
                self.program(f"""
                hang, go = posix.pipe()
                gmr.GuruMeditation.section_timeout = 0.5
                gmr.register_section('Hangs', lambda: posix.read(hang, 1))
                setup('1', watch_file={folder!r}, watch_interval=0.05)
                ready()
                while read():
                    pass
            """) as child,
            ):
                os.utime(child.wait_ready() and folder)
                child.wait_for(lambda: child.reports() == 1, 'the report of the watcher')
                self.assertIn('no answer in time', child.err.decode())
                child.signal()
                self.assertEqual(child.finish(), 0, child.text())

        def test_a_section_may_run_a_program_and_wait_in_a_green_way(self):
            with self.program("""
                import subprocess
                def status():
                    sleep(0.1)
                    mask = subprocess.check_output(['grep', 'SigBlk', '/proc/self/status']).split()[1]
                    return 'none is blocked' if int(mask, 16) == 0 else mask
                gmr.register_section('Status', status)
                texts = []
                threads = [
                    patched.Thread(target=lambda: texts.append(gmr.TextGuruMeditation().run())) for n in range(2)
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert len(texts) == 2 and any('none is blocked' in text for text in texts), [text[-900:] for text in texts]
                assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
                assert gc.isenabled() and sys.getswitchinterval() > 0.004
            """) as child:
                self.assertEqual(child.finish(), 0, child.text())

        def test_a_section_that_waits_a_moment_does_not_take_the_time_of_the_next(self):
            with self.program("""
                gmr.register_section('First', lambda: sleep(0) or 'fine')
                gmr.register_section('Second', lambda: sleep(0.01) or 'fine as well')
                setup('1')
                ready()
                read()  # not with the hub, in whose greenlet nothing can wait
            """) as child:
                report = sections(child.wait_ready().signal())
                self.assertEqual((report['First'], report['Second']), ('fine\n', 'fine as well\n'))
                self.assertEqual(child.finish(), 0, child.text())

        def test_a_green_thread_is_woken_though_it_is_interrupted_before_it_waits(self):
            with self.program("""
                import greenlet
                if 'gevent' in sys.modules:
                    import gevent
                    loop = gevent.get_hub()
                    later = lambda *call: loop.loop.timer(0.1).start(*call)
                else:
                    from eventlet import hubs
                    loop = hubs.get_hub()
                    later = lambda *call: loop.schedule_call_global(0.1, *call)
                gmr.register_section('Waits', lambda: sleep(0.3) or 'fine')
                setup('1')
                later(greenlet.getcurrent().switch, 'woken')
                os.kill(os.getpid(), signal.SIGUSR2)
                assert loop.switch() == 'woken'
                sleep(0.5)
            """) as child:
                self.assertEqual(child.finish(), 0, child.text())
                self.assertEqual(child.reports(), 1)

        def test_a_busy_hub_is_reported(self):
            with self.program("""
                stop = []
                def spin():
                    ready()
                    while not stop:
                        pass
                setup('1')
                signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
                thread = patched.Thread(target=spin)
                thread.start()
                thread.join()
            """) as child:
                self.assertRegex(sections(child.wait_ready().signal())['Threads'], r' in spin\n')
                os.kill(child.pid, signal.SIGTERM)
                self.assertEqual(child.finish(), 0, child.text())

    PatchedTest.__qualname__ = f'{spawn.title()}Test'
    return PatchedTest


if greenlet and installed('gevent'):
    GeventTest = patched_tests('import gevent.monkey; gevent.monkey.patch_all()', 'gevent')
if greenlet and installed('eventlet'):
    EventletTest = patched_tests(
        'import warnings; warnings.simplefilter("ignore"); import eventlet; eventlet.monkey_patch()', 'eventlet'
    )


def set_up(conf):
    """Set up with a configuration, in this process, and return what that warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        gmr.setup_autorun(conf=conf, setup_signal=False)
    gmr.setup_autorun(setup_signal=False)
    return [str(one.message) for one in caught]


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


class CreatesAttributes(dict):
    """A mapping that creates what is asked for as an attribute, as Box, munch and traitlets' Config do."""

    def __getattr__(self, name):
        return self.setdefault(name, CreatesAttributes())


class RaisesOnAttributes(dict):
    def __getattr__(self, name):
        raise KeyError(name)


class IsItsOwnDict(dict):
    def __init__(self, *args):
        super().__init__(*args)
        self.__dict__ = self


class CreatesItems(collections.abc.Mapping):
    """A mapping that is no dict, whose `in` creates too, since it asks __getitem__()."""

    def __init__(self, items):
        self.items_ = dict(items)

    def __getitem__(self, key):
        return self.items_.setdefault(key, {})

    def __iter__(self):
        return iter(self.items_)

    def __len__(self):
        return len(self.items_)


class Slots:
    __slots__ = ('__token', 'never_set', 'port')

    def __init__(self):
        self.port, self.__token = 80, 'hunter2'


class MoreSlots(Slots):
    __slots__ = ('db',)

    def __init__(self):
        super().__init__()
        self.db = Slots()


@dataclasses.dataclass
class Database:
    host: str = 'h'
    password: str = 'hunter2'


class Settings:
    HOST = 'h'
    PORT = 80
    DEBUG = False
    _private = 1

    class cache:  # noqa: N801
        backend = 'redis'
        password = 'hunter2'

    def method(self):
        raise AssertionError('called')

    @property
    def url(self):
        raise AssertionError('called')


class Production(Settings):
    PORT = 443
    SECRET_KEY = 'hunter2'
    Path = pathlib.Path  # an import
    DEBUG = property(Settings.method)


class UntouchedTest(unittest.TestCase):
    """A report leaves what it shows as it was."""

    def test_a_configuration_that_creates_what_is_asked_for_stays_as_it_was(self):
        tree = functools.partial(collections.defaultdict, dict)
        for make in (CreatesAttributes, RaisesOnAttributes, IsItsOwnDict, CreatesItems, lambda items: tree(items)):
            conf = make({'port': 80, 'db': make({'host': 'h'})})
            with self.subTest(type(conf).__name__):
                set_up(conf)
                self.assertEqual(options_of(configuration(conf)), {'default': {'port': '80'}, 'db': {'host': 'h'}})
                self.assertIn('host = h', report_on(conf))
                self.assertEqual([sorted(conf), sorted(conf['db'])], [['db', 'port'], ['host']])
                self.assertRegex(set_up(make({'oslo_reports': make({'log_dir': '/l'})}))[0], 'no folder /l')

    def test_a_mock_is_shown_and_records_nothing(self):
        for mock in (unittest.mock.MagicMock(), unittest.mock.MagicMock(spec=dict), unittest.mock.Mock()):
            mock.get()
            set_up(mock)
            self.assertEqual(configuration(mock).rstrip('\n'), repr(mock))
            self.assertEqual(report_on(lambda mock=mock: mock), repr(mock))
            self.assertIn(f'a = {mock!r}', report_on({'a': mock, 'password': mock}))
            self.assertEqual((mock.mock_calls, list(mock._mock_children)), ([unittest.mock.call.get()], ['get']))

    def test_input_of_the_program_is_not_consumed(self):
        with open(__file__) as file:
            inputs = [file, io.StringIO('a\nb\n'), iter([1, 2]), (n for n in (1, 2)), zip([1], [2]), map(str, [1])]
            for show in (configuration, report_on):
                for conf in (argparse.Namespace(input=inputs[0], more=inputs), {'db': {'inputs': inputs}}):
                    self.assertIn('StringIO object at', show(conf))
            self.assertEqual(file.readline(), '"""Tests of gmr.py. Each is named for a promise; signals go to real processes, after a handshake."""\n')  # fmt: skip
            self.assertEqual([list(one) for one in inputs[1:]], [['a\n', 'b\n'], [1, 2], [1, 2], [(1, 2)], ['1']])

    def test_only_what_a_generator_returns_is_iterated(self):
        def fails():
            yield 'first'
            raise ValueError('password=hunter2')

        self.assertEqual(report_on(fails), 'first\n(ValueError: password=***)')
        self.assertEqual(report_on(lambda: map(str, [1, 2])), '1\n2')
        self.assertRegex(report_on(lambda: [fails()]), '^<generator object .*>$')


class ConversionTest(unittest.TestCase):
    def test_keys_that_look_alike_are_all_shown(self):
        shown = report_on({1: 'emmental', '1': 'edam', b'two': 'gouda', 'two': 'brie', None: 'x', 'None': 'y'})
        self.assertEqual([line.partition(' = ')[2] for line in shown.split('\n')], ['emmental', 'edam', 'gouda', 'brie', 'x', 'y'])  # fmt: skip
        shown = options_of(configuration({'default': {'a': 1}, 'a': 2, b'default': {'a': 3}}))
        values = [value for options in shown.values() for value in options.values()]
        self.assertEqual(sorted(values), ['1', '2', '3'])

    def test_a_key_stays_on_its_line(self):
        self.assertNotIn('\n', report_on({'a\nb': 1}))

    def test_great_numbers_are_counted_in_bits(self):
        class Number(int):
            def __str__(self):
                raise ValueError('no text')

        self.assertEqual(report_on({'a': 2**5000, 'b': -3, 'c': Number(4)}), 'a = (int of 5,001 bits)\nb = -3\nc = (ValueError: no text)')  # fmt: skip
        if hasattr(sys, 'set_int_max_str_digits'):
            self.addCleanup(sys.set_int_max_str_digits, sys.get_int_max_str_digits())
            sys.set_int_max_str_digits(640)
            for value in (2**4095, [2**4095], {'a': 2**4095}, {2**4095: 1}):
                self.assertIn('(int of 4,096 bits)', report_on(value))

    def test_a_value_that_cannot_be_rendered_costs_itself(self):
        class Text(str):
            def __str__(self):
                raise ValueError('no password=hunter2')

            lower = startswith = __str__

        class Values(CreatesItems):
            def __getitem__(self, key):
                return sys.exit(3) if key == 'bad' else key

        self.assertEqual(report_on({'a': Text('x'), 'b': 1}), 'a = (ValueError: no password=***)\nb = 1')
        self.assertIn('b = 1', report_on({Text('x'): 0, 'b': 1}))
        self.assertEqual(report_on(Values({'a': 0, 'bad': 0, 'c': 0})), 'a = a\nbad = (SystemExit: 3)\nc = c')
        self.assertEqual(report_on([float('nan'), -float('inf'), 1.5]), 'nan\n-inf\n1.5')

    def test_what_its_type_alone_calls_iterable_is_shown_by_its_text(self):
        class Tensor:
            def __iter__(self):
                raise TypeError('iteration over a 0-d tensor')

            def __repr__(self):
                return 'tensor(0.25)'

        self.assertEqual(report_on({'loss': Tensor()}), 'loss = tensor(0.25)')
        self.assertEqual(report_on(lambda: Tensor()), 'tensor(0.25)')

    def test_records_are_shown_like_mappings_at_any_depth(self):
        login = collections.namedtuple('Login', 'user password')('u', 'p')
        for record, shown in (
            (Database(), 'host = h\npassword = ***'),
            (login, 'user = u\npassword = ***'),
            (argparse.Namespace(api_key='k'), 'api_key = ***'),
            (types.SimpleNamespace(api_key='k'), 'api_key = ***'),
            (MoreSlots(), '_Slots__token = ***\nport = 80\ndb =\n  _Slots__token = ***\n  port = 80'),
        ):
            with self.subTest(type(record).__name__):
                self.assertEqual(sorted(report_on(record).split('\n')), sorted(shown.split('\n')))
                self.assertIn('[dict]', report_on([record]))
        for value in (pathlib.Path('/x'), dataclasses.field, threading.Lock(), Database, os):
            self.assertEqual(report_on({'a': value}), f'a = {value}')

    @patient
    def test_no_section_is_endless(self):
        for value in (itertools.count(), dict.fromkeys(range(101_000))):
            self.assertRegex(report_on(lambda value=value: value)[-20:], 'cut')


class ConfigurationTest(unittest.TestCase):
    """A mapping, or an object with attributes, wherever Python keeps them."""

    def check(self, conf, expected):
        set_up(conf)
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
        module = types.ModuleType('oslo_config.cfg')
        module.CONF = conf
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

    def test_slots_named_tuples_and_data_classes(self):
        slots = {'_Slots__token': '***', 'port': '80'}
        self.check(MoreSlots(), {'default': slots, 'db': slots})
        nested = {'default': {'level': '1'}, 'db': {'host': 'h', 'password': '***'}}
        self.check(collections.namedtuple('Conf', 'level db')(1, Database()), nested)
        self.check(dataclasses.make_dataclass('Conf', ['level', 'db'])(1, Database()), nested)

    def test_a_class_with_its_bases_and_its_instance_without_calling_anything(self):
        expected = {
            'default': {'HOST': 'h', 'PORT': '443', 'SECRET_KEY': '***'},
            'cache': {'backend': 'redis', 'password': '***'},
        }
        self.check(Production, expected)
        self.check(Production(), expected)

    def test_a_settings_module(self):
        module = types.ModuleType('settings')
        code = 'import os\nfrom os import path, getcwd\nfrom pathlib import Path\ndef f(): pass\n'
        exec(f'{code}DEBUG = True\nport = 80\nclass db: password = "p"\n', vars(module))
        self.check(module, {'default': {'DEBUG': 'True', 'port': '80'}, 'db': {'password': '***'}})

    def test_plain_objects_in_it_are_groups_but_not_the_program_around_them(self):
        class Plain:
            def __init__(self, **values):
                vars(self).update(values)

        conf = Plain(level=1, db=Plain(host='h', pwd='p'), path=pathlib.Path('/x'), lock=threading.Lock())
        conf.itself = conf
        shown = options_of(configuration(conf))
        self.assertEqual((shown['db'], shown['default']['path']), ({'host': 'h', 'pwd': '***'}, '/x'))
        self.assertEqual(shown['itself']['itself'], '(itself)')
        below = Plain(deep=1)
        for _ in range(10):
            below = Plain(below=below)
        self.assertNotIn('deep', configuration(below))

    def test_lazy_settings_are_read_through_what_they_wrap_and_not_woken(self):
        class Lazy:
            _wrapped = None

            def __init__(self, wrapped):
                vars(self)['_wrapped'] = wrapped

            def __getattr__(self, name):
                raise AssertionError('woken')

        defaults = types.ModuleType('global_settings')
        vars(defaults).update(DEBUG=False, TIME_ZONE='UTC', lower=1)
        holder = types.SimpleNamespace(DEBUG=True, SECRET_KEY='k', default_settings=defaults)
        self.check(Lazy(holder), {'default': {'DEBUG': 'True', 'SECRET_KEY': '***', 'TIME_ZONE': 'UTC'}})
        self.assertIn('Lazy object at', configuration(Lazy(object())))

    def test_sections_of_a_parser_are_not_merged(self):
        parser = configparser.ConfigParser()
        parser.read_string('[DEFAULT]\na = 1\n[default]\nb = 2\na = 3\n[empty]\n')
        shown = options_of(configuration(parser))
        self.assertEqual(sorted(shown['default'].values()), ['1', '2', '3'])

    def test_a_group_with_a_secret_name_holds_secrets(self):
        shown = options_of(configuration({'credentials': {'a': 'p', 'b': None}, 'items': {}}))
        self.assertEqual(shown, {'default': {'items': '{}'}, 'credentials': {'a': '***', 'b': 'None'}})

    def test_what_can_be_no_configuration_is_refused_at_set_up(self):
        for conf in ('text', b'x', 1, 1.5, True, [1], {1}):
            with self.subTest(conf), self.assertRaisesRegex(TypeError, 'conf must be a mapping or an object with'):
                set_up(conf)

    def test_a_model_of_oslo_reports_is_asked_for_its_text(self):
        class Model(CreatesItems):
            view = None

            def set_current_view_type(self, view):
                self.view = view

            def __str__(self):
                return f'shown as {self.view}'

        self.assertEqual(report_on(lambda: Model({})), 'shown as text')


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
    def test_the_process_and_its_children_recursively_and_what_the_signal_does_to_them(self):
        with Child("""
            import subprocess
            path = __file__ + '.child'
            with open(path, 'w') as file:
                file.write("import signal, subprocess, sys; signal.signal(signal.SIGUSR2, signal.SIG_IGN)\\n"
                    "p = subprocess.Popen(['cat'], stdin=-1); print(p.pid, flush=True); p.wait()")
            child = subprocess.Popen([sys.executable, path, '--password', 'hunter2'], stdout=subprocess.PIPE)
            answers = os.fork()
            if not answers:
                signal.signal(signal.SIGUSR2, print)
                os.write(1, b'ready\\n')
                signal.pause()
            os.write(1, b'%d %s ' % (child.pid, child.stdout.readline().strip()))
            setup('1')
            hold()
            os.kill(answers, signal.SIGKILL)
            child.terminate()
            child.wait()
        """) as child:
            text = sections(child.wait_ready(2).signal())['Processes']
            below, lowest = map(int, re.findall(rb'\d+', child.out)[:2])
            os.kill(lowest, signal.SIGTERM)
            child.finish()
        name = rf'run by: {re.escape(pwd.getpwuid(os.getuid()).pw_name)} \({os.getuid()}\)'
        self.assertRegex(
            text,
            rf'^Process {child.pid} \(under {os.getpid()}\) \[ {name}, state: running \]\n'
            rf'(    Process \d+ .*program.py \(SIGUSR2: answers\)\n)?'
            rf'    Process {below} \(under {child.pid}\) \[ {name}, state: [\w ]+ \] .*\.child --password \*\*\* '
            r'\(SIGUSR2: ignores it\)\n'
            rf'        Process {lowest} \(under {below}\) \[ {name}, state: [\w ]+ \] cat \(SIGUSR2: ignores it\)\n'
            rf'(    Process \d+ .*program.py \(SIGUSR2: answers\)\n)?'
            r'time = \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00\n',
        )
        self.assertEqual(text.count('SIGUSR2: answers'), 1)
        for fact in ('start time', 'uptime', 'command line', 'working directory', 'python', 'platform', 'cpu seconds'):
            self.assertIn(f'\n{fact} =', text)
        self.assertRegex(text, r'\nopen files = \d+ of \d+\ngarbage collector = enabled, ')

    def test_the_peak_of_resident_memory_is_its_own_and_not_that_of_its_parent(self):
        large = bytearray(b'x' * (200 << 20))  # of the process that forks it: the kernel's ru_maxrss has that
        text = report_of('setup("1")\nhold()')
        del large
        now, peak = (int(re.search(rf'\n{name} = (\d+) MiB', text)[1]) for name in ('resident memory', 'peak .*memory'))
        self.assertTrue(now <= peak < 200, (now, peak))

    def test_the_argument_after_password_is_hidden_in_the_command_line(self):
        with Child('setup("1")\nhold()', arguments=['--password', 'hunter2', '--port', '80', '--token=abc']) as child:
            text = child.wait_ready().signal()
        self.assertIn('--password *** --port 80 --token=***', text)
        self.assertNotIn('hunter2', text)

    def test_all_of_very_many_children_are_listed(self):
        text = report_of("""
            import subprocess
            kept = [os.posix_spawn('/bin/cat', ['cat'], {}, file_actions=[(os.POSIX_SPAWN_DUP2, pipe, 0)])
                for pipe in os.pipe()[:1] for n in range(1200)]
            setup('1')
            hold()
            for pid in kept:
                os.kill(pid, signal.SIGKILL)
            for pid in kept:
                os.waitpid(pid, 0)
        """)
        lines = re.findall(r'(?m)^    Process .* cat \(SIGUSR2: dies of it\)$', text)
        self.assertEqual(len(lines), 1200)

    if LINUX and os.geteuid() == 0 and shutil.which('unshare'):

        def test_in_a_container_the_start_is_told_by_the_clock_that_counts_it(self):
            with tempfile.NamedTemporaryFile('w', suffix='uptime') as uptime:
                uptime.write('1000000.00 1000000.00\n')
                uptime.flush()
                mount = f'mount --make-rprivate /proc && mount --bind {uptime.name} /proc/uptime && exec "$@"'
                python = ['unshare', '-m', '--propagation', 'unchanged', 'sh', '-c', mount, 'sh', sys.executable]
                facts = dict(line.split(' = ', 1) for line in report_of('setup("1"); hold()', python=python).splitlines() if ' = ' in line)  # fmt: skip
            now, start = (datetime.datetime.fromisoformat(facts[name]) for name in ('time', 'start time'))
            self.assertLess(abs((now - start).total_seconds()), DEADLINE)
            self.assertLess(float(facts['uptime'].split()[0]), DEADLINE)

        def test_in_another_pid_namespace_no_foreign_process_is_shown(self):
            python = ['unshare', '--pid', '--fork', '--kill-child', sys.executable]
            with Child(
                """
                pid = os.fork()
                if not pid:
                    time.sleep(3600)
                setup('1')
                hold()
                os.kill(pid, signal.SIGKILL)
            """,
                python=python,
            ) as child:
                outer, child.pid = child.wait_ready().pid, children_of(child.pid)[0]
                text = child.signal()
                self.assertEqual(child.finish(), 0, child.text())
                self.assertNotEqual(outer, child.pid)
            self.assertEqual(len(re.findall(r'(?m)^ +Process \d+ \(under ', text)), 1)
            self.assertRegex(text, r'(?m)^Process 1 \(under 0\)')
            self.assertRegex(sections(text)['Threads'], r'MainThread, native id 1, reporting')


class SectionsTest(unittest.TestCase):
    """A generator may do what it likes."""

    def setUp(self):
        self.addCleanup(setattr, gmr.GuruMeditation, 'section_timeout', gmr.GuruMeditation.section_timeout)
        gmr.GuruMeditation.section_timeout = 0.5

    def wait_for_threads(self, count):
        """Wait until there are no more of them than that: a report is out before its threads have ended."""
        deadline = time.monotonic() + DEADLINE
        while len(sys._current_frames()) > count:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)

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
                    rf'{type(error).__name__}.*\nTraceback .*\n\n.*test_gmr.py:\d+ in .*fail\n    `raise error`',
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
            ({'secret': Hostile(str=str), 'b': 2}, 'secret = \nb = 2'),
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

    def test_one_that_never_returns_is_late_with_its_stack_and_not_started_again(self):
        stop, started = threading.Event(), []

        def stuck_generator():
            started.append(1)
            stop.wait()

        gmr.register_section('Stuck', stuck_generator)
        self.addCleanup(gmr.GuruMeditation._sections.pop, 'Stuck')
        before = len(sys._current_frames())
        shown = [sections(gmr.TextGuruMeditation().run())['Stuck'] for _ in range(50)]
        self.assertRegex(
            shown[0],
            r'^no answer in time: waiting or working since .* \(\d s\)\n(.*\n)*.* in .*stuck_generator\n',
        )
        self.assertEqual(re.findall('since (.*) [(]', shown[0]), re.findall('since (.*) [(]', shown[49]))
        self.assertEqual(len(started), 1)
        self.wait_for_threads(before + 1)
        stop.set()
        deadline = time.monotonic() + DEADLINE
        while (last := sections(gmr.TextGuruMeditation().run())['Stuck']) != 'None' and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertEqual(last, 'None')

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
            self.assertIn('handle\n', sections(gmr.TextGuruMeditation().run())['Threads'])
        self.wait_for_threads(before + 1)


class HeldTest(unittest.TestCase):
    """The program is held for a second at most, and the report comes all the same."""

    ASK = textwrap.dedent("""
        def ask(clock=time.monotonic, rest=time.sleep):
            before = clock()
            os.kill(os.getpid(), signal.SIGUSR2)
            rest(0.01)
            os.write(1, b'held %f\\n' % (clock() - before))
            assert gc.isenabled() and sys.getswitchinterval() > 0.004
        gmr.GuruMeditation.hold = 0.3
    """)

    def check(self, body, count=1, **options):
        """Return the reports of a program that asks itself, and goes on."""
        with Child(self.ASK + textwrap.dedent(body) + '\nhold()', **options) as child:
            child.wait_ready().wait_for(lambda: child.reports() == count, 'a report')
            self.assertEqual(child.finish(), 0, child.text())
        held = list(map(float, re.findall(rb'held ([\d.]+)\n', child.out)))
        self.assertLess(max(held, default=0), 10)
        return child.err.decode()

    def test_it_is_a_second(self):
        self.assertEqual(gmr.GuruMeditation.hold, 1.0)

    def test_by_no_other_handler_that_runs_when_the_second_ends(self):
        # Before CPython 3.13, that makes queue.SimpleQueue.get() wait for ever.
        text = self.check(f"""
            def work(*_):
                until = time.monotonic() + 0.4
                while time.monotonic() < until:
                    pass
            lock = threading.Lock()
            gmr.GuruMeditation.section_timeout = {DEADLINE}
            gmr.register_section('Wants', lambda: lock.acquire() and 'got it')
            signal.signal(signal.SIGALRM, work)
            setup('1')
            with lock:
                signal.setitimer(signal.ITIMER_REAL, 0.15)
                ask()
        """)
        self.assertEqual(sections(text)['Wants'], 'got it\n')

    def test_by_no_section_that_hangs(self):
        text = self.check("""
            gmr.GuruMeditation.section_timeout = 0.5
            gmr.register_section('Hangs', lambda: time.sleep(3600))
            setup('1')
            ask()
        """)
        self.assertIn('no answer in time', sections(text)['Hangs'])

    def test_a_section_that_wants_a_lock_of_the_interrupted_code_gets_it_when_that_goes_on(self):
        for patience, answer in ((DEADLINE, 'got it\n'), (0.1, r'no answer in time: ')):
            text = self.check(f"""
                lock = threading.Lock()
                gmr.GuruMeditation.section_timeout = {patience}
                gmr.register_section('Wants', lambda: lock.acquire() and 'got it')
                setup('1')
                with lock:
                    ask()
            """)
            self.assertRegex(sections(text)['Wants'], answer)

    def test_by_no_finalizer_that_the_collector_runs(self):
        self.check(
            """
            lock = threading.RLock()
            class File:
                def __init__(self): self.cycle = self
                def __del__(self):
                    with lock: pass
            setup('1')
            with lock:
                for allocations in range(0, 60, 4):  # before a collection is due: it comes anywhere in the report
                    gc.collect()
                    kept = []
                    File()
                    while gc.get_count()[0] < gc.get_threshold()[0] - allocations:
                        kept.append([])
                    ask()
        """,
            count=15,
        )

    def test_by_no_finalizer_of_what_only_the_report_still_holds(self):
        self.check("""
            import asyncio
            lock, heap = threading.RLock(), [[n] for n in range(400_000)]
            class Connection:
                def __del__(self):
                    with lock: pass
            def request():
                connection = Connection()
                time.sleep(0.03)
            setup('1')
            for n in range(30):
                threading.Thread(target=request).start()
            with lock:
                ask()
        """)

    def test_by_no_audit_hook_that_wants_a_lock_of_the_interrupted_code(self):
        self.check("""
            lock = threading.RLock()
            def hook(event, args):
                with lock:
                    if event == 'ask':
                        ask()
            setup('1')
            sys.addaudithook(hook)
            sys.audit('ask')
        """)

    def test_by_no_stderr_whose_attributes_want_a_lock_of_the_interrupted_code(self):
        self.check("""
            class Tee:
                def __init__(self, stream):
                    self.stream, self.lock = stream, threading.RLock()
                def __getattr__(self, name):
                    with self.lock:
                        return getattr(self.stream, name)
                encoding = property(lambda self: self.__getattr__('encoding'))
            sys.stderr = Tee(sys.stderr)
            setup('1')
            with sys.stderr.lock:
                ask()
        """)

    def test_under_a_debugger_that_wraps_the_start_of_threads(self):
        text = self.check(
            """
            gmr.GuruMeditation.section_timeout = 0.5
            gmr.register_section('Hangs', lambda: time.sleep(3600))
            setup('1')
            ask()
        """,
            first=textwrap.dedent("""
            import _thread, threading
            class Debugger:
                def __init__(self, start): self.start = start
                def start_new_thread(self, function, args=(), kwargs={}): return self.start(function, args, kwargs)
            wrapped = Debugger(_thread.start_new_thread).start_new_thread
            _thread.start_new_thread = _thread.start_new = threading._start_new_thread = wrapped
        """),
        )
        self.assertIn('no answer in time', sections(text)['Hangs'])

    def test_under_a_mocked_clock_that_is_not_asked(self):
        self.check("""
            from unittest import mock
            setup('1')
            with mock.patch('time.monotonic', return_value=mock.Mock()) as one, mock.patch('time.time') as other:
                ask()
            assert not one.called and not other.called
        """)

    def test_while_greenlet_is_half_loaded(self):
        self.check("""
            setup('1')
            sys.modules['greenlet'] = type(sys)('greenlet')  # so does `import greenlet` begin
            ask()
        """)

    def test_what_the_handler_of_another_signal_raises_goes_straight_into_the_program(self):
        text = self.check("""
            gmr.GuruMeditation.hold = 5.0
            def alarm(signum, frame):
                raise TimeoutError
            signal.signal(signal.SIGALRM, alarm)
            def section():
                os.kill(os.getpid(), signal.SIGALRM)
                assert torn.wait(60)
                return 'asked for'
            torn = threading.Event()
            gmr.register_section('Alarm', section)
            setup('1')
            try:
                ask()
                os._exit(3)
            except TimeoutError:
                assert gc.isenabled() and sys.getswitchinterval() > 0.004
                torn.set()
        """)
        self.assertEqual(sections(text)['Alarm'], 'asked for\n')

    def test_a_burst_of_signals_meanwhile_asks_for_one_more(self):
        self.check(
            """
            gmr.GuruMeditation.hold = 5.0
            bursts = []
            def burst():
                bursts.append(1)
                for n in range(50 if len(bursts) == 1 else 0):
                    os.kill(os.getpid(), signal.SIGUSR2)
                    time.sleep(0.002)
            gmr.register_section('Burst', burst)
            setup('1')
            ask()
            while len(os.listdir('/proc/self/task')) > 1:
                time.sleep(0.01)
        """,
            count=2,
        )

    def test_one_that_never_ends_counts_as_lost_and_the_next_signal_begins_another(self):
        with open(gmr.__file__, encoding='utf-8') as stream:
            source, count = re.subn(r'(?m)^(_LOST = )30.0', r'\g<1>0.5', stream.read())
        self.assertEqual(count, 1)
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, 'gmr.py'), 'w', encoding='utf-8') as stream:
                stream.write(source)
            self.check(
                """
                import posix
                getcwd = posix.getcwd
                setup('1')
                posix.getcwd = threading.Event().wait  # as on a disk that does not answer, in a step without a deadline
                ask()
                posix.getcwd = getcwd
                time.sleep(0.5)
                ask()
            """,
                PYTHONPATH=folder,
            )

    def test_the_exit_waits_for_a_report_a_second_at_most_and_that_comes_out(self):
        slow = 'start = gmr._start_thread; gmr._start_thread = lambda *args: gmr._pause(0.05) or start(*args)'
        for seconds, answer, busy in ((0.4, 'slept', ''), (3600, 'no answer', ''), (3600, 'no answer', slow)):
            with Child(f"""{self.ASK}
{busy}  # threads take a while to start on a busy machine
gmr.register_section('Sleeps', lambda: time.sleep({seconds}) or 'slept')
setup('1')
gmr.GuruMeditation.hold = 0.2
ask()
gmr.GuruMeditation.hold = 10.0
""") as child:
                begun = time.monotonic()
                self.assertEqual(child.finish(), 0, child.text())
                self.assertLess(time.monotonic() - begun, DEADLINE)
            self.assertIn(answer, sections(child.err.decode())['Sleeps'])


if LINUX and os.geteuid() == 0 and os.path.exists('/dev/fuse'):

    class DeadMountTest(unittest.TestCase):
        """The program's own code lies on a file system whose server stops answering."""

        SOURCE = b'def work(hold):\n    hold()  # from afar\n'

        def setUp(self):
            self.hung, self.folder = threading.Event(), tempfile.mkdtemp()
            self.server, self.stop = os.open('/dev/fuse', os.O_RDWR | os.O_NONBLOCK), threading.Event()
            libc = ctypes.CDLL(None)
            options = f'fd={self.server},rootmode=40000,user_id=0,group_id=0'
            mounted = libc.mount(b'hung', self.folder.encode(), b'fuse', 0, options.encode())
            thread = threading.Thread(target=self.serve)
            thread.start()
            self.addCleanup(os.rmdir, self.folder)
            self.addCleanup(os.close, self.server)  # lets go who waits for an answer, if nobody reads from it
            self.addCleanup(libc.umount2, self.folder.encode(), 2)
            self.addCleanup(thread.join)
            self.addCleanup(self.stop.set)
            self.assertEqual(mounted, 0)

        def serve(self):
            """Answer the requests of the kernel: one file, of which nothing is cached."""

            def attributes(node):
                size, mode = (0, 0o40755) if node == 1 else (len(self.SOURCE), 0o100644)
                return struct.pack('<6Q10I', node, size, 1, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

            with contextlib.suppress(OSError):  # the end
                while not self.stop.is_set():
                    if not select.select([self.server], [], [], 0.05)[0]:
                        continue
                    request = os.read(self.server, 1 << 20)
                    _, operation, unique, node = struct.unpack_from('<IIQQ', request)
                    if self.hung.is_set() or operation in (2, 36, 42):  # forget and interrupt want no answer
                        continue
                    error, answer = 0, b''
                    if operation == 1 and request[40:] == b'remote.py\0':  # look up
                        answer = struct.pack('<QQQQII', 2, 0, 0, 0, 0, 0) + attributes(2)
                    elif operation == 1:
                        error = -errno.ENOENT
                    elif operation == 3:  # get attributes
                        answer = struct.pack('<QII', 0, 0, 0) + attributes(node)
                    elif operation in (14, 27):  # open
                        answer = struct.pack('<QII', 1, 1, 0)
                    elif operation == 15:  # read
                        offset, size = struct.unpack_from('<8xQI', request, 40)
                        answer = self.SOURCE[offset : offset + size]
                    elif operation == 26:  # initialize
                        answer = struct.pack('<IIIIHHIII', 7, 31, 0, 0, 16, 12, 4096, 1, 0).ljust(64, b'\0')
                    elif operation not in (18, 25, 28, 29):  # close, read a directory
                        error = -errno.ENOSYS
                    os.write(self.server, struct.pack('<IiQ', 16 + len(answer), error, unique) + answer)

        def test_the_report_comes_without_those_lines_and_comes_again(self):
            child = Child(f"""
                sys.dont_write_bytecode = True
                from importlib import util
                spec = util.spec_from_file_location('remote', {self.folder!r} + '/remote.py')
                remote = util.module_from_spec(spec)
                spec.loader.exec_module(remote)
                gmr.GuruMeditation.section_timeout = 0.5
                setup('1')
                remote.work(hold)
            """)
            with child:
                self.addCleanup(child.process.kill)
                try:
                    self.assertIn('`hold()  # from afar`', child.wait_ready().signal())
                    self.hung.set()
                    for _ in range(2):
                        text = child.signal()
                        self.assertIn('remote.py:2 in work\n    (source not found)', text)
                    self.assertRegex(text, r'in hold\n    `.*`\n')  # the first report has told where not to look
                finally:
                    self.doCleanups()  # while its file system hangs it cannot even be killed


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
            self.assertRegex(name, rf'^program.py_gurumeditation_\d{{14}}_{child.pid}$')
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
            'sys.stderr.detach()',
            'sys.stderr = object()',
        ):
            with self.subTest(line):
                report_of(f'setup("1")\n{line}\nhold()\nsys.stderr = None')

    def test_the_null_device(self):
        self.private_report(self.waits("setup('1')"), stderr=subprocess.DEVNULL)

    def test_descriptor_2_closed_but_a_log_opened(self):
        with tempfile.NamedTemporaryFile() as log:
            line = f"setup('1'); sys.stderr = open({log.name!r}, 'w'); os.close(2)"
            with Child(self.waits(line)) as child:
                os.kill(child.wait_ready().pid, signal.SIGUSR2)
                child.wait_for(lambda: os.path.getsize(log.name) > 0, 'a report')
                self.assertEqual(child.finish(), 0, child.text())
            self.assertTrue(log.read().endswith(END.encode()))

    def test_descriptor_2_closed(self):
        self.private_report(self.waits("setup('1')", 'os.close(2)'))

    def test_descriptor_2_closed_and_taken_by_a_file_of_the_program(self):
        for line, unbuffered in (('sys.stderr = None', ''), ('', ''), ('', '1')):
            with self.subTest(line, unbuffered=unbuffered), tempfile.NamedTemporaryFile() as base:
                taken = f'kept = open({base.name!r}, "r+", buffering=1); assert kept.fileno() == 2'
                self.private_report(self.waits("setup('1')", line, 'os.close(2)', taken), PYTHONUNBUFFERED=unbuffered)
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
            lines = f"""
                reader, writer = os.pipe()
                os.set_blocking(writer, False)
                os.dup2(writer, 2)
                try:
                    while True:
                        os.write(2, b'x' * 4096)
                except BlockingIOError:
                    pass
                gmr.GuruMeditation.delivery_timeout = 0.2
                setup('1')
                os.kill(os.getpid(), signal.SIGUSR2)
                while not os.listdir({folder!r}):
                    time.sleep(0.01)
                os.close(2)
                data = os.open({folder!r} + '/data', os.O_RDWR | os.O_CREAT)
                assert data == 2
                while len(os.listdir('/proc/self/task')) > 1:
                    time.sleep(0.01)
                sys.exit(os.fstat(data).st_size)
            """
            with Child(lines, TMPDIR=folder) as child:
                self.assertEqual(child.finish(), 0, child.text())

    def test_a_stream_that_wraps_another_gets_the_report_as_its_own_text(self):
        with tempfile.TemporaryDirectory() as folder:
            for number, (stream, read) in enumerate(
                (
                    ('gzip.open(path, "wt")', gzip.decompress),
                    ('io.TextIOWrapper(io.BufferedWriter(gzip.open(path, "wb")))', gzip.decompress),
                    ('codecs.getwriter("utf-16")(open(path, "wb"))', lambda data: data.decode('utf-16').encode()),
                )
            ):
                path = os.path.join(folder, f'{number}')
                with (
                    self.subTest(stream),
                    Child(f"""
                    import codecs, gzip, io
                    path = {path!r}
                    sys.stderr = {stream}
                    setup('1')
                    print('before', file=sys.stderr)
                    os.kill(os.getpid(), signal.SIGUSR2)
                    while len(os.listdir('/proc/self/task')) > 1:
                        time.sleep(0.01)
                    print('after', file=sys.stderr)
                    sys.stderr.close()
                    sys.stderr = sys.__stderr__
                """) as child,
                ):
                    self.assertEqual((child.finish(), bytes(child.err)), (0, b''))
                    with open(path, 'rb') as file:
                        text = read(file.read()).decode()
                    self.assertTrue(text.startswith('before\n='), text)
                    self.assertTrue(text.endswith(END + 'after\n'), text)


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
                line = b'RuntimeWarning: there is no folder /nowhere/at/all yet'
                child.wait_for(lambda child=child, line=line: line in child.err, 'the warning')
                child.wait_ready()
                self.assertEqual(child.finish(), 0)

    def test_a_full_disk_loses_no_report(self):
        limits = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (700, 700))
        with tempfile.TemporaryDirectory() as folder:
            self.check_falls_back(folder, limits=limits)

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
                os.umask(0)
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


NO_THREADS = """
import _thread
def refuse(*args):
    raise RuntimeError("can't start new thread")
_thread.start_new_thread = _thread.start_new = refuse
"""


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
            gmr.GuruMeditation.hold = 60
            class Finalized:
                early, meanwhile = [], []
                def __init__(self):
                    self.me = self
                def __del__(self):
                    self.early.extend(self.meanwhile)
            def garbage():
                Finalized.meanwhile.append(1)
                return [str(Finalized()) for n in range(1000)]
            gmr.register_section('Garbage', garbage)
            gmr.register_section('The End', lambda: Finalized.meanwhile.clear() or 'of the report')
            gmr.setup_autorun('1')
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
        self.assertEqual(len(TITLE.findall(text)) % text.count(END), 0)

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
                        os._exit(0 if gc.isenabled() and sys.getswitchinterval() > 0.004 else 1)
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
        text = self.check("gmr.register_section('In Place', lambda: 'made'); setup('1'); hold()", first=NO_THREADS)[0]
        self.assertIn('made\n', text)
        self.check("""
            import resource
            setup('1')
            resource.setrlimit(resource.RLIMIT_AS, (int(open('/proc/self/statm').read().split()[0]) * 4096 + 500_000,) * 2)
            hold()
        """)

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
            deadline = time.monotonic() + 2
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
            deadline = time.monotonic() + 60
            while not (gc.isenabled() and sys.getswitchinterval() > 0.004) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert gc.isenabled() and sys.getswitchinterval() > 0.004 and threading.stack_size() == 0
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

    def test_source_is_shown_in_the_encoding_that_it_declares(self):
        with tempfile.TemporaryDirectory() as folder:
            for number, (line, codec) in enumerate(
                (('#' + ' ' * 2000 + '\n# -*- coding: latin-1 -*-', 'latin-1'), ('', 'utf-8-sig'))
            ):
                path = os.path.join(folder, f'inside{number}.py')
                with open(path, 'w', encoding=codec) as file:
                    file.write(f'{line}\ndef work(hold):\n    hold()  # caf\u00e9\n')
                text = self.check(f"""
                    sys.path.insert(0, {folder!r})
                    import inside{number}
                    setup('1')
                    inside{number}.work(hold)
                """)[0]
                self.assertIn('`hold()  # caf\u00e9`', text)


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

    def check(self, rows, show=report_on):
        for value, shown in rows:
            with self.subTest(value=value):
                self.assertEqual(show(value), shown)

    def source_line(self, line):
        """Return how a line of source code is shown."""
        with tempfile.NamedTemporaryFile('w', suffix='.py') as file:
            print(line, file=file, flush=True)
            text = report_on(lambda: exec(compile('1 / 0', file.name, 'exec')))
        return re.search(r'\.py:1 in <module>\n    `(.*)`', text)[1]

    def command_line(self, arguments):
        """Return how a command is shown."""
        with unittest.mock.patch.object(sys, 'orig_argv', arguments, create=True):
            text = sections(gmr.TextGuruMeditation().run())['Processes']
        return re.search(r'\ncommand line =(?: |\n  )(.*)', text)[1]

    def test_a_name_that_is_a_secret_is_told_from_one_that_speaks_of_it(self):
        secret = (
            'pass creds basic_auth apikey apiKey API-Key x-functions-key STRIPE_KEY SECRET_KEY_FALLBACKS AccountKey _authToken'
            ' PGPASSWORD master_password session_id sessionid csrftoken tls_private_key sig passphrase db.password DB_PASS'
            ' client_secret X-Auth-Token aws_secret_access_key Authorization Set-Cookie SENTRY_DSN salt token2 DB_PASSWORD_PROD'
        )
        speaks = (
            'session_timeout max_tokens prompt_tokens tokens_per_second token_url password_min_length credentials_file'
            ' private_key_path keyspace passenger compass cookie_domain author bypass no_cookies primary_key cache_key'
            ' InvalidTokenError secretary tokenizer use_auth token_type access_key_id monkey key keys'
        )
        self.check([({name: 'Kf83nq0s'}, f'{name} = ***') for name in secret.split()])
        self.check([({name: 'x1'}, f'{name} = x1') for name in speaks.split()])

    def test_a_count_a_state_or_nothing_under_a_secret_name_stays(self):
        for name, value, hidden in (
            ('password', 'tulip', True), ('password', 4711, True), ('tokens', ['9f8e7d6c5b4a'], True), ('pass', 'tulip', True),
            ('auth', ['shop', 'Kf83nq0s'], True), ('secrets', {'a': {'b': 'c'}}, True), ('x-api-key', '9f8e', True),
            ('sessions', {'open': 12}, False), ('sessions', '12', False), ('tokens', 812, False), ('pass', 41, False),
            ('auth', 'ldap', False), ('PWD', '/srv/app', False), ('password', None, False), ('password', '', False),
            ('password', [], False), ('password', True, False), ('password', '${DB_PASSWORD}', False), ('host', 'db', False),
            ('password', '$DB_PASSWORD', False), ('password', '$Ummer2024', True), ('password', '<Pa55', True),
            ('password', '<not set>', False),
        ):  # fmt: skip
            with self.subTest(name=name, value=value):
                self.assertEqual(report_on({name: value}) == f'{name} = ***', hidden)

    def test_secrets_inside_longer_texts_are_hidden_and_their_neighbours_stay(self):
        self.check([
            ('mysql://u:p@h:3306/d', 'mysql://u:***@h:3306/d'),
            ('redis://:p@h:6379/0', 'redis://:***@h:6379/0'),
            ('mysql://root:p@sW/w0rdQ!@10.0.0.7:3306/crm', 'mysql://root:***@10.0.0.7:3306/crm'),
            ('http://h/ https://u:p@h.org/@types/node', 'http://h/ https://u:***@h.org/@types/node'),
            ("host=h password='hunter 2' user=u", "host=h password='***' user=u"),
            ('Server=s;UID=sa;PWD={a b;c=p};Database=d', 'Server=s;UID=sa;PWD=***;Database=d'),
            ('https://h/p?token=abc&page=2', 'https://h/p?token=***&page=2'),
            ("{'password': 'hunter2', 'port': 1}", "{'password': '***', 'port': 1}"),
            ('body: {\\"password\\": \\"p q\\", \\"n\\": 1}', 'body: {\\"password\\": \\"***\\", \\"n\\": 1}'),
            ('secrets=[{a: p}], n=1', 'secrets=***, n=1'),
            ("api_key=b'\\x9f\\'7d', tls=True", "api_key=b'***', tls=True"),
            ('Authorization: Bearer abc.def\nHost: h', 'Authorization: ***\nHost: h'),
            ('Cookie: a=b; c=d\nHost: h', 'Cookie: ***\nHost: h'),
            ("[('Authorization', 'Basic p'), ('Host', 'h')]", "[('Authorization', '***'), ('Host', 'h')]"),
            ('run --password hunter2 --port 80', 'run --password *** --port 80'),
            ('<add key="ApiKey" value="p"/>', '<add key="ApiKey" value="***"/>'),
            ('<password>a b</password><user>u</user>', '<password>***</password><user>u</user>'),
            ('password: correct horse\nuser: u', 'password: ***\nuser: u'),
            ('a:\n  key_pass: |\n    p\n    q\n  port: 1', 'a:\n  key_pass: ***\n  port: 1'),
            ('passwords:\n- p\n- q\nuser: u', 'passwords:***\nuser: u'),
            ('login ok password: Kf83nq0s ip=h', 'login ok password: *** ip=h'),
            ('The password for shop is Kf83nq0s', 'The password for shop is ***'),
            ('\u0130 PASSWORD=p', '\u0130 PASSWORD=***'),
        ])  # fmt: skip

    def test_tokens_known_by_their_shape_are_hidden(self):
        for token in ('eyJhbGciOiJI.eyJzdWIiOiJ6.Qm4xTz7R', 'AKIA4QZ7N2LMX0RTB3VC', 'ghp_' + 'Zt8Q' * 5, 'xoxb-204177-Zt8Q',
                      'sk-Zt8QwLmX3RkVn7YcBd2H', 'AIza' + 'Zt8Q' * 5, 'glpat-' + 'Zt8Q' * 5):  # fmt: skip
            self.assertEqual(report_on(f'refused {token} (403)'), 'refused *** (403)')
        key = '-----BEGIN RSA PRIVATE KEY-----\nMIIEvQ\n-----END RSA PRIVATE KEY-----'
        self.assertEqual(report_on(f'{key}\nloaded'), '-----BEGIN RSA PRIVATE KEY-----***\nloaded')

    def test_what_only_speaks_of_secrets_stays(self):
        self.check([(text, text) for text in (
            'InvalidTokenError: why it failed', 'password is required', 'usage: prompt_tokens=812, total_tokens=906',
            'FATAL:  password authentication failed for user "shop"', "(using password: YES)", 'tokens: 812 in, 94 out',
            'http://h:80/a@b', 'https://user@h/path', 'http://[::1]:80/a@b', 'password=None, token=', "KeyError: 'session'",
            'session = Session(engine, autoflush=False)', 'sig: 15, pass=41', 'key=order:42 value=shipped',
            '{"password":null,"user":"u"}', 'if token > 5: <b>x</b>', "expected '-----BEGIN PRIVATE KEY-----' in /etc/k.pem",
        )])  # fmt: skip

    def test_a_lone_quote_in_a_source_line_takes_no_time(self):
        text = report_of("setup('1')\nhold()  # don't stop the module now, it's what everybody's waiting for x")
        self.assertIn("`hold()  # don't stop the module now, it's what everybody's waiting for x`", text)

    def test_in_source_lines_only_literals_are_hidden(self):
        self.check([
            ('password: str = "p"; work()', 'password: str = "***"; work()'),
            ('config.set("db", "password", "p")', 'config.set("db", "password", "***")'),
            ("os.environ['TOKEN'] = 'p'", "os.environ['TOKEN'] = '***'"),
            ("get(url, auth=('shop', 'Kf83nq0s'), timeout=5)", "get(url, auth=***, timeout=5)"),
            ("password = getpass('Password: ')", "password = getpass('Password: ')"),
            ('print("Token: " + repr(token) + " at")', 'print("Token: " + repr(token) + " at")'),
            ('h = {"Authorization": f"Bearer {token}"}', 'h = {"Authorization": f"Bearer {token}"}'),
            ('form = {"password": password}', 'form = {"password": password}'),
        ], self.source_line)  # fmt: skip

    def test_arguments_of_a_command(self):
        self.check([
            (['--password', 'a b', '-v'], '--password *** -v'),
            (['--token=x', 'run'], '--token=*** run'),
            (['DB_PASSWORD=it is mine', 'TZ=UTC'], 'DB_PASSWORD=*** TZ=UTC'),
            (['curl', '-u', 'u:p', 'https://x'], 'curl -u u:*** https://x'),
            (['docker', 'login', '-u', 'ci', '-p', 'x', 'reg'], 'docker login -u ci -p *** reg'),
            (['--header', 'Authorization: Bearer x', '--url'], '--header Authorization: *** --url'),
            (['--set', 'db.password=x,db.host=h'], '--set db.password=***,db.host=h'),
            (['--password', '"open', 'next'], '--password "*** next'),
            *((same, ' '.join(same)) for same in (
                ['--password-file', '/run/x'], ['--no-cookies', 'input.txt'], ['-A', 'tokens', 'worker'],
                ['-k', 'session and not slow'], ['a', '', 'c']
            )),
        ], self.command_line)  # fmt: skip

    def test_a_program_may_replace_the_pattern(self):
        with unittest.mock.patch.object(gmr, 'SECRET_NAMES', 'flavour'):
            self.assertEqual(report_on('FLAVOUR=a password=b'), 'FLAVOUR=*** password=b')
        self.assertEqual(report_on('FLAVOUR=a password=b'), 'FLAVOUR=a password=***')

    @patient
    def test_a_megabyte_takes_seconds_at_most(self):
        # Quadratic time would take minutes.
        for unit in (
            'password=',
            '"',
            '\\',
            ' ',
            'a.b.c=',
            'token: ',
            '://',
            '://a:',
            '-----BEGIN PRIVATE KEY',
            '{',
            '"token": {',
            'sk-',
            'eyJ',
            'password:\n  ',
        ):
            with self.subTest(unit):
                self.assertNotIn('no answer in time', report_on(unit * ((1 << 20) // len(unit))))

    def test_at_any_depth_and_beside_their_names(self):
        self.check(
            [
                ({'a': [{'token': 'x'}]}, 'a =\n  [dict]\n    token = ***'),
                ({'token': ['x', {'y': 1}]}, 'token = ***'),
                ({b'token': b'abc'}, 'token = ***'),
                (b'mysql://u:p@h/d', 'mysql://u:***@h/d'),
                ({'key': 'mysql://u:p@h'}, 'key = mysql://u:***@h'),
                ({'mysql://u:p@h': 1}, 'mysql://u:***@h = 1'),
                ({'name': 'DB_PASSWORD', 'value': 'p'}, 'name = DB_PASSWORD\nvalue = ***'),
                ({'name': 'DB_HOST', 'value': 'h'}, 'name = DB_HOST\nvalue = h'),
                (['prog', '--password=correct horse', 'host=h'], 'prog\n--password=***\nhost=h'),
                (['prog', '--password', 'hunter2', '-v'], 'prog\n--password\n***\n-v'),
                (
                    [('Authorization', 'Basic abc'), ('Host', 'h')],
                    '[list]\n  Authorization\n  ***\n[list]\n  Host\n  h',
                ),
            ]
        )

    def test_long_texts_take_little_memory(self):
        with Child("""
            import resource
            texts = ['password="' + 8_000_000 * 'a', 'token=' + 8_000_000 * 'a', '-----BEGIN ' + 100_000 * 'PRIVATE KEY']
            in_use = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (in_use + 200_000_000,) * 2)
            gmr.GuruMeditation.section_timeout = 60
            for text, shown in zip(texts, ('password="***', 'token=***', texts[2])):
                gmr.register_section('Text', lambda: text)
                assert f'\\n{shown}' in gmr.TextGuruMeditation().run()
        """) as child:
            self.assertEqual(child.finish(), 0, child.text()[-2000:])

    def test_exception_texts_and_literals_in_source_lines(self):
        def connect(**options):
            raise ConnectionError(f'cannot connect: {options}')

        shown = report_on(lambda: connect(password='hunter2', user='me'))
        self.assertIn("ConnectionError: cannot connect: {'password': '***', 'user': 'me'}\n", shown)
        self.assertNotIn('hunter2', shown)


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
            text,
            r'5,001 Tasks(.*\n)+?\.\.\. and 4,981 more\n\n.* in outer\n.*\n\n.* in inner\n.*\n\n.* in (Event\.)?wait\n',
        )
        self.assertRegex(
            text, r'waiting.*\n\n.* in consume\n.*\n\n.* in generate\n.*\n\n.* in outer\n.*\n\n.* in inner\n'
        )
        self.assertRegex(text, r'waiting.*\n\n.* in gather\n')
        self.assertRegex(text, r'waiting.*\n\n.* in wait_for\n')
        self.assertRegex(text, r'Task-\d+, waiting\n\n.* in inner\n')
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
        self.assertRegex(sections(text)['Asyncio Tasks'], r'Task-1, waiting.*\n\n.* in waits\n.*\n\n.* in sleep\n')

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
        self.assertRegex(text, r'Task-\d+, waiting.*\n\n.* in waits\n')
        self.assertRegex(text, r'in circles\n')
        self.assertRegex(text, r'in step\n.*\n\n.* in generate\n.*\n\n.* in (Event\.)?wait\n')
        self.assertIn('No Traceback!', text)

    def test_a_task_of_what_only_behaves_like_a_coroutine_has_its_chain_of_awaits(self):
        text = report_of("""
            import asyncio, collections.abc
            class Context(collections.abc.Coroutine):  # as aiohttp's session.get() returns
                __slots__ = ('coroutine',)
                def __init__(self, coroutine): self.coroutine = coroutine
                def send(self, value): return self.coroutine.send(value)
                def throw(self, *args): return self.coroutine.throw(*args)
                def close(self): return self.coroutine.close()
                def __await__(self): return self.coroutine.__await__()
            async def innermost():
                await asyncio.Event().wait()
            async def request():
                await innermost()
            async def main():
                tasks = [asyncio.create_task(Context(request()), name=f'get-{n}') for n in range(3)]
                await asyncio.sleep(0)
                hold()
                for task in tasks:
                    task.cancel()
            setup('1')
            asyncio.run(main())
        """)
        self.assertRegex(
            sections(text)['Asyncio Tasks'],
            r'3 Tasks +------\n\nget-0, (.*\n)+\n.* in request\n.*\n\n.* in innermost\n',
        )

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
            self.assertRegex(text, r'in main\n.*\n\n.* in (TaskGroup\.)?__aexit__\n')


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
        self.assertEqual((header['format'], header['pid'], header['program']), (2, child.pid, 'program.py'))
        self.assertRegex(header['time'], r'^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$')
        self.assertEqual(header['host'], os.uname().nodename)
        self.assertEqual(document['Package']['version'], '1.0')
        (thread,) = document['Threads']
        self.assertEqual((thread['kind'], thread['count'], thread['state']), ('Thread', 1, 'reporting'))
        self.assertEqual(thread['members'][0]['name'], 'MainThread')
        self.assertEqual(set(thread['stack'][0]), {'file', 'line', 'name', 'code'})
        self.assertEqual([one.get('name') for one in thread['stack']], ['<module>', 'descend', None, 'hold'])
        self.assertEqual(thread['stack'][2], {'frames': 1, 'times': 4})
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

    def test_a_signal_while_it_reports_is_answered_once(self):
        with self.child("""
            inside = threading.Event()
            def slow():
                inside.set()
                time.sleep(0.5)
            gmr.register_section('Slow', slow)
            ready()
            inside.wait()
            os.kill(os.getpid(), signal.SIGUSR2)
            ready()
            hold()
        """) as child:
            self.touch(child.wait_ready())
            child.wait_for(lambda: child.reports() == 2, 'the second report')
            self.assertEqual(child.wait_ready(3).finish(), 0)
            self.assertEqual(child.reports(), 2)

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
            self.assertRegex(sections(text)['Threads'], r'MainThread, native id \d+, running.*\n\n.*:\d+ in <module>')

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
            child.wait_for(lambda: b'RuntimeWarning: there is no folder' in child.err, 'the warning')
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


PROBE = """\
import __main__, os, sys
print(__name__, os.path.abspath(__file__), __package__ or None, __spec__ and __spec__.name)
print(sys.argv, os.path.abspath(sys.path[0]), __main__.__dict__ is globals(), 'setup_autorun' in globals())
"""
ENDS = (  # status, program: what each of them prints and how it ends is the interpreter's own
    (0, 'print("done")'),
    (3, 'import sys; sys.exit(3)'),
    (1, "raise SystemExit('a word')"),
    (5, 'import os; os._exit(5)'),
    (0, '# -*- coding: latin-1 -*-\nprint(ascii("\\u00e9"))'),
    (0, 'import pickle\nclass C: pass\nprint(type(pickle.loads(pickle.dumps(C()))) is C)'),
    (1, 'import sys; sys.excepthook = lambda kind, *_: print("mine", kind)\n1 / 0'),
)


def run(*command, **options):
    """Return the exit status and the outputs of a python command."""
    unwanted = 'PYTHONUNBUFFERED', 'PYTHONPATH', 'TMPDIR', 'COLUMNS'
    env = {key: value for key, value in os.environ.items() if key not in unwanted}
    options = {'capture_output': True, 'text': True, 'timeout': DEADLINE, 'env': env, **options}
    done = subprocess.run([sys.executable, *command], **options)
    return done.returncode, done.stdout, done.stderr


class ProgramTest(unittest.TestCase):
    """A folder for programs."""

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


class RunnerTest(ProgramTest):
    """`gmr.py SCRIPT` and `gmr.py -m MODULE` against `python SCRIPT` and `python -m MODULE`."""

    def check_same(self, *command, status=0, **options):
        with self.subTest(command):
            plain = run(*command, cwd=self.folder, **options)
            self.assertEqual(plain[0], status, plain)
            self.assertEqual(run(gmr.__file__, *command, cwd=self.folder, **options), plain)
            return plain

    def test_the_program_finds_itself_as_it_is_without_gmr(self):
        self.write('probe.py', PROBE)
        self.write('app/__main__.py', PROBE)
        self.write('package/__init__.py', '')
        self.write('package/__main__.py', PROBE)
        self.write('package/part.py', PROBE)
        os.symlink(os.path.join(self.folder, 'app', '__main__.py'), os.path.join(self.folder, 'link.py'))
        own = 'probe.py --json -m x', f'{self.folder}/probe.py', 'app/__main__.py -- -x', 'link.py'
        for line in (*own, '-m probe --help', '-m package -m', '-m package.part'):
            self.assertTrue(self.check_same(*line.split())[1].startswith('__main__ '))

    def test_it_ends_as_it_does_without_gmr(self):
        for number, (status, text) in enumerate(ENDS):
            self.write(f'program{number}.py', text)
            self.check_same(f'program{number}.py', status=status)
            self.check_same('-m', f'program{number}', status=status)

    def test_the_threads_of_a_script_go_on_in_its_main_module(self):
        text = 'import sys, threading\ndef f():\n    print(sys.modules["__main__"].f is f)\nthreading.Timer(0.1, f).start()'
        self.assertEqual(self.check_same(self.write('threads.py', text))[1], 'True\n')

    def test_what_cannot_be_run_is_told_in_the_last_line(self):
        os.mkdir(os.path.join(self.folder, 'empty'))
        for command, word in (
            (['/nowhere/x.py'], "No such file or directory: '/nowhere/x.py'"),
            (['empty'], 'Is a directory: '),
            (['-m', 'nowhere'], 'No module named nowhere'),
        ):
            with self.subTest(command):
                status, out, err = run(gmr.__file__, *command, cwd=self.folder)
                self.assertEqual((status, out), (1, ''), err)
                self.assertIn(word, err.splitlines()[-1])

    def test_the_program_imports_the_very_same_module(self):
        body = """\
            import os, select, sys
            {0}
            assert one is sys.modules['{1}'] and not hasattr(sys.modules['__main__'], 'setup_autorun')
            one.register_section('The End', lambda: 'of the report')
            os.write(1, b'ready\\n')
            while not select.select([0], [], [], 0.05)[0]:
                pass
            """
        self.write('plain.py', body.format('import gmr as one', 'gmr'))
        self.write('other.py', body.format('import any_name as one', 'any_name'))
        self.write('project/vendor/__init__.py', '')
        shutil.copy(gmr.__file__, os.path.join(self.folder, 'any_name'))
        shutil.copy(gmr.__file__, os.path.join(self.folder, 'project', 'vendor', '_report.py'))
        self.write('project/app.py', body.format('from project.vendor import _report as one', 'project.vendor._report'))
        before = set(os.listdir(self.folder))
        for line in (
            *(f'{gmr.__file__} {program}' for program in ('plain.py', '-m plain')),
            *('any_name other.py', '-m gmr plain.py'),
            *(f'-m project.vendor._report {program}' for program in ('-m project.app', 'project/app.py')),
        ):
            command = line.split()
            env = {'PYTHONPATH': os.pathsep.join((self.folder, HERE))}
            with self.subTest(command), Child(command=command, cwd=self.folder, **env) as child:
                text = child.wait_ready().signal()
                self.assertIn(f'product = {command[-1]}\n', text)
                self.assertEqual(child.finish(), 0)
        self.assertLessEqual(set(os.listdir(self.folder)) - before, {'__pycache__'})

    def test_each_option_does_what_it_says(self):
        path = self.write('waits.py', PRELUDE + "__version__ = '7.7'\nhold()\n")
        watched = os.path.join(self.folder, 'watched')
        name = 'waits.py_gurumeditation_'
        for options, check in (
            ([], lambda err: 'version = 7.7' in err),
            (['--json'], lambda err: json.loads(err)['Guru Meditation']['program'] == 'waits.py'),
            (['--log-dir', self.folder], lambda err: any(name in one for one in os.listdir(self.folder))),
            (['--watch-file', watched], lambda err: 'version = 7.7' in err),
        ):
            with self.subTest(options), Child(command=[gmr.__file__, *options, path]) as child:
                child.wait_ready()
                if '--watch-file' in options:
                    self.write('watched', '')
                else:
                    os.kill(child.pid, signal.SIGUSR2)
                child.wait_for(lambda: child.err.endswith(b'\n'), 'a report')
                self.assertEqual(child.finish(), 0)
                self.assertTrue(check(child.err.decode()), child.text())

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
                child.wait_for(
                    lambda number=number: child.err.count(b'No configuration was given') == number, 'a report'
                )
                self.assertEqual(page(), 200)
            self.assertIn('product = http.server\n', child.err.decode())
            self.assertRegex(child.err.decode(), r'in (BaseServer\.)?serve_forever\n')


class CommandTest(ProgramTest):
    def test_without_a_program_it_reports_on_itself(self):
        status, out, err = run('-S', gmr.__file__)
        self.assertEqual((status, err), (0, ''))
        self.assertIn(f'product = gmr\nvendor = None\nversion = {gmr.__version__}\n', out)
        self.assertIn('MainThread', sections(out)['Threads'])
        self.assertEqual(json.loads(run(gmr.__file__, '--json')[1])['Package']['product'], 'gmr')

    def test_it_prints_wherever_its_output_goes_and_nowhere_else(self):
        with tempfile.TemporaryDirectory() as folder:
            outputs = ('>/dev/null', 0, ''), ('| true', 0, ''), ('>&-', 1, 'Bad file'), ('>/dev/full', 1, 'No space')
            for target, status, word in outputs:
                for arguments in ('', '--json'):
                    with self.subTest(target + arguments):
                        line = f'{shlex.quote(sys.executable)} {shlex.quote(gmr.__file__)} {arguments} {target}'
                        env = {**os.environ, 'TMPDIR': folder, 'LC_ALL': 'C', 'PYTHONIOENCODING': 'ascii'}
                        done = subprocess.run(['sh', '-c', line], stderr=subprocess.PIPE, text=True, env=env)
                        self.assertEqual((done.returncode, done.stderr.count('\n')), (status, status), done.stderr)
                        self.assertIn(word, done.stderr)
                        self.assertEqual(os.listdir(folder), [])

    def test_help_fits_one_screen(self):
        for option in ('-h', '--help'):
            status, out, err = run(gmr.__file__, option)
            self.assertEqual((status, err), (0, ''))
            lines = out.splitlines()
            self.assertLessEqual(len(lines), 24)
            self.assertLessEqual(max(map(len, lines)), 80)
            self.assertIn('-m http.server 8000', out)
        self.assertEqual(run(gmr.__file__, '--version'), (0, f'gmr {gmr.__version__}\n', ''))

    def test_wrong_usage_is_told_on_stderr_with_status_2(self):
        pids = [f'--pid {more}' for more in ('x', '1 x.py', '1 --log-dir x')]
        for line in ('--nonsense', '-m', '--log-dir x', '--watch-file x', *pids):
            with self.subTest(line):
                status, out, err = run(gmr.__file__, *line.split(), cwd=self.folder)
                self.assertEqual((status, out), (2, ''), err)
                self.assertIn('error: ', err.splitlines()[-1])
                self.assertNotIn('Traceback', err)

    def test_a_missing_folder_is_told_and_the_program_runs(self):
        status, out, err = run(gmr.__file__, '--log-dir', '/nowhere/at/all', '-m', 'this')
        self.assertEqual(status, 0)
        self.assertIn('there is no folder /nowhere/at/all yet\n', err)
        self.assertIn('The Zen of Python', out)

    if not hasattr(sys, 'remote_exec'):

        def test_pid_says_which_python_it_needs(self):
            status, out, err = run(gmr.__file__, '--pid', str(os.getpid()))
            self.assertEqual((status, out, err.count('\n')), (1, '', 1), err)
            self.assertIn('3.14', err)


if hasattr(sys, 'remote_exec') and LINUX:  # CPython 3.14

    class ForeignProcessTest(ProgramTest):
        """`gmr.py --pid`, which asks processes that never heard of gmr."""

        BEGIN = """\
import os, select, sys, threading, time
import ctypes
ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0)  # Yama: let siblings look
def ready():
    os.write(1, b'ready\\n')
def hold(seconds=0.05):
    ready()
    while not select.select([0], [], [], seconds)[0]:
        pass
"""

        def setUp(self):
            super().setUp()
            self.before = set(os.listdir('/tmp'))

        def left(self):
            return [name for name in os.listdir('/tmp') if name.startswith('gmr-') and name not in self.before]

        def child(self, body, options=(), **others):
            path = self.write('asked.py', self.BEGIN + textwrap.dedent(body))
            return Child(command=[*options, path], **others)

        def ask(self, child):
            return run(gmr.__file__, '--pid', str(child.pid))

        def asker(self, child):
            asker = Child(command=[gmr.__file__, '--pid', str(child.pid)])
            self.addCleanup(asker.__exit__)
            return asker

        def check(self, body):
            """Return the report of a child that goes on to its normal end with nothing on its stderr."""
            with self.child(body) as child:
                status, out, err = self.ask(child.wait_ready())
                self.assertEqual((status, err), (0, ''))
                self.assertEqual((child.finish(), child.err), (0, b''))
            self.assertEqual(self.left(), [])
            return out

        def check_refused(self, word, pid, **others):
            with self.subTest(word):
                status, out, err = run(gmr.__file__, '--pid', str(pid), **others)
                self.assertEqual((status, out, err.count('\n')), (1, '', 1), err)
                self.assertIn(word, err)
                self.assertEqual(self.left(), [])
                return err

        def test_a_busy_loop(self):
            text = self.check('hold(0)')
            self.assertRegex(sections(text)['Threads'], r'MainThread, native id \d+, (running|sleeping)')
            self.assertEqual(sections(text)['Threads'].count(' Thread #'), 1, text)
            self.assertIn('product = asked.py\n', text)
            self.assertNotIn('_answer', text)

        def test_one_that_has_set_up_gmr_shows_its_own_sections(self):
            text = self.check(f"""
                sys.path.insert(0, {HERE!r})
                import gmr
                gmr.register_section('Mine', lambda: 42)
                gmr.setup_autorun('7.7', conf={{'answer': 42}})
                hold()
            """)
            found = sections(text)
            self.assertIn('version = 7.7', found['Package'])
            self.assertIn('answer = 42', found['Configuration'])
            self.assertEqual(found['Mine'].strip(), '42')

        def test_it_leaves_nothing_behind(self):
            with self.child("""
                import atexit, collections.abc, contextlib, errno, faulthandler, functools, gc, io, itertools, math, operator, pwd, re
                import resource, signal, stat, types, warnings, __future__, _queue
                def state():
                    gc.collect()
                    copies = [one for one in gc.get_objects() if type(one) is dict and '_answer' in one]
                    return (len(copies), sorted(sys.modules), sys.getswitchinterval(), gc.isenabled(), sorted(globals()),
                        threading.stack_size(), os.listdir('/proc/self/task'), os.listdir('/proc/self/fd'))
                before = deadline = None
                before = state()
                hold()
                deadline = time.monotonic() + 60
                while before != state():  # the answer is out before its thread ends
                    assert time.monotonic() < deadline, (before, state())
                    time.sleep(0.05)
            """) as child:
                child.wait_ready()
                for _ in range(3):
                    self.assertEqual(self.ask(child)[0], 0)
                self.assertEqual((child.finish(), child.err), (0, b''))
            self.assertEqual(self.left(), [])

        def test_ten_askers_at_once_get_ten_answers(self):
            with self.child('hold()') as child:
                child.wait_ready()
                for asker in [self.asker(child) for _ in range(10)]:
                    self.assertEqual(asker.finish(), 0, asker.text())
                    self.assertIn('Configuration', sections(asker.out.decode()))
                self.assertEqual((child.finish(), child.err), (0, b''))
            self.assertEqual(self.left(), [])

        def test_who_gives_up_asking_takes_the_question_back(self):
            with self.child('ready()\nos.read(0, 1)\ntime.sleep(0.1)') as child:
                asker, deadline = self.asker(child.wait_ready()), time.monotonic() + DEADLINE
                while not self.left():
                    self.assertLess(time.monotonic(), deadline, asker.text())
                    time.sleep(0.05)
                time.sleep(0.2)  # it is put where the process will find it
                os.kill(asker.pid, signal.SIGINT)
                self.assertEqual(
                    (asker.finish(), asker.err, self.left()), (1, b'process %d: interrupted\n' % child.pid, [])
                )
                self.assertEqual((child.finish(), child.err), (0, b''))

        def test_of_one_that_does_not_answer_it_says_what_helps_and_asks_no_more(self):
            with self.child('ready()\nos.read(0, 1)\ntime.sleep(0.1)') as child:
                err = self.check_refused('no answer within 10 seconds', child.wait_ready().pid)
                self.assertIn(f'py-spy dump --pid {child.pid}', err)
                self.assertEqual((child.finish(), child.err), (0, b''))

        def test_whoever_answers_cannot_steer_the_terminal(self):
            text = self.check("""
                import types
                sys.modules['fake'] = fake = types.ModuleType('fake')
                fake._autorun, fake._answer = [True], lambda form: 'first\\n\\x1b]0;owned\\x07'
                hold()
            """)
            self.assertEqual(text, 'first\n\\x1b]0;owned\\x07\n')

        def test_each_reason_for_no_answer_is_one_clear_line(self):
            with subprocess.Popen(['true']) as ended:
                ended.wait()
            self.check_refused('No such file', ended.pid)
            with subprocess.Popen(['sleep', '3600']) as sleeper:
                self.check_refused(f'process {sleeper.pid}: ', sleeper.pid)
                sleeper.kill()
            with self.child('hold()', options=['-X', 'disable-remote-debug']) as child:
                self.check_refused('not enabled', child.wait_ready().pid)

        if os.geteuid() == 0:

            def test_root_asks_a_process_of_a_user_and_no_user_one_of_root(self):
                for number in (0, 65534):
                    os.chmod(self.folder, 0o755)
                    with self.child(f'os.setgid({number}); os.setuid({number}); hold()') as child:
                        status, out, err = self.ask(child.wait_ready())
                        self.assertEqual((status, err), (0, ''))
                        self.assertIn(f'({number})', sections(out)['Processes'])
                        if not number:
                            self.check_refused('Permission denied', child.pid, user='nobody')
                        self.assertEqual((child.finish(), child.err), (0, b''))

            def test_one_in_another_namespace_is_asked_there(self):
                for kind in ('CLONE_NEWNS', 'CLONE_NEWPID'):
                    with self.child(f"""
                        os.unshare(os.{kind})
                        inner = os.fork()
                        if inner:
                            os.write(1, b'%d\\n' % inner)
                            os.waitpid(inner, 0)
                        else:
                            hold()
                    """) as child:
                        child.wait_ready().wait_for(lambda child=child: re.search(rb'\d+\n', child.out), 'a number')
                        inner = int(re.search(rb'\d+', child.out)[0])
                        self.check_refused(f'nsenter --target {inner} --all', inner)
                        self.assertEqual(child.finish(), 0)


WAITS_PRELUDE = '''
import _thread, asyncio, concurrent.futures, importlib, logging, re, traceback

gc.disable()  # as in a report

def start(name, function, *arguments):
    thread = threading.Thread(target=function, args=arguments, name=name, daemon=True)
    thread.start()
    return thread

def write_module(name, source):  # beside the program, with whose folder it goes
    with open(os.path.join(sys.path[0], f'{name}.py'), 'w') as stream:
        stream.write(source)
    importlib.invalidate_caches()

def look():
    waits = gmr._thread_waits(gmr._capture_threads())
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return waits, {names[one]: re.sub(' at 0x[0-9a-f]+', '', f'{wait.what} {names[wait.holder]}') for one, wait in waits.items()}

def expect(deadlocks=0, frozen=None, **expected):
    """Wait until exactly these waits are told, and that many deadlocks."""
    end = time.monotonic() + 30
    while True:
        waits, texts = look()
        found = gmr._deadlocks(waits, gmr._describe_threads(gmr._capture_threads(), None, waits, gmr._registry), frozen)
        if texts == expected and len(found) == deadlocks:
            return
        assert time.monotonic() < end, (texts, expected, found)
        time.sleep(0.01)
'''
ENDING = """
except BaseException:
    traceback.print_exc()
    os._exit(1)
os._exit(0)  # what is stuck must not keep the exit
"""


def check_waits(test, body):
    program = f'{WAITS_PRELUDE}\ntry:\n{textwrap.indent(textwrap.dedent(body), "    ")}{ENDING}'
    with Child(program) as child:
        test.assertEqual(0, child.finish(), child.text())


class ThreadsWaitTest(unittest.TestCase):
    check = check_waits

    def test_the_end_of_a_thread_with_and_without_a_limit(self):
        self.check("""
            closer = start('closer', threading.Event().wait)
            start('joiner', closer.join)
            start('patient', closer.join, 1000)
            expect(joiner='the end of closer', patient='the end of closer')
        """)

    def test_the_import_that_another_thread_makes(self):
        self.check("""
            write_module('m_slow', 'import sys; sys.begun.set(); sys.forever.wait()')
            sys.begun, sys.forever = threading.Event(), threading.Event()
            start('right', importlib.import_module, 'm_slow')
            assert sys.begun.wait(30)
            start('left', importlib.import_module, 'm_slow')
            expect(left='the import of m_slow by right')
        """)

    def test_the_lock_of_a_condition_also_when_the_notice_has_come(self):
        self.check("""
            condition, waiting = threading.Condition(), threading.Event()
            def wait():
                with condition:
                    waiting.set()
                    condition.wait()
            def audit():
                with condition:
                    condition.notify()
                    threading.Event().wait()
            def want():
                with condition:
                    pass
            start('waiter', wait)
            assert waiting.wait(30)
            expect()
            start('auditor', audit)
            expect(waiter='RLock held by auditor')
            start('wanter', want)
            expect(waiter='RLock held by auditor', wanter='RLock held by auditor')
        """)

    def test_a_logging_handler(self):
        self.check("""
            begun = threading.Event()
            class Slow(logging.Handler):
                def emit(self, record):
                    begun.set()
                    threading.Event().wait()
            log = logging.getLogger('slow')
            log.addHandler(Slow())
            start('auditor', log.warning, 'one')
            assert begun.wait(30)
            start('clerk', log.warning, 'two')
            expect(clerk='RLock held by auditor')
        """)

    def test_the_thread_that_runs_a_future_and_nobody_while_it_is_queued(self):
        self.check("""
            pool, forever = concurrent.futures.ThreadPoolExecutor(1), threading.Event()
            runs, queued = pool.submit(forever.wait), pool.submit(int)
            start('asker', runs.result)
            start('early', queued.result)
            expect(asker='Future run by ThreadPoolExecutor-0_0')
        """)


class DeadlockTest(unittest.TestCase):
    check = check_waits

    def test_two_conditions_taken_in_turns(self):
        self.check("""
            first, second, both = threading.Condition(), threading.Condition(), threading.Barrier(2)
            def take(one, other):
                with one:
                    both.wait()
                    with other:
                        pass
            left, right = start('left', take, first, second), start('right', take, second, first)
            waits = dict(left='RLock held by right', right='RLock held by left')
            expect(1, **waits)
            expect(1, frozen=left.ident, **waits)
        """)

    def test_two_logging_handlers_that_log(self):
        self.check("""
            both = threading.Barrier(2)
            class Loud(logging.Handler):
                def emit(self, record):
                    both.wait()
                    record.args.handle(record)
            first, second = Loud(), Loud()
            def log(one, other):
                record = logging.makeLogRecord({})
                record.args = other
                one.handle(record)
            start('left', log, first, second)
            start('right', log, second, first)
            expect(1, left='RLock held by right', right='RLock held by left')
        """)

    def test_an_import_that_waits_for_the_end_of_a_thread_that_imports(self):
        self.check("""
            write_module('m_right', 'import sys; sys.begun.set(); sys.left.join()')
            sys.begun = threading.Event()
            sys.left = start('left', lambda: sys.begun.wait(30) and importlib.import_module('m_right'))
            start('right', importlib.import_module, 'm_right')
            expect(1, left='the import of m_right by right', right='the end of left')
        """)

    def test_a_future_whose_thread_waits_for_the_one_that_asks(self):
        self.check("""
            pool, asked = concurrent.futures.ThreadPoolExecutor(1), threading.Event()
            future = pool.submit(lambda: asked.wait(30) and asker.join())
            asker = start('asker', future.result)
            asked.set()
            expect(1, asker='Future run by ThreadPoolExecutor-0_0', **{'ThreadPoolExecutor-0_0': 'the end of asker'})
        """)

    def test_a_limit_is_no_deadlock(self):
        self.check("""
            both = threading.Barrier(2)
            def wait_for(other):
                both.wait()
                threads[other].join(1000)
            threads = [threading.Thread(target=wait_for, args=(1 - n,), name=f'n{n}', daemon=True) for n in range(2)]
            for thread in threads:
                thread.start()
            expect(0, n0='the end of n1', n1='the end of n0')
        """)

    def test_none_in_a_busy_program_and_nobody_is_said_to_hold_what_it_never_takes(self):
        self.check("""
            conditions, end = [threading.Condition() for _ in range(3)], threading.Event()
            class Quick(logging.Handler):
                def emit(self, record):
                    time.sleep(0)
            log, pool = logging.getLogger('busy'), concurrent.futures.ThreadPoolExecutor(2)
            log.addHandler(Quick())
            def take():
                while not end.is_set():
                    for one in conditions:  # each alone: no circle can be
                        with one:
                            one.wait(0.0001)
                            one.notify()
                    log.warning('x')
                    pool.submit(time.sleep, 0).result()
                    start('short', int).join()
            bystander = start('bystander', end.wait)
            for number in range(6):
                start(f'busy-{number}', take)
            until, looks = time.monotonic() + 4, 0
            while time.monotonic() < until:
                threads = gmr._capture_threads()
                waits = gmr._thread_waits(threads)
                looks += 1
                assert bystander.ident not in waits and all(one.holder != bystander.ident for one in waits.values()), waits
                assert gmr._deadlocks(waits, gmr._describe_threads(threads, None, waits, gmr._registry), None) == []
            assert looks > 20, looks
        """)


TASKS_PRELUDE = '''
T = {}  # tasks by their names

async def rest():
    await asyncio.Event().wait()

async def expect_tasks(expected, *coroutines):
    """Start these coroutines (name, function) one after the other, and compare who is said to wait for whom."""
    T.clear()
    for name, function in coroutines:
        T[name] = asyncio.get_running_loop().create_task(function(), name=name)
        for _ in range(4):
            await asyncio.sleep(0)
    kinds = asyncio.Task, asyncio.tasks._PyTask
    tasks = [one for one in gc.get_objects() if issubclass(type(one), kinds) and not one.done()]
    names = {id(one): one.get_name() for one in tasks}
    found = {names[one]: sorted(names[id(other)] for other in others) for one, others in gmr._task_waits(tasks, True).items()}
    assert found == expected, (found, expected)
    for one in tasks:
        if one is not asyncio.current_task():
            one.cancel()
    await asyncio.wait([one for one in tasks if one is not asyncio.current_task()], timeout=30)
'''


class TasksWaitTest(unittest.TestCase):
    def check(self, body):
        program = TASKS_PRELUDE + 'async def main():\n' + textwrap.indent(textwrap.dedent(body), '    ')
        check_waits(self, program + '\nasyncio.run(main())\n')

    def test_tasks_however_they_are_awaited(self):
        self.check("""
            async def direct(): await T['a']
            async def gather(): await asyncio.gather(T['a'], T['b'])
            async def nested(): await asyncio.gather(asyncio.gather(T['a']), T['b'])
            async def wait(): await asyncio.wait([T['a'], T['b']])
            async def wait_for(): await asyncio.wait_for(T['a'], 1000)
            async def shield(): await asyncio.shield(T['a'])
            async def shielded(): await asyncio.wait_for(asyncio.shield(asyncio.gather(T['a'], asyncio.shield(T['b']))), 1000)
            async def as_completed():
                for one in asyncio.as_completed([T['a'], T['b']]):
                    await one
            both, loop = (gather, nested, wait, shielded, as_completed), asyncio.get_running_loop()
            python = lambda loop, coroutine, **options: asyncio.tasks._PyTask(coroutine, loop=loop, **options)
            for factory in (None, python):
                loop.set_task_factory(factory)
                for form in (direct, gather, nested, wait, wait_for, shield, shielded, as_completed):
                    if factory is python and form in (wait_for, shielded):
                        continue  # asyncio.timeout() does not know tasks in Python on CPython 3.14
                    await expect_tasks({'w': ['a', 'b'] if form in both else ['a']}, ('a', rest), ('b', rest), ('w', form))
            if hasattr(asyncio, 'TaskGroup'):
                async def closed():
                    async with asyncio.TaskGroup() as group:
                        group.create_task(rest(), name='a')
                async def still_open():
                    async with asyncio.TaskGroup() as group:
                        group.create_task(rest(), name='a')
                        await rest()
                loop.set_task_factory(None)
                await expect_tasks({'w': ['a']}, ('w', closed))
                await expect_tasks({}, ('w', still_open))
        """)

    def test_the_task_that_has_the_lock_and_nobody_where_it_is_not_certain(self):
        self.check("""
            for lock in (asyncio.Lock(), asyncio.Semaphore(1), asyncio.BoundedSemaphore(1), asyncio.Condition()):
                async def hold():
                    async with lock:
                        await rest()
                async def want():
                    async with lock:
                        pass
                async def acquire(): await lock.acquire()
                await expect_tasks({'w': ['h'], 'v': ['h'], 'u': ['h']}, ('h', hold), ('w', want), ('v', acquire), ('u', want))
            lock, two, condition = asyncio.Lock(), asyncio.Semaphore(2), asyncio.Condition()
            async def acquired():
                await lock.acquire()
                try:
                    await rest()
                finally:
                    lock.release()
            async def share():
                async with two:
                    await rest()
            async def wait():
                async with condition:
                    await condition.wait()
            async def notify():
                async with condition:
                    condition.notify_all()
                    await rest()
            await expect_tasks({}, ('h', acquired), ('w', want))
            await expect_tasks({}, ('a', share), ('b', share), ('w', share))
            await expect_tasks({}, ('a', wait), ('b', wait))
            await expect_tasks({'w': ['n']}, ('w', wait), ('n', notify))
        """)

    def test_nobody_falsely_in_a_busy_program_whose_loop_runs_in_another_thread(self):
        self.check("""
            async def work(lock):
                while True:
                    async with lock:
                        await asyncio.sleep(0.0001)
                    await asyncio.gather(*(asyncio.sleep(0) for _ in range(3)))
            async def busy():
                locks = [asyncio.Lock(), asyncio.Lock()]
                tasks.extend(asyncio.ensure_future(work(lock)) for lock in locks * 3)
                tasks.append(asyncio.ensure_future(rest()))
                await rest()
            tasks = []
            start('loop', asyncio.run, busy())
            until, claims = time.monotonic() + 4, 0
            while time.monotonic() < until:
                if len(tasks) == 7:
                    groups = {id(one): number % 2 for number, one in enumerate(tasks)}
                    for one, others in gmr._task_waits(tasks, True).items():
                        claims += 1
                        assert one != id(tasks[6]) and tasks[6] not in others and len(others) == 1
                        assert groups[one] == groups[id(others[0])] and one != id(others[0])  # of the same lock
            assert claims > 20, claims
        """)


SICK = {  # a program, and what the first lines of its report say; `ready()` and then it hangs
    'a blocked event loop': (
        """
        import asyncio
        def hash_file(): time.sleep(60)
        async def handle_upload(): hash_file()
        async def main():
            clients = [asyncio.create_task(asyncio.sleep(60)) for n in range(50)]
            await asyncio.sleep(0); ready()
            await asyncio.create_task(handle_upload(), name='upload')
        asyncio.run(main())
        """,
        [
            r'event loop of MainThread is in task upload: .*\.py:\d+ in hash_file',
            r'\n  1 task, running  .*`.*hash_file',
        ],
    ),
    'an exhausted pool': (
        """
        pool, slow = threading.Semaphore(3), threading.Event()
        def checkout(): pool.acquire()
        def call_billing(): slow.wait()
        def request(): checkout(); call_billing()
        for n in range(40): start(request, f'request-{n}')
        rest()
        """,
        [
            r' 37 threads, sleeping   .* in checkout  `.*pool\.acquire\(\)`  \(request-\d+ and 36 more\)',
            r'  3 threads, sleeping   .* in call_billing',
        ],
    ),
    'a busy thread among idle ones': (
        """
        def spin():
            while True: pass
        for n in range(30): start(threading.Event().wait, f'idle-{n}')
        start(spin, 'spinner')
        rest()
        """,
        [
            r'\n\n  1 thread, running     .* in spin  `.*`  \(spinner\)\n',
            r'\n 30 threads, sleeping .*\(idle-0 and 29 more\)\n==',
        ],
    ),
    'an error that comes again and again': (
        """
        def consume(n):
            try: raise ConnectionError('broker went away, password=hunter2')
            except ConnectionError: time.sleep(60)
        for n in range(3): start(consume, f'consumer-{n}', n)
        rest()
        """,
        [r'3 threads handle ConnectionError: broker went away, password=\*\*\*  \(consumer-0 and others\)'],
    ),
    'threads that threading does not know': (
        """
        import _thread
        def work(): time.sleep(60)
        for n in range(3): _thread.start_new_thread(work, ())
        rest()
        """,
        [r'\n  3 threads  .* in work  `.*`  \(#\d+ and 2 more\)\n'],
    ),
    'more threads than are named': (
        """
        def fail():
            try: 1 / 0
            except ZeroDivisionError: time.sleep(60)
        for n in range(25): start(fail, f'worker-{n}')
        rest()
        """,
        [r'25 threads handle ZeroDivisionError: division by zero  \(worker-0 and others\)'],
    ),
    'a task in an endless recursion': (
        """
        import asyncio
        def sink(n): time.sleep(60) if n > 50 else sink(n + 1)
        async def dive(): sink(0)
        async def main():
            asyncio.get_running_loop().call_later(0.05, ready)
            await asyncio.sleep(0.1)
            await asyncio.create_task(dive(), name='diver')
        asyncio.run(main())
        """,
        [r'event loop of MainThread is in task diver: .*\.py:\d+ in sink\n'],
    ),
    'a descriptor leak': (
        """
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        held = [os.open('/dev/null', os.O_RDONLY) for n in range(57)]
        rest()
        """,
        [r'\nopen files = 6\d of 64\n'],
    ),
    'a join of a thread that never ends': (
        """
        drainer = start(threading.Event().wait, 'drainer')
        ready()
        drainer.join()
        """,
        [r'  1 thread, reporting   .*`drainer\.join\(\)`  waits for the end of drainer  \(MainThread\)'],
    ),
    'a deadlock': (
        """
        one, two = threading.Condition(), threading.Condition()
        barrier = threading.Barrier(2)
        def transfer(source, target):
            with source:
                barrier.wait()
                with target: pass
        start(transfer, 'left', one, two), start(transfer, 'right', two, one)
        rest()
        """,
        [
            r'\ndeadlock: (left|right) waits for RLock at 0x\w+ held by (?!\1)(left|right), which waits for RLock at 0x\w+ held by \1\n'
        ],
    ),
    'tasks behind one that sleeps': (
        """
        import asyncio
        async def reserve(lock):
            async with lock: await asyncio.sleep(60)
        async def main():
            lock = asyncio.Lock()
            tasks = [asyncio.create_task(reserve(lock), name='payer' if not n else f'late-{n}') for n in range(301)]
            await asyncio.sleep(0.01)
            asyncio.get_running_loop().call_later(0.1, ready)
            await asyncio.wait(tasks)
        asyncio.run(main())
        """,
        [r'300 tasks, waiting      .* in reserve  `async with lock: .*`  waits for payer  \(late-1 and 299 more\)'],
    ),
}


if not hasattr(sys, '_current_exceptions'):  # CPython 3.9 finds exceptions on the heap, which keeps one for each
    SICK['more threads than are named'][1][:] = [r'25 threads handle ZeroDivisionError']


class GlanceTest(unittest.TestCase):
    """At a Glance says where and why on the first screen."""

    BEFORE = """
        def start(function, name, *arguments):
            thread = threading.Thread(target=function, args=arguments, name=name, daemon=True)
            thread.start()
            return thread
        def rest():
            time.sleep(0.2); ready(); time.sleep(60)
        setup('1.0')
    """

    def report(self, program, *expected):
        with Child(textwrap.dedent(self.BEFORE) + textwrap.dedent(program)) as child:
            child.wait_ready()
            for _ in range(20):  # what it does after it is ready may not have begun
                text = child.signal()
                screen = '\n'.join(text.split('\n')[:30])
                if all(re.search(pattern, screen) for pattern in expected):
                    break
        return text

    def test_the_cause_stands_within_the_first_thirty_lines(self):
        for name, (program, expected) in SICK.items():
            with self.subTest(name):
                screen = '\n'.join(self.report(program, *expected).split('\n')[:30])
                for pattern in expected:
                    self.assertRegex(screen, pattern)

    def test_it_has_twenty_four_lines_at_most_and_says_who_asked(self):
        text = self.report("""
            for n in range(40):
                exec(f'def work_{n}(): threading.Event().wait()')
                start(globals()[f'work_{n}'], f'worker-{n}')
            rest()
        """)
        lines = sections(text)['At a Glance'].rstrip('\n').split('\n')
        self.assertEqual(len(lines), 24)
        first = r'^\S+ 1\.0, process \d+ on \S+, up \d+ s, \d{4}-\d\d-\d\dT[\d:]+\+00:00, asked by SIGUSR2$'
        self.assertRegex(lines[0], first)
        self.assertRegex(lines[-1], r'^\.\.\. and \d+ more stacks$')

    def test_what_does_not_fit_is_counted(self):
        process = dict.fromkeys(('program', 'pid', 'host', 'asked by', 'uptime', 'time'))
        rows = [gmr._Row('Thread', 1, None, None, None, '(one)')] * 1040
        lines = list(gmr._glance_lines(gmr._Glance(process, ['open files = 9 of 9'] * 20, rows)))
        self.assertEqual((len(lines), lines[-1]), (24, '... and 1,031 more stacks'))
        self.assertIn('... and 8 more findings', lines)
        self.assertNotIn('up', lines[0])  # what a platform does not tell is left out

    def test_it_stands_in_json_with_the_same_facts(self):
        document = json.loads(gmr.JSONGuruMeditation('2.1.0').run())
        glance = document['At a Glance']
        self.assertEqual((glance['process']['pid'], glance['findings']), (os.getpid(), []))
        self.assertEqual(glance['entries'][0]['state'], 'reporting')
        self.assertEqual(list(document)[1], 'At a Glance')


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
    text = re.sub(r'(?<!\S)\S*/(\w+\.py:\d+ in )', r'\1', text)
    text = re.sub(r'"/\S*/(\w+\.py)"', r'"\1"', text)
    text = re.sub(r' on \S+, up .*?,', ' on, up,', text)
    text = re.sub(r'0x[0-9a-f]+|\d[\d,.]*', '9', text)
    return re.sub(r'\n\n+', '\n\n', re.sub(' +', ' ', text)).strip()


def like(block):
    """Return the pattern of an output in the manual, in which a line `...` is anything."""
    parts = map(comparable, re.split(r'(?m)^ *\.\.\.\n', block))
    return r'\s+(?:.*\n)*?\s*'.join(map(re.escape, filter(None, parts)))


STARTS = ['python3 -m venv']  # .ci/run runs those


def runs(*starts):
    """Give a test the blocks of the manual that begin so."""
    STARTS.extend(starts)

    def blocks():
        return [block for start in starts for block in readme_blocks() if re.match(start, block)]

    return lambda test: functools.wraps(test)(lambda self: test(self, *blocks()))


# A service that can be asked and does nothing else.
WAITING = """\
import time, gmr
gmr.setup_autorun('2.1.0')
print('ready', flush=True)
while True:
    time.sleep(0.05)
"""
# What each line of a block of findings is about.
FINDINGS = """\
import asyncio, os, resource, threading, time, gmr
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
kept = [os.open(os.devnull, os.O_RDONLY) for number in range(234)]
left = threading.Thread(target=lambda: started.wait() and right.join(), name='left', daemon=True)
right = threading.Thread(target=lambda: started.wait() and left.join(), name='right', daemon=True)
started = threading.Event()
left.start(), right.start(), started.set()
def hash_file():
    while True: time.sleep(0.05)
async def upload(): hash_file()
async def main():
    gmr.setup_autorun('2.1.0')
    await asyncio.create_task(upload(), name='upload')
asyncio.run(main())
"""


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as listener:
        return str(listener.getsockname()[1])


class ManualTestCase(unittest.TestCase):
    """Runs blocks of the manual as they stand there."""

    maxDiff = None

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.realpath(folder.name)
        shutil.copy(gmr.__file__, self.folder)
        self.command('python3', f'exec {sys.executable} "$@"')
        self.command('sudo', 'exec "$@"')

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
        return Child(command=['-c', wait + script], python=['/bin/sh'], cwd=self.folder, **{'PATH': path, **env})

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
        return self.background(f'python3 {name} &\nsleep 1')

    def until(self, condition, what, child):
        deadline = time.monotonic() + DEADLINE
        while not condition():
            self.assertLess(time.monotonic(), deadline, f'{what} did not come:\n{child.text()}')
            time.sleep(0.05)

    def files(self, service):
        return {name for name in os.listdir(self.folder) if name.startswith(f'{service}_gurumeditation_')}

    def ask_until(self, condition, what, child, ask):
        """Ask until it holds: the program may not have come so far yet."""

        def asked():
            ask()
            time.sleep(1.5)
            return condition()

        self.until(asked, what, child)

    def await_like(self, child, block, ask):
        self.ask_until(lambda: re.search(like(block), comparable(child.text())), like(block), child, ask)

    def check_reports(self, name, program, *blocks):
        """Run and ask a program of the manual: what comes is like these outputs."""
        child, pid = self.program(name, program)
        for block in blocks:
            self.await_like(child, block, lambda: os.kill(pid, signal.SIGUSR2))


class ReadmeTest(ManualTestCase):
    """Every block of the manual but its recipes."""

    def test_every_block_is_run(self):
        for block in readme_blocks():
            self.assertEqual(sum(bool(re.match(start, block)) for start in STARTS), 1, block)

    @runs(r'python3 gmr.py\n')
    def test_the_first_commands(self, commands):
        self.assertIn('product = gmr\n', self.output(commands.split('\n')[0]))  # .ci/run runs the second

    @runs(r'import gmr\n\ngmr.setup_autorun\(.2', 'python3 gmr.py -m http', 'sudo ')
    def test_the_three_ways_in(self, lines, launcher, ask):
        text = report_of(f'{lines}\ngmr.register_section("The End", lambda: "of the report")\nhold()')
        self.assertIn('version = 2.1.0\n', text)
        child, _ = self.background(launcher.replace('8000', free_port()))
        child.wait_for(lambda: b'No configuration was given' in child.err, 'a report')
        self.assertIn(b'product = http.server\n', child.err)
        _, pid = self.background(f'python3 {self.write("busy.py", "while True: pass")} &')  # knows nothing of gmr
        if hasattr(sys, 'remote_exec'):
            self.assertIn('product = busy.py\n', self.output(ask.replace('PID', str(pid))))
        else:
            self.assertIn('CPython 3.14', self.output(ask.replace('PID', f'{pid} 2>&1 || true')))

    @runs('deadlock: ')
    def test_findings(self, lines):
        self.check_reports('files.py', FINDINGS, *lines.strip().split('\n'))

    @runs('=====', 'import queue', '==== +Threads')
    def test_a_real_report(self, glance, program, rest):
        self.check_reports('shop.py', program, glance, rest)

    @runs('import asyncio', '1 task, ')
    def test_asyncio(self, program, lines):
        self.check_reports('crawl.py', program, *lines.strip().split('\n'))

    @runs('import threading', '==== +Cache')
    def test_sections(self, program, report):
        self.check_reports('sections.py', program, report)

    @runs('python3 gmr.py --log-dir')
    def test_the_launcher(self, command):
        self.write('shop.py', "import sys, time\nprint('arguments', *sys.argv[1:], flush=True)\ntime.sleep(3600)\n")
        child, pid = self.background(command.strip().replace('/tmp', self.folder) + ' &')
        child.wait_for(lambda: b'arguments --port 80\n' in child.out, 'its arguments')
        for ask in (lambda: os.kill(pid, signal.SIGUSR2), lambda: self.write('ask', '')):
            found = self.files('shop.py')
            ask()
            self.until(lambda found=found: len(self.files('shop.py') - found) == 1, 'a file', child)

    @runs('gmr.SECRET_NAMES')
    def test_secrets(self, line):
        conf = "{'licence': 'L-1', 'card_pin': 1234, 'note': 'seen'}"
        self.write('licence.py', f'import gmr\n{line}print(gmr.TextGuruMeditation(conf={conf}).run())\n')
        self.assertIn('card_pin = ***\n  licence = ***\n  note = seen\n', self.output('python3 licence.py'))

    @runs('def report_and_die')
    def test_a_report_in_code(self, hook):
        self.write('hook.py', f"import sys\nimport gmr\n{hook}open('/nowhere')\n")
        output = self.output('python3 hook.py 2>&1 || true')
        self.assertRegex(
            output, r'FileNotFoundError: .*\n=+\n==== +Guru Meditation +====\n(.*\n)+.* in report_and_die\n'
        )

    @runs('gmr.JSONGuruMeditation', 'jq ', '{')
    def test_json(self, line, command, entry):
        shop = next(block for block in readme_blocks() if block.startswith('import queue'))
        program = re.sub(r'gmr\.setup_autorun\(.*\)\n', line, shop)
        os.mkdir(os.path.join(self.folder, 'reports'))
        child, pid = self.program('shop.py', program)

        def shown():
            os.kill(pid, signal.SIGUSR2)  # again, until all threads of the program are where they hang
            self.await_like(child, '/shop_gurumeditation_9_9.json\n', lambda: None)
            text = self.output('cat reports/shop_*.json | python3 -m json.tool --json-lines')
            return re.search(like(textwrap.indent(entry, ' ').rstrip(',\n')), comparable(text))

        self.until(shown, entry, child)
        if shutil.which('jq'):
            self.assertRegex(self.output(command), r'(?m)^ +\d+ .*/shop\.py:\d+ RLock at 0x\w+ held by refill$')

    @runs('import hashlib', 'touch ', '1 thread, running')
    def test_stuck_in_c(self, program, command, row):
        child, _ = self.program('stuck.py', program)
        self.await_like(child, row, lambda: self.output(command))

    @runs('-from oslo_reports', 'CONF.register_opts')
    def test_migration(self, diff, options):
        after = ''.join(line[1:] + '\n' for line in diff.split('\n') if line[:1] in ('+', ' '))
        self.assertNotIn('oslo', after)
        program = f'generator, version, CONF = dict, "1", {{"port": 80}}\n{after}'
        self.output(f'python3 {self.write("after.py", program)}')
        if installed('oslo_config'):
            program = f'import gmr\nfrom oslo_config import cfg\nCONF = cfg.CONF\n{options}CONF([])\n'
            program += (
                'CONF.set_override("log_dir", "x", "oslo_reports")\nassert gmr._oslo_option(CONF, "log_dir") == "x"\n'
            )
            self.output(f'python3 {self.write("options.py", program)}')

    @runs('sh -c ')
    def test_started_with_the_signal_ignored(self, command):
        self.write('shop.py', f'import os, signal\nos.kill(os.getpid(), signal.SIGUSR2)\n{WAITING}')
        child, pid = self.background(command.strip() + ' &')
        child.wait_for(lambda: b'ready' in child.out, 'ready')
        self.await_like(child, 'version = 2.1.0', lambda: os.kill(pid, signal.SIGUSR2))


def handles(pid):
    """Return whether a process has its own handler: a fresh child of gunicorn still has all of its master's."""
    with contextlib.suppress(OSError), open(f'/proc/{pid}/status') as stream:
        caught = int(re.search(r'SigCgt:\s*(\w+)', stream.read())[1], 16)
        return bool(caught >> (signal.SIGUSR2 - 1) & 1) and not caught >> (signal.SIGCHLD - 1) & 1
    return False


def children_of(pid):
    with open(f'/proc/{pid}/task/{pid}/children') as stream:
        return list(map(int, stream.read().split()))


class RecipeTest(ManualTestCase):
    """The recipes of the manual, each on the real thing where it is installed."""

    APP = """
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
        self.port = free_port()
        self.write('app.py', self.APP)

    def page(self):
        with contextlib.suppress(OSError), urllib.request.urlopen(f'http://127.0.0.1:{self.port}/', timeout=5) as page:
            return re.search(b'here|<html', page.read())

    def reported(self, child):
        return set(map(int, re.findall(r'^(?:\[.*\] )?Process (\d+) \(under', child.text(), re.MULTILINE)))

    def serve(self, start, workers=0, **env):
        """Start a service, and return it when so many of its workers can be signalled, and a page comes."""
        child, pid = self.background(f'{start} &', **env)
        self.until(lambda: sum(map(handles, children_of(pid))) >= workers, 'its workers', child)
        self.until(lambda: self.page() or 'celery' in start, 'a page', child)
        return child, pid

    def check(self, child, pids, ask=()):
        """Ask, and wait until each of these processes has reported; all of them still run."""
        pids = list(pids)
        self.assertEqual(self.reported(child), set())
        for line in ask or [f'kill -USR2 {pid}' for pid in pids]:
            self.output(line)
        self.until(lambda: self.reported(child) >= set(pids), 'a report of each', child)
        self.assertTrue(all(map(handles, pids)), child.text())

    def check_watched(self, child, pids, ask):
        """Touch the watched file until each of these processes has reported."""
        self.ask_until(lambda: self.reported(child) >= pids, f'reports of {pids}', child, lambda: self.output(ask))

    def redis(self):
        """Start a broker and return its URL."""
        port = free_port()
        self.background(f'redis-server --port {port} --bind 127.0.0.1 --save "" &')
        return f'redis://127.0.0.1:{port}/0'

    @runs('python3 gmr.py --watch-file')
    def test_a_touched_file(self, commands):
        gunicorn, celery, ask = commands.strip().split('\n')
        self.write('tasks.py', f'import celery\napp = celery.Celery("tasks", broker="{self.redis()}")\n')
        for start in (gunicorn, celery):
            with self.subTest(start):
                child, pid = self.serve(start, GUNICORN_CMD_ARGS=f'--bind 127.0.0.1:{self.port}')
                self.until(lambda pid=pid: len(children_of(pid)) == 2, 'two workers', child)
                self.check_watched(child, {pid, *children_of(pid)}, ask)
                self.assertTrue(start == celery or self.page())
                self.stop(child, pid)

    @runs(r'import gmr\nfrom django')
    def test_django(self, lines):
        self.output('python3 -m django startproject shop .')
        for name, indent in (('manage.py', '    '), ('shop/wsgi.py', '')):
            self.write('lines', textwrap.indent(lines, indent))
            self.output(f'sed -i "/^ *os.environ.setdefault/r lines" {name}')
        server = f'python3 manage.py runserver --noreload 127.0.0.1:{self.port}'
        for command in (server, f'gunicorn --bind 127.0.0.1:{self.port} shop.wsgi'):
            with self.subTest(command):
                child, pid = self.serve(command)
                self.check(child, [pid] if command == server else children_of(pid))
                self.assertRegex(child.text(), r'\n  SECRET_KEY = \*\*\*\n')
                self.stop(child, pid)

    @runs(r'import gmr\n\ngmr.setup_autorun\(service_name')
    def test_pytest(self, lines):
        wait = "while not os.path.exists('go'):\n        time.sleep(0.05)"
        test = f'def test_slow():\n    os.kill(os.getpid(), signal.SIGUSR2)\n    {wait}\n    assert False\n'
        self.write('test_slow.py', f'import os, signal, time\n{test}')
        self.write('conftest.py', lines.replace('/tmp', self.folder))
        child, _ = self.background('python3 -m pytest test_slow.py &')
        self.until(lambda: self.files('tests'), 'a file, while the test hangs', child)
        self.assertNotIn('Guru Meditation', child.text())
        self.write('conftest.py', lines.replace(", log_dir='/tmp'", ''))
        child, _ = self.background('python3 -m pytest -s test_slow.py &')
        child.wait_for(lambda: b'No configuration was given' in child.err, 'a report, while the test hangs')
        self.write('go', '')
        output = self.output('python3 -m pytest test_slow.py || true')
        self.assertRegex(output, r'- Captured stderr call -+\n=+\n==== +Guru Meditation ')

    @runs('def post_worker_init', 'gunicorn ')
    def test_gunicorn(self, hook, commands):
        start, ask = commands.strip().split('\n')
        self.write('gunicorn.conf.py', hook)
        kinds = ['sync', 'gthread'] + ['gevent'] * installed('gevent')
        for options in (*(f'--worker-class {kind}' for kind in kinds), '--preload'):
            with self.subTest(options):
                child, pid = self.serve(start, 2, GUNICORN_CMD_ARGS=f'{options} --bind 127.0.0.1:{self.port}')
                self.check(child, children_of(pid), [ask])
                self.assertTrue(self.page())
                self.stop(child, pid)

    @runs('uvicorn ')
    def test_uvicorn(self, commands):
        start, ask = commands.strip().split('\n')
        self.write('app.py', self.APP + "import gmr\ngmr.setup_autorun('2.1.0')\n")
        child, pid = self.serve(start, 2, UVICORN_PORT=self.port)
        self.check(child, filter(handles, children_of(pid)), [ask.replace('PID', str(pid))])
        self.assertTrue(self.page())
        self.stop(child, pid)

    @runs('@celery', 'celery ')
    def test_celery(self, hook, commands):
        start, *ask = commands.strip().split('\n')
        app = f'app = celery.Celery("tasks", broker="{self.redis()}")'
        self.write('tasks.py', f'import celery, celery.signals, gmr\n{app}\n{hook}')
        child, pid = self.serve(start, 2)
        self.until(lambda: handles(pid), 'the main process', child)
        self.check(child, [pid, *children_of(pid)], [line.replace('PID', str(pid)) for line in ask])
        self.stop(child, pid)

    @runs('@uwsgi', 'uwsgi ')
    def test_uwsgi(self, hook, commands):
        start, ask = commands.strip().split('\n')
        self.write('app.py', f'import gmr, uwsgidecorators\n{self.APP}\n{hook}')
        child, pid = self.serve(start.replace('8000', self.port) + ' --die-on-term')
        self.until(lambda: len(children_of(pid)) == 2, 'two workers', child)
        self.check_watched(child, set(children_of(pid)), ask)
        self.assertTrue(self.page())
        self.stop(child, pid)

    @runs('gmr.setup_autorun')
    def test_mod_wsgi(self, line):
        watched = self.write('report-please', '')
        self.write('app.wsgi', 'import gmr\n' + line.replace('/run/shop/report-please', watched) + self.APP)
        config = f"""
            LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
            LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
            LoadModule wsgi_module /usr/lib/apache2/modules/mod_wsgi.so
            ServerName localhost
            Listen 127.0.0.1:{self.port}
            PidFile httpd.pid
            DefaultRuntimeDir {self.folder}
            ErrorLog /dev/stderr
            WSGISocketPrefix wsgi
            WSGIDaemonProcess shop processes=2 threads=5 python-path={self.folder}
            WSGIScriptAlias / {self.folder}/app.wsgi process-group=shop application-group=%{{GLOBAL}}
            """
        self.write('httpd.conf', config + ('User www-data\nGroup www-data\n' if os.geteuid() == 0 else ''))
        child, pid = self.serve(f'/usr/sbin/apache2 -d {self.folder} -f httpd.conf -DFOREGROUND')
        self.ask_until(lambda: len(self.reported(child)) == 2, 'two reports', child, lambda: self.write(watched, ''))
        self.assertTrue(self.page())
        self.stop(child, pid)

    @runs('def set_up', 'kill ')
    def test_multiprocessing(self, program, commands):
        commands = commands.strip().split('\n')
        for method in ('fork', 'spawn', 'forkserver'):
            with self.subTest(method):
                text = f'import multiprocessing, os, signal, time\nimport gmr\n{program}'.replace('spawn', method)
                text += "    print('workers', *(child.pid for child in pool._pool), flush=True)\n    time.sleep(3600)\n"
                self.write('shop.py', text)
                child, pid = self.background('python3 shop.py &')
                child.wait_for(lambda child=child: re.search(rb'workers .*\n', child.out), 'the workers')
                pids = [pid, *map(int, re.search(rb'workers (.*)\n', child.out)[1].split())]
                self.until(lambda pids=pids: all(map(handles, pids)), 'all set up', child)
                ask = [line.replace('PID', str(pid)) for line in commands[: 3 if method == 'forkserver' else 2]]
                self.check(child, pids, ask)
                self.assertNotIn('died unexpectedly', child.text())
                self.stop(child, pid, signal.SIGKILL)  # its workers find their pipe closed

    @runs('systemctl ')
    def test_systemd(self, commands):  # with stand-ins that do what the real ones did
        child, pid = self.program('shop.py', WAITING)
        self.command('systemctl', f'[ "$*" = "kill --signal=USR2 --kill-whom=main shop" ] && kill -USR2 {pid}')
        self.command('journalctl', '[ "$*" = "-u shop -o cat" ]')
        self.check(child, [pid], [commands])

    @runs('docker ')
    def test_container(self, commands):  # in a pid namespace; the commands are stand-ins
        self.write('shop.py', WAITING)
        for command in commands.strip().split('\n'):
            with self.subTest(command):
                child, pid = self.background(f'{UNSHARE} python3 shop.py &')
                child.wait_for(lambda child=child: b'ready' in child.out, 'ready')
                (first,) = children_of(pid)
                enter = f'nsenter --preserve-credentials --user --pid --target {first} "$@"'
                kill = f'[ "$*" = "kill --signal USR2 shop" ] && kill -USR2 {first}'
                self.command('docker', f'case "$1 $2" in "exec shop") shift 2; {enter};; *) {kill};; esac')
                self.command('kubectl', f'[ "$1 $2 $3" = "exec POD --" ] && shift 3 && {enter}')
                self.output(command)
                child.wait_for(lambda child=child: b'version = 2.1.0' in child.err, 'a report')
                self.stop(child, first, signal.SIGKILL)

    @runs('import os')
    def test_jupyter(self, cell):
        front = f"""
import os, re, signal, threading
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel()
def run(code):
    found = []
    client.execute_interactive(code, output_hook=lambda message: found.append(message['content']), timeout={DEADLINE})
    return ''.join(one.get('text') or one.get('data', {{}}).get('text/plain', '') for one in found)
pid = int(run({cell!r}))
threading.Timer(2, os.kill, (pid, signal.SIGUSR2)).start()
text = run('import time\\ndef slow():\\n    time.sleep(4)\\nslow()')
assert 'version = notebook' in text and 'in slow\\n' in text, text
assert run('6 * 7') == '42'
manager.shutdown_kernel(now=True)
"""
        self.output(f'python3 {self.write("front.py", front)}')


CELERY = installed('celery') and installed('redis') and bool(shutil.which('redis-server'))
UNSHARE = 'unshare --user --map-root-user --pid --fork --kill-child'
NEEDS = {
    'test_a_touched_file': installed('gunicorn') and CELERY,
    'test_gunicorn': installed('gunicorn'),
    'test_uvicorn': installed('uvicorn'),
    'test_django': installed('django') and installed('gunicorn'),
    'test_pytest': installed('pytest'),
    'test_celery': CELERY,
    'test_uwsgi': os.path.exists(os.path.join(os.path.dirname(sys.executable), 'uwsgi')),
    'test_mod_wsgi': os.path.exists('/usr/lib/apache2/modules/mod_wsgi.so'),
    'test_multiprocessing': bool(shutil.which('pkill')),
    'test_container': bool(shutil.which('nsenter'))
    and not subprocess.run([*UNSHARE.split(), 'true'], stderr=-3).returncode,
    'test_jupyter': installed('ipykernel') and installed('jupyter_client'),
}
for name in [name for name in NEEDS if not NEEDS[name]]:
    delattr(RecipeTest, name)


if __name__ == '__main__':
    unittest.main()
