#!/usr/bin/env bash
# Asks a real cluster by HTTP whatever its OpenAPI document allows, and what it does not, and compares
# the answers with the document. It takes at most two minutes, and says so where it cannot be done.
# `.ci/schemathesis.sh [PROGRAM]`: the program is built where none is named. What is asked follows from
# SCHEMATHESIS_SEED (1, so that a change is judged by what it did): try others.
set -euo pipefail
cd "$(dirname "$0")/.."
top="$PWD"

version=4.32.5
target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
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
# What is made up by chance is mostly not there: of keys it is asked in tables that are, without contexts
# (which cannot be made up) and with tags that may be. A request that keeps the document's rules may
# still ask for what the table cannot give (422), for something else than is there (412), leave open
# which siblings it means (428), or give too little time (504). Every line of a batch is answered for
# itself, so that a batch is never wrong. What was deleted under one sort key is there under another.
cat >"$scratch/schemathesis.toml" <<'TOML'
continue-on-failure = true
request-timeout = 30

[checks]
use_after_free.enabled = false
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "504"]
positive_data_acceptance.expected-statuses = ["2xx", "3xx", "401", "403", "404", "409", "412", "422", "428", "504"]

[[operations]]
include-operation-id = "batch"
checks.negative_data_rejection.enabled = false
TOML
curl -sS --fail-with-body -o "$scratch/openapi.json" "$address/v1/openapi.json"
narrowed() {
    python3 - "$scratch/openapi.json" "$1" <<'PYTHON'
import json, sys
path, table = sys.argv[1:]
with open(path) as file:
    document = json.load(file)
parameters = document["components"]["parameters"]
parameters["table"]["schema"] = {"enum": [table]}
parameters["Quoit-Context"]["schema"] = {"enum": [""]}
for name in ["If-Match", "If-None-Match"]:
    parameters[name]["schema"] = {"enum": ["*", '"1.AQID"', 'W/"2j.AQID", "other"']}
print(json.dumps(document))
PYTHON
}
compare() {
    # It keeps notes of what it finds where it runs.
    (cd "$scratch" && SCHEMATHESIS_HOOKS="$top/.ci/schemathesis_hooks.py" "$tool/bin/schemathesis" \
        --config-file schemathesis.toml run --seed "${SCHEMATHESIS_SEED:-1}" --url "$address" "$@")
}
for policy in siblings latest; do
    curl -sS --fail-with-body -o /dev/null -X PUT --json "{\"policy\": \"$policy\"}" "$address/v1/tables/$policy"
    narrowed "$policy" >"$scratch/$policy.json"
    compare --max-time 30 --include-path-regex '/(keys|batch)' "$scratch/$policy.json"
done
compare --max-time 20 --exclude-path-regex '/(keys|batch)' "$scratch/openapi.json"
