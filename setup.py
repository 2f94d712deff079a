"""Build hooks: the protobuf code is made from elasticdl/proto/*.proto, never committed.

Everything declarative is in pyproject.toml. ``python setup.py build_proto`` regenerates the code
in place; ``pip install .``, ``pip install -e .`` and the building of a wheel do so by themselves.

The dependencies are in here for one choice: which of TensorFlow's distributions is asked for,
by the environment variable ELASTICDL_TENSORFLOW (cpu, gpu or none) when the package is built.
"""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import Command, setup
from setuptools.command.build import build

ROOT = Path(__file__).resolve().parent
PROTO_DIR = Path("elasticdl") / "proto"

# One line of reason for each: docs/decisions/dependencies.md
DEPENDENCIES = [
    "cramjam>=2.9,<3",
    "isal>=1.7,<2",
    "grpcio>=1.78,<2",
    "keras>=3.12,<4",
    "numba>=0.61,<0.70",
    "numpy>=2.0,<3",
    "packaging>=24,<27",
    "protobuf>=6.31.1,<8",
    "psutil>=6,<8",
    "pyarrow>=21,<27",
    "pydantic>=2.9,<3",
    "pyyaml>=6.0.1,<7",
    "rich>=13.7,<16",
    "starlette>=1.0,<2",
    "uvicorn>=0.34,<0.60",
]
# What works with this package; never two of them side by side in one environment.
TENSORFLOW = {
    # The CPU distribution exists where this marker holds; elsewhere `tensorflow` is that build.
    "cpu": [
        "tensorflow-cpu>=2.20,<2.22; sys_platform == 'linux' and platform_machine == 'x86_64'",
        "tensorflow>=2.20,<2.22; sys_platform != 'linux' or platform_machine != 'x86_64'",
    ],
    "gpu": ["tensorflow[and-cuda]>=2.20,<2.22"],
    "none": [],  # the environment brings its own
}


def dependencies() -> list[str]:
    """List what an installation needs, TensorFlow as ELASTICDL_TENSORFLOW says."""
    choice = os.environ.get("ELASTICDL_TENSORFLOW", "cpu")
    if choice not in TENSORFLOW:
        raise SystemExit(f"ELASTICDL_TENSORFLOW '{choice}': not one of {', '.join(TENSORFLOW)}")
    return DEPENDENCIES + TENSORFLOW[choice]


def generate(output_root: Path) -> list[str]:
    """Run protoc over every .proto file.

    Args:
      output_root: where the ``elasticdl/proto/*_pb2*.py[i]`` files go.

    Returns:
      the generated files, relative to ``output_root``.
    """
    import grpc_tools
    from grpc_tools import protoc

    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / PROTO_DIR).glob("*.proto"))
    output_root.mkdir(parents=True, exist_ok=True)
    arguments = [
        "protoc",
        f"--proto_path={ROOT}",
        f"--proto_path={Path(grpc_tools.__file__).parent / '_proto'}",
        f"--python_out={output_root}",
        f"--pyi_out={output_root}",
        f"--grpc_python_out={output_root}",
        *sources,
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit(f"protoc failed on {PROTO_DIR}/*.proto; its message is above")
    return generated_files()


def generated_files() -> list[str]:
    """Name what protoc makes of the .proto files, relative to the output's root."""
    return [
        str(PROTO_DIR / f"{path.stem}{suffix}")
        for path in sorted((ROOT / PROTO_DIR).glob("*.proto"))
        for suffix in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")
    ]


class BuildProto(Command):
    """Generate the protobuf code: into the build, or in place for an editable install."""

    description = "generate Python code from elasticdl/proto/*.proto"
    user_options = [("build-lib=", "b", "write into this directory instead of the source tree")]

    def initialize_options(self) -> None:
        self.build_lib: str | None = None
        # setuptools sets this for `pip install -e .`. A plain `setup.py build_proto` is in place
        # too; inside a `build` the files go to its build directory.
        self.editable_mode = False

    def finalize_options(self) -> None:
        if not self.editable_mode and self.distribution.have_run.get("build") is not None:
            self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def run(self) -> None:
        generate(ROOT if self.editable_mode or self.build_lib is None else Path(self.build_lib))

    def get_source_files(self) -> list[str]:
        return [str(p.relative_to(ROOT)) for p in sorted((ROOT / PROTO_DIR).glob("*.proto"))]

    def get_outputs(self) -> list[str]:
        if self.editable_mode or self.build_lib is None:
            return []
        return [str(Path(self.build_lib) / name) for name in generated_files()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class Build(build):
    """The standard build with the protobuf code as its last step."""

    sub_commands = [*build.sub_commands, ("build_proto", None)]


setup(install_requires=dependencies(), cmdclass={"build": Build, "build_proto": BuildProto})
