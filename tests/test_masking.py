"""What is kept from people that a job is shown to."""

from __future__ import annotations

import pytest

from elasticdl.masking import masked


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("mysql://joe:s3cret@db.example/t", "mysql://***@db.example/t"),
        ("mysql://joe:s3/cr@et@db.example/t", "mysql://***@db.example/t"),
        ("https://t0ken@host/a,https://b:c@host/d", "https://***@host/a,https://***@host/d"),
        (
            "db='odps://id:key@host', password = 's3cret', n=1",
            "db='odps://***@host', password = ***, n=1",
        ),
        (
            "aws_secret_access_key: AbC, sas_token=x&b=1",
            "aws_secret_access_key: ***, sas_token=***&b=1",
        ),
        ({"db_password": "s3cret", "user": "joe"}, {"db_password": "***", "user": "joe"}),
        (
            "https://s3.example/a?X-Amz-Signature=4a5b&b=1",
            "https://s3.example/a?X-Amz-Signature=***&b=1",
        ),
        ({"params": ["Secret=abc, units=[1, 2]"]}, {"params": ["Secret=***, units=[1, 2]"]}),
    ],
)
def test_users_and_passwords_are_not_shown(given, shown):
    assert masked(given) == shown
    assert masked(shown) == shown, "what was masked before stays so"


@pytest.mark.parametrize(
    "value",
    [
        "http://host:8080/a@b",
        "http://host/a@b",
        "s3://bucket/part@1,/data/a@b",
        "pad_token=0, num_tokens=64, key=3",
        {"password": None, "secrets": ["a"]},
        {"records": 3, "loss": 0.5, "none": None, "is": True},
    ],
)
def test_and_all_else_is_shown_as_it_is(value):
    assert masked(value) == value
