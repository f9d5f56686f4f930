"""The official `openai` package: a chat, a stream, a response that outlives its connection.

OPENAI_BASE_URL=http://127.0.0.1:8400/v1 OPENAI_API_KEY=none MODEL=SmolLM2-135M-Instruct python examples/openai_client.py
"""

import os
import time

from openai import OpenAI

MODEL = os.environ.get("MODEL", "SmolLM2-135M-Instruct")
client = OpenAI()  # the address and the key are in the environment; it obeys Retry-After by itself
question = {"role": "user", "content": "What is the capital of France?"}

answer = client.chat.completions.create(model=MODEL, messages=[question], temperature=0, max_tokens=32)
print("answer:", answer.choices[0].message.content)

print("stream:", end=" ")
for chunk in client.chat.completions.create(model=MODEL, messages=[question], max_tokens=32, stream=True):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()

# In the background it goes on when this process ends; its id is enough to fetch it, for a day.
response = client.responses.create(
    model=MODEL, input="A poem on tides", background=True, max_output_tokens=64
)
while response.status in {"queued", "in_progress"}:
    time.sleep(0.5)
    response = client.responses.retrieve(response.id)
print("poem:", response.status, response.output_text)
