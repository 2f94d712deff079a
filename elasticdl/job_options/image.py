"""Options under the heading Image: what the pods of a job are made of."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from elasticdl.job_options.commands import JOB
from elasticdl.options import option

_GROUP = "Image"


class ImageOptions(BaseModel):
    """What the pods of a job are made of."""

    image: str = option(
        "",
        "ready image of the pods, none is built; --model_zoo is then where the zoo is inside it",
        group=_GROUP,
        commands=JOB,
        metavar="IMAGE",
        example="registry.example.com/team/model:1",
        also=("image_name", "docker_image"),
        form="image",
        min_length=1,
    )

    docker_image_repository: str = option(
        "",
        "where images are pushed that are built of --model_zoo",
        group=_GROUP,
        commands=JOB,
        metavar="REGISTRY/PATH",
        example="registry.example.com/team",
        also=("repository", "docker_repository"),
        of_machine=True,
        form="repository",
        min_length=1,
    )

    base_image: str = option(
        "python:3.11-slim",
        "image that those are built upon",
        group=_GROUP,
        commands=JOB,
        metavar="IMAGE",
        example="python:3.11-slim",
        of_machine=True,
        form="image",
        min_length=1,
    )

    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = option(
        "IfNotPresent",
        "when nodes pull the image",
        group=_GROUP,
        commands=JOB,
        metavar="IfNotPresent|Always|Never",
        example="Always",
    )

    image_pull_secret: tuple[str, ...] = option(
        (),
        "secret with which nodes pull the image; may be given several times",
        group=_GROUP,
        commands=JOB,
        metavar="NAME",
        example="registry-login",
        form="items",
        also=("image_pull_secrets",),
        of_machine=True,
    )
