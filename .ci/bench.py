"""What a report costs, beside its peer and beside what CPython itself needs.

    python .ci/bench.py [WORK...]

Every number is the first report of a fresh process: nobody asks five times. It is the median of five processes, or of
as many as fit into PATIENCE seconds. The peer is oslo.reports if it is installed; else the naive way, which formats
every stack with the traceback module. The floor is what CPython needs for the same: gc.get_objects(), and one
uninterrupted pass over every chain of frames. How long the program is held is measured by the program itself, around
the signal. Nothing here fails on a number: machines are noisy.
"""

import importlib.util
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OSLO = importlib.util.find_spec('oslo_reports') is not None
PATIENCE = 20.0

SUBJECTS = r"""
import gc, itertools, operator, os, sys, threading, time

def chain_of(depth, last):
    names = {'last': last}
    source = 'def f0(k):\n last()\n' + ''.join(
        f'def f{n}(k):\n if k & 1:\n  f{n - 1}(k >> 1)\n else:\n  f{n - 1}(k >> 1)\n' for n in range(1, depth))
    exec(compile(source, '/nonexistent/bench.py', 'exec'), names)
    return names[f'f{depth - 1}']

def greenlets(count, depth, different):
    import functools, greenlet
    top = chain_of(depth, lambda: greenlet.getcurrent().parent.switch())
    kept = [greenlet.greenlet(functools.partial(top, n if different else 0)) for n in range(count)]
    for one in kept:
        one.switch()
    return kept

def threads(count, depth):
    done, started = threading.Event(), threading.Semaphore(0)
    def last():
        started.release()
        done.wait()
    top = chain_of(depth - 6, last)
    for n in range(count):
        threading.Thread(target=top, args=(0,), daemon=True).start()
    for n in range(count):
        started.acquire()
    time.sleep(0.2)

def objects(count):
    import greenlet
    return greenlet.greenlet(), [[] for n in range(count)]
"""

METHODS = {
    'gmr': """
import gmr
report = gmr.TextGuruMeditation('1.0').run
""",
    'oslo.reports': """
from oslo_reports import guru_meditation_report
class Version: pass
report = guru_meditation_report.TextGuruMeditation(Version()).run
""",
    'naive': """
import traceback
def report():
    stacks = [traceback.format_stack(frame) for frame in sys._current_frames().values()]
    if 'greenlet' in sys.modules:
        kind = sys.modules['greenlet'].greenlet
        stacks += [traceback.format_stack(o.gr_frame) for o in gc.get_objects() if isinstance(o, kind) and o.gr_frame]
    return ''.join(itertools.chain.from_iterable(stacks))
""",
    'floor': """
def report():
    pair = operator.attrgetter('f_code', 'f_lineno')
    tops = list(sys._current_frames().values())
    if 'greenlet' in sys.modules:
        kind = sys.modules['greenlet'].greenlet
        gc.get_objects()
        tops += [one.gr_frame for one in (subject if isinstance(subject, list) else []) if type(one) is kind]
    for top in tops:
        tuple(map(pair, itertools.takewhile(bool, itertools.accumulate(itertools.repeat('f_back'), getattr, initial=top))))
""",
    'gc.get_objects()': """
report = gc.get_objects
""",
}

# work: (what makes the subject, what it is measured against, the ratio to reach)
PEER = 'oslo.reports' if OSLO else 'naive'
WORKS = {
    '10,000 greenlets, 12 frames, one stack': ('greenlets(10_000, 12, False)', PEER, 'at least 250'),
    '10,000 greenlets, 16 frames, 10,000 stacks': ('greenlets(10_000, 16, True)', PEER, 'at least 80'),
    '200 threads, 12 frames': ('threads(200, 12)', PEER, 'at least 50'),
    '3,000,000 containers, one greenlet': ('objects(3_000_000)', PEER, 'more than 1'),
    '3,000,000 containers against gc.get_objects()': ('objects(3_000_000)', 'gc.get_objects()', 'at least 1/7'),
    'a small process': ('None', PEER, 'at least 5'),
}
# How long the signal holds the program: what the subject is, and what is done before.
HELD = {
    'held by a small process': ('None', ''),
    'held by 10,000 greenlets': ('greenlets(10_000, 12, False)', ''),
    'held by 200 threads': ('threads(200, 12)', ''),
    'held by a section that hangs': ('None', "gmr.register_section('Stuck', lambda: time.sleep(600))"),
    'held by a full stderr': (
        'None',
        'fill = os.pipe(); os.dup2(fill[1], 2); os.set_blocking(2, False)\ntry:\n while True: os.write(2, b"x" * 4096)\nexcept BlockingIOError: os.set_blocking(2, True)',
    ),
    'held by a configuration that never answers': (
        'None',
        'silent = []\nclass Conf(dict):\n def items(self): return silent and time.sleep(600) or dict.items(self)\n'
        ' def __getitem__(self, key): return silent and time.sleep(600)\nconf = Conf(a=1)',
    ),
}
HOLDING = """
import gmr, signal
conf = None
{before}
gmr.setup_autorun('1.0', conf=conf)
silent = globals().get('silent', [])
silent.append(True)
gc.collect()
start = time.perf_counter()
os.kill(os.getpid(), signal.SIGUSR2)
print(time.perf_counter() - start, flush=True)
os._exit(0)
"""
TIMED = """
gc.collect()
start = time.perf_counter()
report()
print(time.perf_counter() - start)
"""


