"""LangChain's ChatOpenAI on the same queue: a call, a stream, a tool that must be called, an object of a schema.

OPENAI_BASE_URL=http://127.0.0.1:8400/v1 OPENAI_API_KEY=none MODEL=SmolLM2-135M-Instruct python examples/langchain_chat.py
"""

import os
from typing import Literal

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

chat = ChatOpenAI(model=os.environ.get("MODEL", "SmolLM2-135M-Instruct"), max_tokens=400, temperature=0)

print("invoke:", chat.invoke("What is the capital of France?", max_tokens=32).text)

print("stream:", end=" ")
for chunk in chat.stream("What is the capital of France?", max_tokens=32):
    print(chunk.text, end="", flush=True)
print()


@tool
def weather(place: Literal["Paris", "Rome"]) -> str:
    """Tells the weather of a place."""
    return f"It rains in {place}."


called = chat.bind_tools([weather], tool_choice="weather").invoke("Is it raining in Paris?")
for call in called.tool_calls:  # a small model may name arguments that the tool ignores
    print("tool:", call["name"], call["args"], weather.invoke(call["args"]))


class Capital(BaseModel):
    """A capital."""

    city: Literal["Paris", "Rome"]
    sure: bool


# "json_schema" is imposed token by token; the model cannot leave the form.
print(
    "object:",
    repr(chat.with_structured_output(Capital, method="json_schema").invoke("The capital of France?")),
)
