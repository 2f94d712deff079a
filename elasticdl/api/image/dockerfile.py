"""The Dockerfile of an image: layers of which each changes less often than the next one."""

from __future__ import annotations

from shlex import quote

from elasticdl.pod_options import parse_user

DEPENDENCIES = "dependencies.txt"
CONSTRAINTS = "constraints.txt"
REQUIREMENTS = "requirements"
PACKAGE = "package"
ZOO = "zoo"
"""Files and directories of the context."""
USER = "10001:10001"
_INSTALL = "python3 -m pip install --no-cache-dir --root-user-action=ignore"
# With its dependencies, tf-keras would bring in TensorFlow's other distribution.
_TF_KERAS = f"""\
RUN if python3 -c 'import importlib.util as i; exit(not i.find_spec("tensorflow"))'; then \\
      {_INSTALL} --no-deps "tf-keras==$(python3 -c \\
      'from importlib.metadata import version as v, packages_distributions as p; \\
      print(*v(p()["tensorflow"][0]).split(".")[:2], "*", sep=".")')"; fi"""


def dockerfile(beginning: str, requirements: list[str], target: str) -> str:
    """Write the Dockerfile of an image.

    Args:
      beginning: its first lines: ``FROM``, and what a zoo's own Dockerfile adds.
      requirements: the zoo's requirements files, below `REQUIREMENTS` of the context.
      target: where the image has the zoo.
    """
    user, group = parse_user(USER)
    steps = [
        beginning.rstrip(),
        "USER root",
        # What the system's own pip asks for where Python is the system's; others do not know it.
        "ARG PIP_BREAK_SYSTEM_PACKAGES=1",
        "ARG PIP_DISABLE_PIP_VERSION_CHECK=1",
        f"COPY {DEPENDENCIES} {CONSTRAINTS} /opt/elasticdl/",
        f"RUN {_INSTALL} -r /opt/elasticdl/{DEPENDENCIES}",
        _TF_KERAS,
    ]
    if requirements:
        paths = [quote(f"/opt/elasticdl/{REQUIREMENTS}/{name}") for name in requirements]
        files = " ".join(f"-r {path}" for path in paths)
        steps += [
            f"COPY {REQUIREMENTS} /opt/elasticdl/{REQUIREMENTS}",
            f"RUN {_INSTALL} -c /opt/elasticdl/{CONSTRAINTS} {files}",
        ]
    steps += [
        f"COPY {PACKAGE} /opt/elasticdl/{PACKAGE}",
        f"RUN {_INSTALL} --no-deps /opt/elasticdl/{PACKAGE}/*.whl \\\n"
        " && python3 -m elasticdl.api.image.kernels \\\n"
        ' && (command -v python || ln -s "$(command -v python3)" /usr/local/bin/python)',
        f"USER {user}:{group}",
        'ENTRYPOINT ["python", "-m", "elasticdl.api.pod"]',
    ]
    return "\n".join([*steps, f"COPY {ZOO} {target}", ""])
