"""Distribution of gmr.py, the Guru Meditation Report in one file."""

import ast
import pathlib

from setuptools import setup

HERE = pathlib.Path(__file__).parent
# Read, not imported: a build must not run the module.
VERSION = next(
    ast.literal_eval(node.value)
    for node in ast.parse((HERE / 'gmr.py').read_text(encoding='utf-8')).body
    if isinstance(node, ast.Assign) and node.targets[0].id == '__version__'
)

setup(
    name='guru-meditation',
    version=VERSION,
    description='The report that a sick Python process gives of itself: threads, tasks, greenlets, configuration',
    long_description=(HERE / 'README.rst').read_text(encoding='utf-8'),
    long_description_content_type='text/x-rst',
    license='Apache-2.0',
    py_modules=['gmr'],
    python_requires='>=3.9',
    extras_require={'test': ['greenlet']},
    classifiers=[
        'Development Status :: 5 - Production/Stable',
        'Environment :: Web Environment',
        'Intended Audience :: Developers',
        'Intended Audience :: System Administrators',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: Implementation :: CPython',
        'Topic :: Software Development :: Debuggers',
        'Topic :: System :: Monitoring',
    ],
)
