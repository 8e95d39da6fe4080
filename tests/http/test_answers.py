"""What is answered is what the OpenAPI document says, and what the examples in it say can be sent."""

from __future__ import annotations

import jsonschema
import pytest

from app.http.application import openapi_document
from app.http.openapi_examples import EXAMPLES

DOCUMENT = openapi_document()


def check(value, schema):
    whole = {**schema, "components": DOCUMENT["components"]}
    jsonschema.Draft202012Validator(whole).validate(value)


def schema_of(method, path, response):
    answers = DOCUMENT["paths"][path][method.lower()]["responses"]
    media_type = response.headers["content-type"].split(";")[0]
    return answers[str(response.status_code)]["content"][media_type]["schema"]


def test_every_schema_is_one():
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_of_its_schema(name):
    check(EXAMPLES[name], {"$ref": f"#/components/schemas/{name}"})


async def test_answers_are_of_their_schemas(http, user, make_trader, add_signal, make_user):
    trader = make_trader(user)
    add_signal(user, trader)
    foreign = make_trader(make_user())
    calls = [
        ("GET", "/api/v1/traders", {}, None),
        ("POST", "/api/v1/traders", {}, {"name": "n", "filter": "odd"}),
        ("POST", "/api/v1/traders", {}, {"name": "n", "filter": "broken"}),
        ("POST", "/api/v1/traders", {}, {"name": ""}),
        ("GET", "/api/v1/traders/{trader_id}", {"trader_id": trader}, None),
        ("GET", "/api/v1/traders/{trader_id}", {"trader_id": foreign}, None),
        ("PATCH", "/api/v1/traders/{trader_id}", {"trader_id": trader}, {"name": "m"}),
        ("POST", "/api/v1/traders/{trader_id}/start", {"trader_id": trader}, None),
        ("GET", "/api/v1/traders/active", {}, None),
        ("GET", "/api/v1/traders/{trader_id}/status", {"trader_id": trader}, None),
        ("GET", "/api/v1/traders/{trader_id}/coverage", {"trader_id": trader}, None),
        ("POST", "/api/v1/traders/stop", {}, {"ids": [str(trader), str(foreign)]}),
        ("POST", "/api/v1/traders/start", {}, {"ids": None}),
        ("GET", "/api/v1/signals", {}, None),
        ("GET", "/api/v1/me", {}, None),
        ("GET", "/api/v1/tiers", {}, None),
        ("POST", "/api/v1/keys", {}, {"name": "k", "scopes": ["read"]}),
        ("GET", "/api/v1/keys", {}, None),
        ("GET", "/api/v1/me/export", {}, None),
        ("GET", "/api/v1/market/symbols", {}, None),
        ("GET", "/api/v1/destinations", {}, None),
        ("GET", "/health", {}, None),
        ("GET", "/health/live", {}, None),
        ("GET", "/health/ready", {}, None),
    ]
    for method, path, ids, body in calls:
        response = await http.request(method, path.format(**ids), json=body, headers=user.headers)
        check(response.json(), schema_of(method, path, response))


async def test_the_document_is_one_that_tools_read():
    import schemathesis

    read = schemathesis.openapi.from_dict(DOCUMENT)

    assert len(list(read.get_all_operations())) == sum(map(len, DOCUMENT["paths"].values()))
