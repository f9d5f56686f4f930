"""A receiver of webhooks: verifies the signature, answers at once, works afterwards.

    WEBHOOK_SECRET=whsec_... PORT=9000 python examples/webhook_receiver.py

The API's server needs TIDEGATE_WEBHOOK_SECRET with the same secret, and TIDEGATE_WEBHOOK_ALLOW=127.0.0.1 for a receiver
on its own host; a job says `"webhook": "http://127.0.0.1:9000/told"`. It is signed as standardwebhooks.com says, and
sent again until a 2xx comes: so the same one may come twice, and is known by its `webhook-id`.
"""

import base64
import hmac
import os
import queue
import sys
import threading
import time

from flask import Flask, Request, request

if "WEBHOOK_SECRET" not in os.environ:
    sys.exit("set WEBHOOK_SECRET to the API's TIDEGATE_WEBHOOK_SECRET")
KEY = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))
LATE_SECONDS = 300  # what is older may have been recorded, and be played again

app = Flask(__name__)
todo: "queue.Queue[dict]" = queue.Queue()
seen: set[str] = set()  # keep it in a database where it has to outlive this process


def is_signed(told: Request) -> bool:
    """Whether it comes from who knows the secret, and is fresh."""
    at = told.headers.get("webhook-timestamp", "")
    if not at.isdecimal() or abs(time.time() - int(at)) > LATE_SECONDS:
        return False
    signed = b".".join((told.headers.get("webhook-id", "").encode(), at.encode(), told.get_data()))
    right = "v1," + base64.b64encode(hmac.digest(KEY, signed, "sha256")).decode()
    # Several stand there while a secret is replaced; they are compared in a time that tells nothing.
    theirs = told.headers.get("webhook-signature", "").split()
    return any(hmac.compare_digest(right.encode(), each.encode()) for each in theirs)


@app.post("/told")
def told() -> tuple[str, int]:
    """Take it, and be quick: who answers late is asked again."""
    if not is_signed(request):
        return "not signed", 401
    if request.headers["webhook-id"] not in seen:
        seen.add(request.headers["webhook-id"])
        todo.put(request.get_json())
    return "", 204


def work() -> None:
    """What is done about it, one after another; the result is fetched by the id."""
    while True:
        event = todo.get()
        print(event["type"], event["data"]["id"], flush=True)


threading.Thread(target=work, daemon=True).start()
app.run(port=int(os.environ.get("PORT", "9000")))
