# What a developer types. Each recipe is one line that calls what CI calls (.ci/run); `just` lists them.
_default:
    @just --list

# Make or renew .venv from the development lock
setup:
    ./vyx test --version

# Everything CI does, in its order
ci:
    .ci/run

# Database, market, web and worker; flags as `vyx up --help` shows them
up *flags:
    ./vyx up {{flags}}

# The test suite, or a part of it: `just test tests/market -q`
test *arguments:
    ./vyx test {{arguments}}

# After each change: format, rules, types, import contracts and one folder's tests: `just check tests/store`
check folder *arguments:
    .ci/check {{folder}} {{arguments}}

# Formatting, rules, types, import contract
lint:
    ./vyx lint

# Let the formatter and the rules' own fixes rewrite the source
format:
    .venv/bin/ruff format . && .venv/bin/ruff check --fix .

# Write the generated schema; CI fails when it is not current
schema:
    ./vyx schema > sql/schema.sql

# Print the OpenAPI document
openapi:
    @./vyx openapi

# One benchmark: `just bench replay --seconds 20`; bench/README.md says what each proves
bench name *arguments:
    .venv/bin/python bench/{{name}}.py {{arguments}}

# Follow the real market, for once
binance *flags:
    ./vyx up --market binance {{flags}}
