"""LiteLLM's SDK, unmodified, against a gateway: prints what it was told as JSON.

Run by the Python of `.clients`, not by pytest.
"""

import asyncio
import json
import os

import litellm

found = {}
base = {"api_base": os.environ["OPENAI_BASE_URL"], "api_key": os.environ["OPENAI_API_KEY"]}
messages = [{"role": "user", "content": "Say something."}]

whole = litellm.completion(model="openai/stub", messages=messages, **base)
found["whole"] = whole.choices[0].message.content
found["tokens"] = whole.usage.completion_tokens

chunks = litellm.completion(
    model="openai/stub",
    messages=messages,
    stream=True,
    stream_options={"include_usage": True},
    **base,
)
found["streamed"] = ""
for chunk in chunks:
    found["streamed"] += chunk.choices[0].delta.content or ""
    if getattr(chunk, "usage", None):
        found["streamed_tokens"] = chunk.usage.completion_tokens

vectors = litellm.embedding(model="openai/bge-small-en", input=["a door"], **base)
found["dimensions"] = len(vectors.data[0]["embedding"])

response = litellm.responses(model="openai/stub", input="Say something.", **base)
found["response"] = response.output[0].content[0].text


async def several() -> list[str]:
    replies = await asyncio.gather(
        *(litellm.acompletion(model="openai/stub", messages=messages, **base) for _ in range(3))
    )
    return [reply.choices[0].message.content for reply in replies]


found["at_once"] = asyncio.run(several())
try:
    litellm.completion(model="openai/none", messages=messages, **base)
except litellm.NotFoundError as error:
    found["error"] = error.status_code
print(json.dumps(found))
