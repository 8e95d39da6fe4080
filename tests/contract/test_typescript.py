"""A TypeScript client generated from the OpenAPI document, and a program that uses it, compile."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.http.application import openapi_document

GENERATOR = "npm:openapi-typescript@7"
PROGRAM = Path(__file__).with_name("client.ts")
DENO = shutil.which("deno", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.skipif(DENO is None, reason="needs deno")
def test_a_program_on_generated_types_compiles(tmp_path):
    (tmp_path / "openapi.json").write_text(json.dumps(openapi_document()))
    shutil.copy(PROGRAM, tmp_path)

    def deno(*arguments):
        return subprocess.run(
            [DENO, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=150, check=False
        )

    made = deno("run", "-A", GENERATOR, "openapi.json", "-o", "openapi.d.ts")
    if not (tmp_path / "openapi.d.ts").exists() and "error sending request" in made.stderr:
        pytest.skip("needs the npm registry, once: the generator comes from there")
    checked = deno("check", "client.ts")

    assert made.returncode == 0, made.stderr
    assert checked.returncode == 0, checked.stderr
