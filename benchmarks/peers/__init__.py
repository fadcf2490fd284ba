"""What the benchmarks beside other trainers share: planted graphs, curves, and adapters that run in other environments.

The files named ``run_*.py`` are run by the interpreter of an environment that has the peer; they import nothing of this
repository.  Each takes a folder with ``task.json`` and its arrays, and leaves ``result.json`` and its arrays there.
"""
