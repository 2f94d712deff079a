"""Found by the processes of a job that a test gives this directory as PYTHONPATH.

Its masters keep their journal as those in pods do: in a directory of their own, whose mirror is at
a store. The directory is the job's, so that all others find the journal where they look for it.
"""

import dataclasses
import os
import sys

if "elasticdl.master" in sys.orig_argv:
    from elasticdl import instance
    from elasticdl.master import journal_mirror

    parse = instance.parse_arguments
    instance.parse_arguments = lambda role: dataclasses.replace(
        (given := parse(role)), state=given.spec.job_dir
    )
    journal_mirror.root_of = lambda job_dir: os.environ["MIRROR"]
