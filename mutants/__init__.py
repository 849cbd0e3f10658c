"""`make mutants`: how many small changes to core code the tests notice.

`changes.py` lists the changes, `rooms.py` says in which files and with which tests, `sample.py` draws some of them,
`reach.py` finds out which tests run which line, `forked.py` runs tests in a child of a process that has imported the
slow packages already, `__main__.py` goes through the sample and `report.py` writes docs/results/mutants.md. Not part
of CI.
"""
