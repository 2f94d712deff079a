"""Options under the heading Display: what a person sees of a job."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from elasticdl.job_options.commands import COMMANDS, JOB
from elasticdl.options import option


class DisplayOptions(BaseModel):
    """What a person sees of a job."""

    print_json: bool = option(
        False,
        "print the result as JSON on stdout, and nothing else there",
        group="Display",
        commands=COMMANDS,
        metavar="true|false",
        example="true",
        alias="json",
    )

    json_events: bool = option(
        False,
        "print what happens as JSON on stdout, an object a line, the result last",
        group="Display",
        commands=JOB,
        metavar="true|false",
        example="true",
    )

    quiet: bool = option(
        False,
        "show no progress",
        group="Display",
        commands=COMMANDS,
        metavar="true|false",
        example="true",
        also=("silent",),
    )

    debug: bool = option(
        False,
        "show this package's own traceback when something fails",
        group="Display",
        commands=COMMANDS,
        metavar="true|false",
        example="true",
        also=("traceback", "verbose"),
    )

    profile: bool = option(
        False,
        "write a table and a trace of where the time goes into the job's directory",
        group="Display",
        commands=JOB,
        metavar="true|false",
        example="true",
    )

    dashboard: bool = option(
        True,
        "serve a page that shows the job while it runs, at the URL that is printed",
        group="Display",
        commands=JOB,
        metavar="true|false",
        example="false",
        also=("ui", "web"),
    )

    dashboard_host: str = option(
        "127.0.0.1",
        "address of this machine that the page is served at; 0.0.0.0: all of them, for everybody "
        "who can reach this machine",
        group="Display",
        commands=JOB,
        metavar="HOST",
        example="127.0.0.1",
        also=("host",),
        min_length=1,
        max_length=255,
    )

    dashboard_port: int = option(
        0,
        "port that the page is served at; 0: any that is free",
        group="Display",
        commands=JOB,
        metavar="PORT",
        example="8000",
        also=("port",),
        ge=0,
        le=65_535,
    )

    tensorboard: bool = option(
        False,
        "run TensorBoard while the job trains, and print its URL",
        group="Display",
        commands=("train",),
        metavar="true|false",
        example="true",
        also=("tb",),
    )

    metrics: bool = option(
        False,
        "each worker and parameter server serves /metrics of its own, too, on this machine; the "
        "dashboard has those of all",
        group="Display",
        commands=JOB,
        metavar="true|false",
        example="true",
        also=("prometheus",),
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = option(
        "INFO",
        "least important lines that go to the instances' logs",
        group="Display",
        commands=JOB,
        metavar="LEVEL",
        example="INFO",
    )

    log_mb: int = option(
        16,
        "size in MiB at which an instance's log is set aside; 4 older ones are kept",
        group="Display",
        commands=JOB,
        metavar="N",
        example="16",
        ge=1,
        le=1 << 20,
    )
