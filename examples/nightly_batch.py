"""A batch from cron: what lies in a folder is sent once, and what is done is fetched at a later run.

    NAME.jsonl          yours: one request a line, as docs/api.md says; put it there by a rename
    NAME.jsonl.state    what was sent: the file's id and the batch's
    NAME.out.jsonl      the answers, and NAME.errors.jsonl what could not be answered

Run it as often as you like: each step is noted before the next one, and the key by which a batch is made is its file's
id. A run that was cut between two steps goes on there; a batch is made once. (Cut between an upload and its note, the
file is uploaded again, and the first copy lapses by itself.) The line for `crontab -e`:

    */15 * * * *  cd $HOME/tidegate && OPENAI_BASE_URL=http://127.0.0.1:8400/v1 OPENAI_API_KEY=none .venv/bin/python examples/nightly_batch.py $HOME/batches
"""

import fcntl
import json
import sys
from pathlib import Path

from openai import OpenAI

ROUTE = "/v1/chat/completions"
client = OpenAI()


def write(path: Path, text: str) -> None:
    """All of it or nothing."""
    half = path.with_name(f"{path.name}.half")
    half.write_text(text)
    half.rename(path)


def go_on(asked: Path) -> str:
    """Take one file as far as it goes today; what became of it."""
    note = asked.with_name(f"{asked.name}.state")
    state = json.loads(note.read_text()) if note.exists() else {}
    if state.get("fetched"):
        return "was fetched"
    if "file" not in state:
        state["file"] = client.files.create(file=asked, purpose="batch").id
        write(note, json.dumps(state))
    if "batch" not in state:
        once = {"Idempotency-Key": state["file"]}
        made = client.batches.create(
            input_file_id=state["file"], endpoint=ROUTE, completion_window="24h", extra_headers=once
        )
        state["batch"] = made.id
        write(note, json.dumps(state))
    batch = client.batches.retrieve(state["batch"])
    if batch.status not in {"completed", "failed", "expired", "cancelled"}:
        return batch.status
    for kind, file_id in (("out", batch.output_file_id), ("errors", batch.error_file_id)):
        if file_id:
            write(asked.with_suffix(f".{kind}.jsonl"), client.files.content(file_id).text)
    write(note, json.dumps(state | {"fetched": batch.status}))
    return f"{batch.status}, fetched"


if not sys.argv[1:]:
    sys.exit("usage: nightly_batch.py FOLDER")
folder = Path(sys.argv[1])
with (folder / ".lock").open("w") as lock:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("another run is at work")
    for path in sorted(folder.glob("*.jsonl")):
        if not path.name.endswith((".out.jsonl", ".errors.jsonl")):
            print(f"{path.name}: {go_on(path)}")
