"""``elasticdl kubernetes``: what a cluster is told once, before jobs are submitted to it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from elasticdl.api.commands import Command
from elasticdl.api.parser import Parser, add_switch
from elasticdl.job_spec import OPTIONS, option_value

_SUMMARY = "print the roles that masters and whoever submits jobs have in a namespace, as YAML"


def _rbac(words: Sequence[str]) -> None:
    parser = Parser(
        "kubernetes rbac",
        f"{_SUMMARY[0].upper()}{_SUMMARY[1:]}.",
        "--namespace=NAME [--service_account=NAME] [--submitter=USER]",
        [
            "elasticdl kubernetes rbac --namespace=training | kubectl apply -f -",
            "elasticdl kubernetes rbac --namespace=training --submitter=ada | kubectl apply -f -",
        ],
    )
    for name in ("namespace", "service_account"):
        one = OPTIONS[name]
        parser.add_argument(
            f"--{name}", metavar=one.metavar, default=argparse.SUPPRESS, help=one.description
        )
    parser.add_argument(
        "--submitter",
        metavar="USER",
        default=argparse.SUPPRESS,
        help="user of the cluster who may submit jobs (default: nobody is named)",
    )
    parser.add_argument("-h", "--help", action="help", help="show this and exit")
    add_switch(parser, "debug", "show this package's own traceback when something fails")
    given = vars(parser.parse(words))

    import yaml

    from elasticdl.master.cluster.kubernetes.rbac import rbac_objects

    place = {name: OPTIONS[name].default for name in ("namespace", "service_account")}
    place |= {name: option_value(name, given[name], "--") for name in place if name in given}
    objects = rbac_objects(**place, user=given.get("submitter", ""))
    print(yaml.safe_dump_all(objects, sort_keys=False), end="")


COMMANDS = [Command(("kubernetes", "rbac"), _SUMMARY, _rbac)]
