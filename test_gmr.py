"""Tests of gmr.py. Each is named for a promise; signals go to real processes, after a handshake."""

# SPDX-License-Identifier: Apache-2.0

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import types
import unittest

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
import gc, os, signal, sys, threading, time
import gmr

def ready():
    os.write(1, b'ready\\n')

def hold():
    os.write(1, b'ready\\n')
    while os.read(0, 1) == b'+':
        pass

def setup(*args, **kwargs):
    gmr.setup_autorun(*args, **kwargs)
    gmr.register_section('The End', lambda: 'of the report')

"""
END = '====                            The End                             ====\n' + '=' * 72 + '\nof the report\n'


def installed(*names):
    return all(importlib.util.find_spec(name) for name in names)


class Child:
    """A process that runs PRELUDE and a body, its output collected by threads, its end certain."""

    def __init__(self, body, *, options=(), stderr=subprocess.PIPE, cwd=None, limits=None, first='', **env):
        environment = {k: v for k, v in os.environ.items() if k not in ('PYTHONUNBUFFERED', 'PYTHONPATH', 'TMPDIR')}
        environment.update(PYTHONPATH=HERE, PYTHONWARNINGS='ignore', **env)
        command = [sys.executable, *options, '-c', first + '\n' + PRELUDE + textwrap.dedent(body)]
        self.process = subprocess.Popen(
            command,
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


class Timeouts(unittest.TestCase):
    """Sections time out fast."""

    def setUp(self):
        before = gmr.GuruMeditation.section_timeout
        gmr.GuruMeditation.section_timeout = 0.3
        self.addCleanup(setattr, gmr.GuruMeditation, 'section_timeout', before)


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
            r'web, native id \d+, running, .*\n(.*\n)*.*in health_endpoint\n.*\.run\(\)\)`\n\n$',
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
        text = re.sub(r'native id \d+, interrupted, \d\.\d\d s cpu', 'native id 2, interrupted, 0.01 s cpu', text)
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

MainThread, native id 2, interrupted, 0.01 s cpu

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
            (['a', 1, ['b', 'c']], 'a\n1\n[list]\n  b\n  c'),
            ({'a': [{'b': 1}]}, 'a =\n  [dict]\n    b = 1'),
            ((n * n for n in range(3)), '0\n1\n4'),
            (b'bytes', 'bytes'),
            (float('nan'), 'nan'),
            (10**5000, hex(10**5000)),
        ):
            with self.subTest(shown[:20]):
                self.assertEqual(report_on(value), shown)

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
        self.assertRegex(bodies[0], r'^\nMainThread, native id \d+, interrupted, \d+\.\d\d s cpu\n')
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

    @unittest.skipUnless(sys.version_info >= (3, 10), 'sys._current_exceptions() is new in 3.10')
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
                setup('1')
                ready()
                while not os.read(0, 1) == b'':
                    pass
            """,
                    **options,
                )
            )
            self.assertRegex(report['Green Threads'], r'3 Green Threads(.*\n)+?.* in deep\n')
            self.assertEqual(report['Threads'].count('Thread #'), 1)
            self.assertIn('MainThread', report['Threads'])
            self.assertEqual(report['Lock'], 'True\n')

        def test_patched_before_gmr_is_imported(self):
            self.check(first=patch)

        def test_patched_after_gmr_is_imported(self):
            self.check(patch)

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


if installed('gevent'):
    GeventTest = patched_tests('import gevent.monkey; gevent.monkey.patch_all()')
if installed('eventlet'):
    EventletTest = patched_tests(
        'import warnings; warnings.simplefilter("ignore"); import eventlet; eventlet.monkey_patch()'
    )


if __name__ == '__main__':
    unittest.main()
