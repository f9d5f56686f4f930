#!/bin/sh
# A job by curl alone: submit it, wait for it, stream it, cancel another.
#   API=http://127.0.0.1:8400 MODEL=SmolLM2-135M-Instruct sh examples/curl.sh
set -eu
api=${API:-http://127.0.0.1:8400}
model=${MODEL:-SmolLM2-135M-Instruct}
key=${OPENAI_API_KEY:-none}  # where there are no keys, any word will do

# --retry obeys Retry-After, which every 429 and 503 has. The key makes trying again safe: whatever answer was lost, one
# job is made. Nothing else here needs it, so the other calls do without.
submit() {
  answer=$(curl --no-progress-meter --fail --retry 8 --retry-max-time 300 \
    "$api/v1/jobs" -H "Authorization: Bearer $key" -H 'Content-Type: application/json' \
    -H "Idempotency-Key: $(python3 -c 'import uuid; print(uuid.uuid4())')" -d "$1") &&
    printf %s "$answer" | python3 -c 'import json, sys; print(json.load(sys.stdin)["id"])'
}

ask() { curl --no-progress-meter -H "Authorization: Bearer $key" "$@"; }

job=$(submit "{\"model\": \"$model\", \"prompt\": \"Once upon a time\", \"max_tokens\": 40}")
echo "submitted $job"

# Holds the answer back until something changes, for 30 s at most: no busy polling.
until ask "$api/v1/jobs/$job?wait=30" | grep -Eq '"status": ?"(completed|incomplete|failed|cancelled)"'; do :; done
ask "$api/v1/jobs/$job/result"
echo

echo "its stream, from the beginning:"
ask -N "$api/v1/jobs/$job/stream"

job=$(submit "{\"model\": \"$model\", \"prompt\": \"Once more\", \"max_tokens\": 2000}")
echo "cancelled $job:"
ask -X POST "$api/v1/jobs/$job/cancel"
echo
