"""``elasticdl zoo``: images of model zoos, for jobs of pods."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from elasticdl.api.commands import Command
from elasticdl.api.parser import Parser, add_switch
from elasticdl.errors import UsageError
from elasticdl.job_spec import OPTIONS, absolute_path, elasticdl_home, machine_value, option_value

_INIT = "write what an image of a model zoo begins with: Dockerfile and requirements.txt"
_BUILD = "build an image of a model zoo"
_PUSH = "push an image that was built, and print its digest"
_DOCKERFILE = """\
# What images of this zoo begin with; ElasticDL, requirements.txt and the zoo come on top of it.
# Files of the zoo are in zoo/ here: COPY zoo/setup.sh /tmp/
FROM {base_image}
# RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1
"""
_REQUIREMENTS = """\
# What the models import beside ElasticDL, TensorFlow and Keras, a line each: pandas>=2
"""
_EXAMPLE = "registry.example.com/team/models:1"


def _parser(name: str, summary: str, usage: str, examples: list[str]) -> Parser:
    parser = Parser(f"zoo {name}", f"{summary[0].upper()}{summary[1:]}.", usage, examples)
    parser.add_argument("-h", "--help", action="help", help="show this and exit")
    add_switch(parser, "debug", "show this package's own traceback when something fails")
    return parser


def _add_base_image(parser: Parser) -> None:
    one = OPTIONS["base_image"]
    parser.add_argument(
        "--base_image", metavar=one.metavar, default=argparse.SUPPRESS, help=one.description
    )


def _base_image(given: dict[str, str]) -> str:
    if "base_image" in given:
        return str(option_value("base_image", given["base_image"], "--"))
    return str(machine_value("base_image"))


def _init(words: Sequence[str]) -> None:
    parser = _parser("init", _INIT, "[DIR] [--base_image=IMAGE]", ["elasticdl zoo init my_zoo"])
    parser.add_argument(
        "directory", metavar="DIR", nargs="?", default=".", help="the zoo (default: this directory)"
    )
    _add_base_image(parser)
    given = vars(parser.parse(words))
    directory = Path(given["directory"])
    texts = {
        "Dockerfile": _DOCKERFILE.format(base_image=_base_image(given)),
        "requirements.txt": _REQUIREMENTS,
    }
    if (directory / "Dockerfile").exists():
        raise UsageError(f"'{directory / 'Dockerfile'}' is there already; edit it, or remove it")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            if not (directory / name).exists():
                (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"DIR '{directory}': cannot be written: {error.strerror}") from None
    print(f"{directory}: Dockerfile, requirements.txt")
    print(f"next: elasticdl zoo build {directory} --image={_EXAMPLE}")


def _build(words: Sequence[str]) -> None:
    parser = _parser(
        "build",
        _BUILD,
        "DIR|URL[@REF] --image=IMAGE [--base_image=IMAGE]",
        [
            f"elasticdl zoo build my_zoo --image={_EXAMPLE}",
            f"elasticdl zoo build https://git.example.com/models@v1 --image={_EXAMPLE}",
        ],
    )
    parser.add_argument("zoo", metavar="DIR|URL[@REF]", help=OPTIONS["model_zoo"].description)
    parser.add_argument(
        "--image", metavar="IMAGE", default=argparse.SUPPRESS, help="what it is called"
    )
    _add_base_image(parser)
    given = vars(parser.parse(words))
    if "image" not in given:
        raise UsageError(f"`zoo build` needs --image; e.g. --image={_EXAMPLE}")
    image = option_value("image", given["image"], "--")

    from elasticdl.api.image.build import build_local_image
    from elasticdl.api.image.context import zoo_in_image
    from elasticdl.model.zoo_sources import resolve_zoo

    zoo = resolve_zoo(absolute_path(given["zoo"]), elasticdl_home())
    if not zoo.directory.is_dir():
        raise UsageError(f"'{given['zoo']}': no such directory; give that of the models' files")
    build_local_image(zoo, image, _base_image(given))
    print(f"built {image}")
    print(
        f"next: elasticdl zoo push {image}, "
        f"then train with --image={image} --model_zoo={zoo_in_image(zoo)}"
    )


def _push(words: Sequence[str]) -> None:
    parser = _parser("push", _PUSH, "IMAGE", [f"elasticdl zoo push {_EXAMPLE}"])
    parser.add_argument("image", metavar="IMAGE", help="as it was built")
    given = vars(parser.parse(words))

    from elasticdl.api.image.build import push_image

    push_image(option_value("image", given["image"], "IMAGE: "))


COMMANDS = [
    Command(("zoo", "init"), _INIT, _init),
    Command(("zoo", "build"), _BUILD, _build),
    Command(("zoo", "push"), _PUSH, _push),
]
