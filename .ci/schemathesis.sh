#!/usr/bin/env bash
# Asks a real cluster by HTTP whatever its OpenAPI document allows, and what it does not, and compares
# the answers with the document. It takes at most two minutes, and says so where it cannot be done.
# `.ci/schemathesis.sh [PROGRAM]`: the program is built where none is named.
set -euo pipefail
cd "$(dirname "$0")/.."

version=4.32.5
seconds=45
target="${CARGO_TARGET_DIR:-target}"
tool="$target/schemathesis-$version"
if [ ! -x "$tool/bin/schemathesis" ]; then
    { python3 -m venv "$tool" && "$tool/bin/pip" install -q "schemathesis==$version"; } \
        || { rm -rf "$tool"; echo "schemathesis cannot be installed here: HTTP was NOT compared with its document"; exit 0; }
fi
program="${1:-}"
if [ -z "$program" ]; then
    cargo build -p quoit-node
    program="$target/debug/quoit"
fi

scratch="$(mktemp -d)"
up=
finish() {
    if [ -n "$up" ]; then
        kill -INT "$up" 2>/dev/null || true
        wait "$up" || true
    fi
    rm -rf "$scratch"
}
trap finish EXIT

# Three ports in a row, and three a hundred above.
port="$(python3 - <<'PYTHON'
import random, socket
def is_free(port):
    for kind, at in [(socket.SOCK_DGRAM, port), (socket.SOCK_STREAM, port + 100)]:
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", at))
            except OSError:
                return False
    return True
print(next(p for p in iter(lambda: random.randrange(10_000, 30_000), None) if all(is_free(p + i) for i in range(3))))
PYTHON
)"
"$program" up --dir "$scratch/data" --base-port "$port" --vnodes 64 >"$scratch/up.txt" 2>&1 &
up=$!
for _ in $(seq 600); do
    grep -q 'Ctrl-C stops' "$scratch/up.txt" && break
    kill -0 "$up" || { cat "$scratch/up.txt"; exit 1; }
    sleep 0.1
done
address="http://127.0.0.1:$((port + 100))"
for options in '{"policy": "siblings"}' '{"policy": "latest"}'; do
    table="$(sed 's/.*: "\(.*\)".*/\1/' <<<"$options")"
    curl -sS --fail-with-body -o /dev/null -X PUT --json "$options" "$address/v1/tables/$table"
    # Tables made by chance are empty: what concerns keys is asked of a table that is there. A context
    # cannot be made up. A request that keeps the document's rules may still ask for what the table
    # cannot give (422), for something else than is there (412), or leave open which siblings it
    # means (428). Every line of a batch is answered for itself, so that a batch is never wrong.
    cat >"$scratch/schemathesis.toml" <<TOML
max-time = $seconds
workers = 2
continue-on-failure = true
request-timeout = 30

[checks]
positive_data_acceptance.expected-statuses = ["2xx", "3xx", "401", "403", "404", "409", "412", "422", "428"]

[[operations]]
include-path-regex = "/(keys|batch)"
parameters = { "path.table" = "$table", "header.Quoit-Context" = "" }

[[operations]]
include-operation-id = "batch"
checks.negative_data_rejection.enabled = false
TOML
    "$tool/bin/schemathesis" --config-file "$scratch/schemathesis.toml" run "$address/v1/openapi.json"
done
