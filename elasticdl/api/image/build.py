"""Builds images by the Docker engine, pushes them, and finds those that are there.

An image is known by its digest from here on: ``REPOSITORY@sha256:…`` is one image for ever, and
what nodes can pull.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elasticdl.api.image.context import Context, make_context
from elasticdl.api.validation import check_zoo
from elasticdl.errors import JobError, UsageError
from elasticdl.job_spec import JobSpec, elasticdl_home
from elasticdl.model.source import ModelSource, read_definition
from elasticdl.model.zoo_sources import Zoo, resolve_zoo

if TYPE_CHECKING:
    import docker

Show = Callable[[str], None]
NAME = "elasticdl"
"""What an image is called in a repository of several."""
_TAG_CHARACTERS = 12
_LINES_OF_FAILURE = 15
_SHOW_EVERY_S = 5.0
_ENGINE_S = 30.0
"""How long an engine has to answer at all."""
_SILENT_S = 1800.0
"""How long it may say nothing: while a step is quiet, or a registry takes a large layer."""
_STEP = re.compile(r"Step (\d+)/(\d+) : (.*)", re.DOTALL)
_MIB = 1 << 20


def image_of_job(spec: JobSpec, show: Show = print) -> str:
    """Find or make the image of a job's pods.

    That is the one that is given; that of the trained model; or one that is built of the zoo, or of
    the copy of it that a trained model of a job without pods has.

    Args:
      show: is told a line now and then.

    Returns:
      ``REPOSITORY@sha256:…``, or what was given where no registry can be asked for it.

    Raises:
      UsageError: there is none, and none can be built.
      JobError: it cannot be built or pushed.
    """
    if spec.image:
        try:
            return digest_of(spec.image)
        except UsageError as error:
            show(f"{error}; nodes pull {spec.image} by this name, and it may change meanwhile")
            return spec.image
    if spec.trained_model is not None:
        try:
            if trained_in := image_of_trained_model(spec.trained_model):
                return trained_in
            zoo = Zoo(Path(ModelSource.of_trained_model(spec.trained_model).model_zoo))
        except UsageError as error:
            raise UsageError(
                f"{error}; where only pods can read it, give --image: what it was trained in"
            ) from None
    else:
        assert spec.model_zoo is not None
        zoo = resolve_zoo(spec.model_zoo, elasticdl_home())
        check_zoo(spec.model_copy(update={"model_zoo": str(zoo.directory)}))
    built_as(spec)
    assert spec.docker_image_repository is not None
    return build_image(zoo, spec.docker_image_repository, spec.base_image, show=show)


def built_as(spec: JobSpec) -> str:
    """Name the image that is built for a job which has none, without tag or digest.

    Raises:
      UsageError: nobody said where it is pushed to.
    """
    if not spec.docker_image_repository:
        raise UsageError(
            "docker_image_repository: not given, and an image has to be built; give where it is "
            "pushed to, e.g. --docker_image_repository=registry.example.com/team, or --image"
        )
    return _name_in(spec.docker_image_repository, NAME)


def _name_in(repository: str, name: str) -> str:
    return f"{repository.rstrip('/')}/{name}"


def build_image(
    zoo: Zoo, repository: str, base_image: str, name: str = NAME, show: Show = print
) -> str:
    """Build an image of a zoo and push it.

    Args:
      zoo: the models.
      repository: where to, e.g. ``registry.example.com/team``.
      base_image: what it is built upon, unless the zoo has a ``Dockerfile``.
      name: of the image, in that repository; its tag is made of its content.
      show: is told a line now and then.

    Returns:
      ``REPOSITORY/NAME@sha256:…``

    Raises:
      UsageError: there is no Docker engine, or the zoo cannot be in an image.
      JobError: it cannot be built or pushed, and why.
    """
    with _engine("give --image") as engine:
        image = _build(engine, make_context(zoo, base_image), _labels(zoo), show)
        target = _name_in(repository, name)
        tag = image.removeprefix("sha256:")[:_TAG_CHARACTERS]
        engine.api.tag(image, target, tag)
        return _push(engine, target, tag, show)


def build_local_image(zoo: Zoo, image: str, base_image: str, show: Show = print) -> None:
    """Build an image of a zoo under a name, and push nothing.

    Raises:
      UsageError, JobError: as `build_image`.
    """
    repository, tag = _repository_and_tag(image)
    with _engine() as engine:
        built = _build(engine, make_context(zoo, base_image), _labels(zoo), show)
        engine.api.tag(built, repository, tag)


def push_image(image: str, show: Show = print) -> str:
    """Push an image that was built; return ``REPOSITORY@sha256:…``.

    Raises:
      UsageError: there is no Docker engine, or it has no such image.
      JobError: it cannot be pushed, and why.
    """
    import docker.errors

    repository, tag = _repository_and_tag(image)
    with _engine() as engine:
        try:
            engine.images.get(image)
        except docker.errors.ImageNotFound:
            raise UsageError(
                f"image '{image}': the Docker engine has none of this name; "
                f"elasticdl zoo build --image={image} builds it"
            ) from None
        return _push(engine, repository, tag, show)


def digest_of(image: str) -> str:
    """Ask an image's registry for its digest; return ``REPOSITORY@sha256:…``.

    Raises:
      UsageError: there is no Docker engine to ask it, or the registry has no such image.
    """
    import docker.errors

    if "@sha256:" in image:
        return image
    repository, _ = _repository_and_tag(image)
    with _engine() as engine:
        try:
            found = engine.api.inspect_distribution(image)
        except docker.errors.APIError as error:
            raise UsageError(f"image '{image}': {_line_of(error)}") from None
    return f"{repository}@{found['Descriptor']['digest']}"


def image_of_trained_model(path: str) -> str | None:
    """The image that a trained model was trained in; none where it was no job of pods.

    Raises:
      UsageError: there is no trained model.
    """
    return read_definition(path).docker_commit_id or None


@contextmanager
def _engine(instead: str = "") -> Iterator[docker.DockerClient]:
    """The Docker engine of this machine.

    Args:
      instead: what whoever has none may do.
    """
    other = f", or {instead}" if instead else ""
    try:
        import docker
        import docker.errors
        from requests.exceptions import RequestException
    except ImportError:
        raise UsageError(
            "the package docker is not installed; pip install 'elasticdl[kubernetes]' brings it"
            f"{other}"
        ) from None
    try:
        engine = docker.from_env(timeout=_ENGINE_S)
        engine.ping()
        engine.api.timeout = int(_SILENT_S)
    except docker.errors.DockerException as error:
        raise UsageError(
            f"no Docker engine: {_line_of(error)}; start it, or set DOCKER_HOST{other}"
        ) from None
    try:
        yield engine
    except (docker.errors.DockerException, RequestException) as error:
        raise JobError(f"the Docker engine: {_line_of(error)}") from None
    finally:
        engine.close()


def _labels(zoo: Zoo) -> Mapping[str, str]:
    if not zoo.commit:
        return {}
    prefix = "org.opencontainers.image"
    return {f"{prefix}.source": zoo.origin, f"{prefix}.revision": zoo.commit}


def _build(
    engine: docker.DockerClient, context: Context, labels: Mapping[str, str], show: Show
) -> str:
    """Build an image without a name; return its id."""
    for path in context.left_out:
        show(f"left out of the image, as data is: {path} ({path.stat().st_size / _MIB:.0f} MiB)")
    # Without a network of its own an engine gives a build none, and nothing could be installed.
    has_bridge = any(one.name == "bridge" for one in engine.networks.list())
    said = engine.api.build(
        fileobj=io.BytesIO(context.archive),
        custom_context=True,
        decode=True,
        rm=True,
        forcerm=True,
        timeout=int(_SILENT_S),  # Else it would wait for ever.
        labels=dict(labels),
        network_mode=None if has_bridge else "host",
        use_config_proxy=True,
    )
    image = ""
    lines: list[str] = []
    for one in said:
        text = str(one.get("stream", ""))
        if step := _STEP.match(text):
            what = " ".join(step[3].split())
            show(f"building the image, step {step[1]} of {step[2]}: {what[:100]}")
        lines += [line for line in text.splitlines() if line.strip()]
        if "error" in one:
            last = "\n".join(lines[-_LINES_OF_FAILURE:])
            raise JobError(f"the image cannot be built: {str(one['error']).strip()}\n{last}")
        image = one.get("aux", {}).get("ID", image)
    if not image:
        raise JobError("the image cannot be built: the Docker engine named none")
    return image


def _push(engine: docker.DockerClient, repository: str, tag: str, show: Show) -> str:
    """Push an image of a name; return it with its digest."""
    show(f"pushing {repository}:{tag}")
    digest = ""
    layers: dict[str, tuple[int, int]] = {}
    next_line = time.monotonic() + _SHOW_EVERY_S
    for one in engine.api.push(repository, tag, stream=True, decode=True):
        if "error" in one:
            why = str(one["error"]).strip()
            raise JobError(f"{repository}:{tag} cannot be pushed: {why}")
        progress: dict[str, Any] = one.get("progressDetail") or {}
        if progress.get("total"):
            layers[one["id"]] = (progress.get("current", 0), progress["total"])
        if layers and time.monotonic() >= next_line:
            done, total = (sum(each) // _MIB for each in zip(*layers.values(), strict=True))
            show(f"pushing {repository}:{tag}: {done} of {total} MiB")
            next_line = time.monotonic() + _SHOW_EVERY_S
        digest = one.get("aux", {}).get("Digest", digest)
    if not digest:
        raise JobError(f"{repository}:{tag} was pushed, and the registry named no digest")
    show(f"pushed {repository}@{digest}")
    return f"{repository}@{digest}"


def _repository_and_tag(image: str) -> tuple[str, str]:
    """Take ``HOST:PORT/PATH:TAG`` apart; the tag is ``latest`` where none is given."""
    repository, colon, tag = image.rpartition(":")
    if not colon or "/" in tag:  # The colon of a port.
        return image, "latest"
    return repository, tag


def _line_of(error: Exception) -> str:
    """What an error of the engine says, in one line."""
    text = str(getattr(error, "explanation", None) or error)
    return " ".join(text.split())[:300]