def python(code, **more):
    """Return what a fresh interpreter prints."""
    environment = dict(os.environ, PYTHONPATH=HERE, PYTHONWARNINGS='ignore')
    environment.pop('PYTHONUNBUFFERED', None)
    environment.pop('PYTHONDONTWRITEBYTECODE', None)  # a module is compiled once, not at each start
    environment.update(more)
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    run = subprocess.run([sys.executable, '-c', code], env=environment, stdout=pipe, stderr=null, check=True, text=True)
    return run.stdout.split()


def medians(*codes, **more):
    """Return the median of what five fresh interpreters print for each code, or of those that PATIENCE allows.

    They take turns: a machine that is slower for some seconds is that for all that is compared.
    """
    values, spent = [[] for _ in codes], [0.0 for _ in codes]
    for _ in range(5):
        for n, code in enumerate(codes):
            if spent[n] < PATIENCE:
                start = time.monotonic()
                values[n].append(float(python(code, **more)[-1]))
                spent[n] += time.monotonic() - start
    return list(map(statistics.median, values))


def median(code, **more):
    return medians(code, **more)[0]


def milliseconds(seconds):
    return f'{seconds * 1000:,.1f} ms'


def line(*cells):
    print(f'{cells[0]:<48}{cells[1]:>13}{cells[2]:>15}{cells[3]:>9}  {cells[4]:<14}{cells[5]:>12}{cells[6]:>9}')


def table(wanted):
    line('work', 'gmr', PEER, 'ratio', 'to reach', 'floor', 'x floor')
    for name, (subject, peer, goal) in WORKS.items():
        if wanted and not any(word in name for word in wanted):
            continue
        codes = (f'{SUBJECTS}\nsubject = {subject}\n{METHODS[method]}\n{TIMED}' for method in ('gmr', peer, 'floor'))
        ours, other, floor = medians(*codes)
        ratio = f'{other / ours:,.1f}' if other > ours else f'1/{ours / other:.1f}'
        line(name, milliseconds(ours), milliseconds(other), ratio, goal, milliseconds(floor), f'{ours / floor:.1f}')
    for name, (subject, before) in HELD.items():
        if not wanted or any(word in name for word in wanted):
            seconds = median(f'{SUBJECTS}\nsubject = {subject}\n{HOLDING.format(before=before)}')
            line(name, milliseconds(seconds), '', '', 'at most 1.1 s', '', '')
    if not wanted:
        starts()
        growth()


def starts():
    """Print the cost of the import and of being there."""
    clock = 'import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)'
    peer = 'import oslo_reports.guru_meditation_report' if OSLO else 'import traceback'
    ours, other = medians(clock.format('import gmr'), clock.format(peer))
    line('import', milliseconds(ours), milliseconds(other), f'{other / ours:,.1f}', 'at least 10', '', '')
    with tempfile.TemporaryDirectory() as copy:  # where nobody has written bytecode of it; the peer's is there
        shutil.copy(os.path.join(HERE, 'gmr.py'), copy)
        ours = median(clock.format('import gmr'), PYTHONDONTWRITEBYTECODE='1', PYTHONPATH=copy)
    line(
        'import without a bytecode cache',
        milliseconds(ours),
        milliseconds(other),
        f'{other / ours:,.1f}',
        'at least 6',
        '',
        '',
    )
    rest = '{}; print(open("/proc/self/statm").read().split()[1])'
    pages = [median(rest.format(code)) for code in ('pass', 'import gmr; gmr.setup_autorun("1.0")')]
    more = (pages[1] - pages[0]) * resource.getpagesize() / 2**20
    line('memory at rest, over a bare interpreter', f'{more:.2f} MiB', '', '', 'at most 2', '', '')


def growth():
    """Print the time and the memory that each greenlet costs, once a first report has made the frame objects."""
    twice = """
report()
times = []
for n in range(7):
    start = time.perf_counter()
    report()
    times.append(time.perf_counter() - start)
print(sorted(times)[3])
"""
    memory = 'import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)'
    for count in (1_000, 10_000, 100_000):
        code = f'{SUBJECTS}\nsubject = greenlets({count}, 12, False)\n{METHODS["gmr"]}\n'
        small = f'{SUBJECTS}\nsubject = greenlets(10, 12, False)\n{METHODS["gmr"]}\n{twice}'
        each = (median(code + twice) - median(small)) / count
        peak = (median(code + 'report(); ' + memory) - median(code + memory)) / count
        cells = f'{each * 1e6:.2f} us', '', '', 'even', f'{peak:.2f} KiB', ''
        line(f'each of {count:,} greenlets, again; and memory', *cells)


if __name__ == '__main__':
    print(f'CPython {platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores')
    print(f'peer: {PEER}' + ('' if OSLO else ' (oslo.reports is not installed)'))
    table(sys.argv[1:])
